"""Parity with transformers 5.23.0 on tiny models in which every parameter was redrawn, and proof that it would notice."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwill.model import ops, transformer
from qwill.model.batch import Batch
from qwill.model.cache import KVCache
from qwill.model.files import load_model, save_model
from qwill.model.transformer import Transformer

from .parity import CASES, RECORD, SPARSE, differences, load, said


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    ops.use_native(True)


@pytest.mark.parametrize("native", [False, True], ids=["pytorch", "native"])
@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, native: bool) -> None:
    ops.use_native(native)
    assert differences(case, load(case)) == []


@pytest.mark.parametrize("case", CASES)
def test_the_record_is_not_trivial(case: str) -> None:
    _, record = said(case)
    assert record["logit_std"] >= 1 and record["sharpest_attention"] > 5 / 17
    if case in SPARSE:
        assert record["router_margin"] > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_saving_gives_back_what_transformers_wrote(case: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_model(load(case), tmp_path)
    mine, theirs = load_file(tmp_path / "model.safetensors"), load_file(RECORD / case / "model.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert differences(case, load_model(tmp_path)) == []


# Seeded bugs. Each is a change to a good model or to an operation; the comparison must notice every one.
Bug = Callable[[Transformer, pytest.MonkeyPatch], None]


def reconfigure(**changes: object) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        model.config = model.config.with_(**changes)

    return bug


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
        return real(q, k, v, attn_mask=mask, enable_gqa=True)

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
    for layer in model.layers:
        w = layer.self_attn.qkv_proj.weight
        w.data = torch.cat([w.data[:q], w.data[q + kv :], w.data[q : q + kv]])


def norm_offset(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.layers[1].input_layernorm.weight.data += 1e-3


def swap_q_and_k_norm(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    a = model.layers[0].self_attn
    a.q_norm, a.k_norm = a.k_norm, a.q_norm


def no_qk_norm(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    for layer in model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = None


def rope_interleaved(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = rope[0][:, None], rope[1][:, None]
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)

    patch.setattr(ops, "rotate", wrong)


def rope_backwards(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.rope_tables
    patch.setattr(ops, "rope_tables", lambda *a: (real(*a)[0], -real(*a)[1]))


def rope_wrong_denominator(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.rope_tables
    patch.setattr(ops, "rope_tables", lambda p, k, theta, d: real(p, k, theta ** (k / (k - 2)), d))


def norm_after_rope(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    def wrong(qkv: Tensor, qw: Tensor, kw: Tensor, rope: tuple[Tensor, Tensor], h: int, g: int, eps: float) -> object:
        q, k, v = qkv.view(len(qkv), -1, 2 * rope[0].shape[1]).split([h, g, g], dim=1)
        q, k = ops.rotate(q, rope), ops.rotate(k, rope)
        return ops.rms_norm(q, qw, eps), ops.rms_norm(k, kw, eps), v

    patch.setattr(ops, "qk_norm_rope", wrong)


def positions_from_one_stretched(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.rope_tables
    patch.setattr(ops, "rope_tables", lambda p, *a: real(2 * p, *a))


def drop_residual(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real, calls = ops.add_rms_norm, []

    def wrong(x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return real(delta if len(calls) % 7 == 3 and delta is not None else x, delta, w, eps)

    patch.setattr(ops, "add_rms_norm", wrong)


def no_final_norm(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.add_rms_norm

    def wrong(x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total, normed = real(x, delta, w, eps)
        return total, total if w is model.norm.weight else normed

    patch.setattr(ops, "add_rms_norm", wrong)


def head_from_embedding(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.lm_head = None


def scaled_embedding(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.embed_tokens.register_forward_hook(lambda m, i, out: out * 24**0.5)


def no_bias(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.layers[2].self_attn.o_proj.bias.data.zero_()


def gelu(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ops, "silu", torch.nn.functional.gelu)


def layers_swapped(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.layers[0], model.layers[1] = model.layers[1], model.layers[0]


def sparse(change: Callable[[transformer.Experts], None]) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        for m in model.modules():
            if isinstance(m, transformer.Experts):
                change(m)

    return bug


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
        flat, losses = real(h, w, t, torch.full_like(weight, float(weight.mean())), chunk)
        total = real(h.detach(), w.detach(), t, weight, chunk)[0]
        return flat + (total - flat).detach(), losses

    patch.setattr(ops, "cross_entropy", wrong)


BUGS: list[tuple[str, str, Bug]] = [
    ("rms_norm_eps", "dense", eps),
    ("attention scale", "dense", attention_scale),
    ("no causal mask", "dense", no_causal_mask),
    ("mask off by one", "dense", mask_off_by_one),
    ("query heads interleaved over key heads", "dense", query_heads_interleaved),
    ("gate and up swapped", "dense", swap_halves("mlp.gate_up_proj")),
    ("gate and up swapped, experts", "moe", swap_halves("mlp.gate_up")),
    ("keys and values swapped", "dense", swap_keys_and_values),
    ("rope theta", "dense", reconfigure(rope_theta=310.0)),
    ("rope interleaved", "dense", rope_interleaved),
    ("rope backwards", "dense", rope_backwards),
    ("rope denominator", "dense", rope_wrong_denominator),
    ("positions stretched", "llama", positions_from_one_stretched),
    ("norm weight offset", "dense", norm_offset),
    ("q and k norm swapped", "dense", swap_q_and_k_norm),
    ("no q/k norm", "moe", no_qk_norm),
    ("norm after rope", "dense", norm_after_rope),
    ("residual dropped", "dense", drop_residual),
    ("final norm skipped", "dense", no_final_norm),
    ("untied head ignored", "dense", head_from_embedding),
    ("embedding scaled", "dense_tied_bias", scaled_embedding),
    ("bias of the output projection dropped", "dense_tied_bias", no_bias),
    ("gelu for silu", "llama", gelu),
    ("layers swapped", "moe", layers_swapped),
    ("top-k renormalised though it should not be", "moe_tied_raw_weights", sparse(toggle_renormalise)),
    ("top-k not renormalised", "moe", sparse(toggle_renormalise)),
    ("one expert too few", "moe_mixed", sparse(one_expert_less)),
    ("experts in another order", "moe", sparse(experts_in_other_order)),
    ("router gets no gradient", "moe", router_without_gradient),
    ("weights of the wrong experts", "moe", weights_on_input),
    ("balancing loss of each layer", "moe", balance_for_each_layer),
    ("balancing loss without gradient", "moe", balance_without_gradient),
    ("loss weights missing from the gradient", "dense", loss_weights_ignored_in_gradient),
]


@pytest.mark.parametrize(("name", "case", "bug"), BUGS, ids=[b[0] for b in BUGS])
def test_seeded_bug_is_caught(name: str, case: str, bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    ops.use_native(False)
    model = load(case)
    bug(model, monkeypatch)
    assert differences(case, model) != []


# The same model however its input is cut up.
lengths = st.lists(st.integers(1, 19), min_size=1, max_size=7)


def ids(n: int, seed: int) -> Tensor:
    return torch.randint(0, 61, (n,), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


@pytest.mark.parametrize("case", ["dense_tied_bias", "moe", "llama"])
@settings(deadline=None, max_examples=12)
@given(lengths=lengths, seed=st.integers(0, 999), hint=st.sampled_from([None, 19, 32]))
def test_packed_equals_one_at_a_time(case: str, lengths: list[int], seed: int, hint: int | None) -> None:
    model = load(case)
    sequences = [ids(n, seed + i) for i, n in enumerate(lengths)]
    batch = Batch.pack(sequences)
    batch.row_length = hint
    with torch.no_grad():
        together = model.head(model(batch).hidden_ND).split(lengths)
        for sequence, got in zip(sequences, together, strict=True):
            assert close(got, model.logits(sequence[None])[0])


@pytest.mark.parametrize("case", ["dense_tied_bias", "moe", "llama"])
@settings(deadline=None, max_examples=12)
@given(lengths=lengths, seed=st.integers(0, 999), data=st.data())
def test_cached_in_any_chunks_equals_the_full_pass(
    case: str, lengths: list[int], seed: int, data: st.DataObject
) -> None:
    """Sequences in slots of any order, advanced by random chunks (also several tokens at once) at random times."""
    model = load(case)
    sequences = [ids(n, seed + i) for i, n in enumerate(lengths)]
    slots = data.draw(st.permutations(range(len(lengths))))
    cache = KVCache(model.config, len(lengths), 20)
    done = [0] * len(lengths)
    got: list[list[Tensor]] = [[] for _ in lengths]
    with torch.no_grad():
        while any(d < n for d, n in zip(done, lengths, strict=True)):
            waiting = [i for i, n in enumerate(lengths) if done[i] < n]
            now = sorted(data.draw(st.sets(st.sampled_from(waiting), min_size=1)))
            sizes = [data.draw(st.integers(1, lengths[i] - done[i])) for i in now]
            chunks = [sequences[i][done[i] : done[i] + n] for i, n in zip(now, sizes, strict=True)]
            batch = Batch.pack(chunks, starts=[done[i] for i in now])
            hidden = model(batch, cache.select([slots[i] for i in now])).hidden_ND
            for i, part in zip(now, model.head(hidden).split(sizes), strict=True):
                got[i].append(part)
                done[i] += len(part)
        for sequence, parts in zip(sequences, got, strict=True):
            assert close(torch.cat(parts), model.logits(sequence[None])[0])


def test_copied_and_moved_slots_go_on_as_the_original() -> None:
    model = load("moe")
    prompt, rest = ids(7, 1), ids(4, 2)
    cache = KVCache(model.config, 4, 16)
    with torch.no_grad():
        model(Batch.pack([prompt]), cache.select([2]))
        cache.copy(2, [0, 3], 7)
        cache.move([3], [1])
        batch = Batch.pack([rest, rest], starts=[7, 7])
        got = model.head(model(batch, cache.select(2)).hidden_ND).split(4)
        whole = model.logits(torch.cat([prompt, rest])[None])[0, 7:]
    assert close(got[0], whole) and close(got[1], whole)
