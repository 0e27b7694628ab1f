"""The comparison with transformers is itself tested: every seeded bug must be seen in every model that it touches.

Here what all types share: attention, norms, RoPE, feed-forwards, experts, the losses. What only some of them have is in
test_seeded_bugs_family.py and test_seeded_bugs_delta.py.
"""

import pytest
import torch
from torch import Tensor

from qwill.model import ops, transformer
from qwill.model.transformer import Transformer

from .parity import CASES, differences, load
from .seeded import (
    Bug,
    Where,
    assert_caught,
    attentions,
    bias_in,
    biased,
    everywhere,
    grouped,
    normed,
    reconfigure,
    routed,
    routed_twice,
    sparse,
    square,
    untied,
)


def eps(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    for m in model.modules():
        if hasattr(m, "eps"):
            m.eps = m.eps * 1.05


def attention_scale(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.scaled_dot_product_attention
    patch.setattr(ops, "scaled_dot_product_attention", lambda *a, **k: real(*a, **k, scale=0.3))


def no_causal_mask(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.scaled_dot_product_attention
    patch.setattr(ops, "scaled_dot_product_attention", lambda *a, **k: real(*a, **(k | {"is_causal": False})))


def mask_off_by_one(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.scaled_dot_product_attention

    def shifted(q: Tensor, k: Tensor, v: Tensor, **rest: object) -> Tensor:
        t = q.shape[2]
        mask = torch.ones(t, t).tril(1).log()
        return real(q, k, v, attn_mask=mask, enable_gqa=bool(rest["enable_gqa"]))

    patch.setattr(ops, "scaled_dot_product_attention", shifted)


def query_heads_interleaved(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.scaled_dot_product_attention

    def reordered(q: Tensor, k: Tensor, v: Tensor, **rest: object) -> Tensor:
        order = torch.arange(q.shape[1]).view(k.shape[1], -1).T.reshape(-1)
        return real(q[:, order], k, v, **rest)[:, order.argsort()]

    patch.setattr(ops, "scaled_dot_product_attention", reordered)


def swap_halves(parameter: str) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        for name, p in model.named_parameters():
            if parameter in name and "down" not in name:
                p.data = torch.cat(p.data.chunk(2, dim=-2)[::-1], dim=-2)

    return bug


def swap_keys_and_values(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    c = model.config
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    for m in attentions(model):
        w = m.qkv_proj.weight
        w.data = torch.cat([w.data[:q], w.data[q + kv : q + 2 * kv], w.data[q : q + kv], w.data[q + 2 * kv :]])


def norm_offset(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.layers[1].input_layernorm.weight.data += 1e-3


def swap_q_and_k_norm(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    a = attentions(model)[0]
    a.q_norm, a.k_norm = a.k_norm, a.q_norm


def no_qk_norm(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    for m in attentions(model):
        m.q_norm = m.k_norm = None


def rope_interleaved(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = rope[0][:, None], rope[1][:, None]
        a, b, rest = x[..., : 2 * cos.shape[-1] : 2], x[..., 1 : 2 * cos.shape[-1] : 2], x[..., 2 * cos.shape[-1] :]
        return torch.cat([torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2), rest], -1)

    patch.setattr(ops, "rotate", wrong)


def rope_backwards(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.rope_tables
    patch.setattr(ops, "rope_tables", lambda *a: (real(*a)[0], -real(*a)[1]))


def rope_wrong_denominator(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.rope_tables
    patch.setattr(ops, "rope_tables", lambda p, k, theta, *a: real(p, k, theta ** (k / (k - 2)), *a))


def norm_after_rope(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    def wrong(
        qkv: Tensor, qw: Tensor, kw: Tensor, rope: tuple[Tensor, Tensor], h: int, g: int, eps: float, centred: bool
    ) -> object:
        q, k, v = qkv.unflatten(1, (h + 2 * g, -1)).split([h, g, g], dim=1)
        q, k = ops.rotate(q, rope), ops.rotate(k, rope)
        return ops.rms_norm(q, qw, eps, centred), ops.rms_norm(k, kw, eps, centred), v

    patch.setattr(ops, "qk_norm_rope", wrong)


def positions_from_one_stretched(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.rope_tables
    patch.setattr(ops, "rope_tables", lambda p, *a: real(2 * p, *a))


def drop_residual(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real, skipped = ops.add_rms_norm, model.layers[1].input_layernorm.weight

    def wrong(x: Tensor, delta: Tensor | None, w: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
        return real(torch.zeros_like(x) if w is skipped else x, delta, w, eps, centred)

    patch.setattr(ops, "add_rms_norm", wrong)


def no_final_norm(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.add_rms_norm

    def wrong(x: Tensor, delta: Tensor | None, w: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
        total, after = real(x, delta, w, eps, centred)
        return total, total if w is model.norm.weight else after

    patch.setattr(ops, "add_rms_norm", wrong)


def head_from_embedding(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.lm_head = None


def scaled_embedding(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.embed_tokens.register_forward_hook(lambda m, i, out: out * 24**0.5)


def no_output_bias(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    attentions(model)[-1].o_proj.bias.data.zero_()


def no_bias_of(part: int) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        c = model.config
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        start, size = [(0, q), (q, kv), (q + kv, kv)][part]
        attentions(model)[0].qkv_proj.bias.data[start : start + size] = 0

    return bug


def transposed(parameter: str) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        for name, p in model.named_parameters():
            if parameter in name:
                width = p.shape[-1]
                p.data = torch.cat([square.T for square in p.data.split(width)])

    return bug


def queries_one_position_ahead(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real, heads, kv_heads = ops.rotate, model.config.num_attention_heads, model.config.num_key_value_heads
    one = ops.rope_tables(torch.ones(1), model.config.rotary_dim, model.config.rope_theta, torch.float32)
    turn = iter(range(10**9))

    def wrong(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        assert x.shape[1] in (heads, kv_heads)
        return real(real(x, rope), one) if next(turn) % 2 == 0 else real(x, rope)

    patch.setattr(ops, "rotate", wrong)


def eps_outside_the_root(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, weight: Tensor, eps: float, centred: bool) -> Tensor:
        return (weight + centred) * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps)

    patch.setattr(ops, "rms_norm", wrong)


def layer_norm(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.rms_norm
    patch.setattr(ops, "rms_norm", lambda x, w, *a: real(x - x.mean(-1, keepdim=True), w, *a))


def norm_over_all_heads(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, weight: Tensor, eps: float, centred: bool) -> Tensor:
        axes = tuple(range(1, x.ndim))
        return (weight + centred) * x * torch.rsqrt(x.pow(2).mean(axes, keepdim=True) + eps)

    patch.setattr(ops, "rms_norm", wrong)


def sigmoid_router(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "softmax", lambda x, dim: torch.sigmoid(x))


def gelu(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ops, "silu", torch.nn.functional.gelu)


def layers_swapped(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.layers[0], model.layers[1] = model.layers[1], model.layers[0]


def toggle_renormalise(m: transformer.Experts) -> None:
    m.renormalise = not m.renormalise


def one_expert_less(m: transformer.Experts) -> None:
    m.top_k -= 1


def experts_in_other_order(m: transformer.Experts) -> None:
    m.down.data = m.down.data.flip(0)


def router_without_gradient(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.experts
    patch.setattr(ops, "experts", lambda x, a, b, w, c: real(x, a, b, w.detach(), c))


def weights_on_input(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.experts
    patch.setattr(ops, "experts", lambda x, a, b, w, c: real(x, a, b, w.flip(-1), c))


def balance_for_each_layer(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transformer, "pooled_balancing_loss", transformer.balancing_loss)


def balance_without_gradient(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = transformer.pooled_balancing_loss
    patch.setattr(transformer, "pooled_balancing_loss", lambda s: real(s).detach().requires_grad_())


def loss_weights_ignored_in_gradient(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.cross_entropy

    def wrong(h: Tensor, w: Tensor, t: Tensor, weight: Tensor, chunk: int = 9) -> tuple[Tensor, Tensor]:
        flat, losses = real(h, w, t, torch.full_like(weight, float(weight.mean())), chunk=chunk)
        total = real(h.detach(), w.detach(), t, weight, chunk=chunk)[0]
        return flat + (total - flat).detach(), losses

    patch.setattr(ops, "cross_entropy", wrong)


BUGS: list[tuple[str, Where, Bug]] = [
    ("rms_norm_eps", everywhere, eps),
    ("eps outside the root", everywhere, eps_outside_the_root),
    ("mean subtracted in the norm", everywhere, layer_norm),
    ("q/k norm over all heads together", normed, norm_over_all_heads),
    ("attention scale", everywhere, attention_scale),
    ("no causal mask", everywhere, no_causal_mask),
    ("mask off by one", everywhere, mask_off_by_one),
    ("query heads interleaved over key heads", grouped, query_heads_interleaved),
    ("gate and up swapped", everywhere, swap_halves("mlp.gate_up")),
    ("keys and values swapped", everywhere, swap_keys_and_values),
    ("rope theta", everywhere, reconfigure(lambda c: c.with_(rope_theta=310.0))),
    ("rope interleaved", everywhere, rope_interleaved),
    ("rope backwards", everywhere, rope_backwards),
    ("rope denominator", everywhere, rope_wrong_denominator),
    ("positions stretched", everywhere, positions_from_one_stretched),
    ("queries one position ahead", everywhere, queries_one_position_ahead),
    ("norm weight offset", everywhere, norm_offset),
    ("q and k norm swapped", normed, swap_q_and_k_norm),
    ("no q/k norm", normed, no_qk_norm),
    ("norm after rope", normed, norm_after_rope),
    ("residual dropped", everywhere, drop_residual),
    ("final norm skipped", everywhere, no_final_norm),
    ("untied head ignored", untied, head_from_embedding),
    ("embedding scaled", everywhere, scaled_embedding),
    ("bias of the output projection dropped", biased, no_output_bias),
    ("bias of the queries dropped", bias_in, no_bias_of(0)),
    ("bias of the keys dropped", bias_in, no_bias_of(1)),
    ("bias of the values dropped", bias_in, no_bias_of(2)),
    ("down projection transposed", square, transposed("mlp.down_proj")),
    ("gate and up transposed", square, transposed("mlp.gate_up_proj")),
    ("output projection transposed", square, transposed("o_proj")),
    ("q, k, v transposed", square, transposed("qkv_proj")),
    ("gelu for silu", everywhere, gelu),
    ("layers swapped", everywhere, layers_swapped),
    ("renormalisation of top-k the other way", routed, sparse(toggle_renormalise)),
    ("sigmoid for softmax in the router", routed, sigmoid_router),
    ("one expert too few", routed, sparse(one_expert_less)),
    ("experts in another order", routed, sparse(experts_in_other_order)),
    ("weights of the wrong experts", routed, weights_on_input),
]
SEEN_IN_LOSSES: list[tuple[str, Where, Bug, str]] = [
    ("router gets no gradient", routed, router_without_gradient, "gradient of"),
    ("balancing loss of each layer", routed_twice, balance_for_each_layer, "balancing loss"),
    ("balancing loss without gradient", routed, balance_without_gradient, "gradient of"),
    ("loss weights missing from the gradient", everywhere, loss_weights_ignored_in_gradient, "gradient of"),
]


@pytest.mark.parametrize(("name", "where", "bug"), BUGS, ids=[b[0] for b in BUGS])
def test_is_caught_in_every_model_that_it_touches(
    name: str, where: Where, bug: Bug, monkeypatch: pytest.MonkeyPatch, one_thread_without_kernels: None
) -> None:
    assert_caught(name, where, bug, monkeypatch)


@pytest.mark.parametrize(("name", "where", "bug", "seen"), SEEN_IN_LOSSES, ids=[b[0] for b in SEEN_IN_LOSSES])
def test_what_leaves_logits_alone_is_caught(
    name: str, where: Where, bug: Bug, seen: str, monkeypatch: pytest.MonkeyPatch, one_thread_without_kernels: None
) -> None:
    assert_caught(name, where, bug, monkeypatch, seen)


def test_a_patch_alone_is_no_bug(monkeypatch: pytest.MonkeyPatch, one_thread_without_kernels: None) -> None:
    names = ("rms_norm", "add_rms_norm", "rope_tables", "rotate", "qk_norm_rope", "experts", "cross_entropy", "silu")
    for name in (*names, "scaled_dot_product_attention"):
        real = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, real=real, **k: real(*a, **k))
    for case in CASES:
        model = load(case)
        for p in model.parameters():
            p.data = p.data.clone()
        assert list(differences(case, model)) == []
