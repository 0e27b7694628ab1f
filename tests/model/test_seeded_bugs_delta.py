"""Seeded bugs in Gated DeltaNet, in how its tensors are laid out, and in its cache: each must be seen in every model of
the record that it touches."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from qwill.model import delta
from qwill.model.batch import Batch
from qwill.model.cache import KVCache
from qwill.model.layout import released_names
from qwill.model.transformer import GatedDeltaNet, Transformer

from .parity import CASES, FORWARD, apart, differences, said
from .seeded import Bug, Where, assert_caught, dealt, delta_nets, each, fresh, linear, spread
from .test_parity import CHUNKS


def operation(name: str, wrong: Callable[..., Any]) -> Bug:
    """delta.<name> becomes wrong(the real one, its arguments…)."""

    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        real = getattr(delta, name)
        patch.setattr(delta, name, lambda *a: wrong(real, *a))

    return bug


# Convolution.
def taps(change: Callable[[Tensor], Tensor]) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        for m in delta_nets(model):
            m.conv1d.data = change(m.conv1d.data).contiguous()

    return bug


def other_activation(function: Callable[[Tensor], Tensor]) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        real = delta.causal_conv_silu

        def wrong(*a: Any) -> tuple[Tensor, Tensor | None]:
            with patch.context() as inside:
                inside.setattr(delta, "silu", function)
                return real(*a)

        patch.setattr(delta, "causal_conv_silu", wrong)

    return bug


def one_sequence(cu_seqlens: Tensor) -> Tensor:
    return cu_seqlens[[0, -1]]


def chopped(cu_seqlens: Tensor) -> Tensor:
    """Every chunk a sequence of its own."""
    cuts = [torch.arange(a, b, delta.CHUNK) for a, b in pairwise(cu_seqlens.tolist())]
    return torch.cat([*cuts, cu_seqlens[-1:]]).to(cu_seqlens.dtype)


# Queries and keys.
def prepared(
    normalised: bool = True, eps: float = 1e-6, scale: float | None = None, key_scale: float = 1.0, tiled: bool = False,
    mean: bool = False,
) -> Bug:  # fmt: skip
    def wrong(real: object, q_NGK: Tensor, k_NGK: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        times, size = heads // k_NGK.shape[1], k_NGK.shape[2]

        def unit(x: Tensor) -> Tensor:
            squares = x.pow(2).mean(-1, keepdim=True) if mean else x.pow(2).sum(-1, keepdim=True)
            return x * torch.rsqrt(squares + eps) if normalised else x

        q_NGK = unit(q_NGK) * (size**-0.5 if scale is None else scale)
        k_NGK = unit(k_NGK) * key_scale
        if tiled:
            return q_NGK.repeat(1, times, 1), k_NGK.repeat(1, times, 1)
        return q_NGK.repeat_interleave(times, 1), k_NGK.repeat_interleave(times, 1)

    return operation("_queries_and_keys", wrong)


def rule(
    fade_after: bool = False, fade_in_prediction: bool = True, predict: bool = True, read_first: bool = False,
    beta_on_prediction: bool = True,
) -> Bug:  # fmt: skip
    """The recurrence written out, with one thing in it wrong."""

    def wrong(real: object, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, cu: Tensor, *rest: object) -> Any:
        q, k = delta._queries_and_keys(q, k, v.shape[1])
        out = []
        for first, last in pairwise(cu.tolist()):
            state = v.new_zeros(v.shape[1], k.shape[2], v.shape[2])
            for t in range(first, last):
                fade, b = g[t].exp()[:, None, None], beta[t][:, None]
                faded = state if fade_after else state * fade
                seen = torch.einsum("hk,hkv->hv", k[t], faded if fade_in_prediction else state) if predict else 0.0
                change = b * (v[t] - seen) if beta_on_prediction else b * v[t] - seen
                new = faded + k[t][:, :, None] * change[:, None]
                out.append(torch.einsum("hk,hkv->hv", q[t], faded if read_first else new))
                state = new * fade if fade_after else new
        return torch.stack(out), None

    return operation("gated_delta", wrong)


def sigmoid_of_beta(wrong: Callable[[Tensor], Tensor]) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        real, heads = torch.sigmoid, model.config.linear_num_value_heads
        patch.setattr(torch, "sigmoid", lambda x: wrong(x) if x.shape[-1] == heads else real(x))

    return bug


# Decay.
def no_dt_bias(m: GatedDeltaNet) -> None:
    m.dt_bias.data.zero_()


def no_A(m: GatedDeltaNet) -> None:
    m.A_log.data.zero_()


def A_is_its_own_logarithm(real: object, a: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    return -A_log.abs() * delta.softplus(a + dt_bias)


def bias_outside_softplus(real: object, a: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    return -A_log.exp() * (delta.softplus(a) + dt_bias)


def without_softplus(function: Callable[[Tensor], Tensor]) -> Bug:
    return lambda model, patch: patch.setattr(delta, "softplus", function)


# Gated norm.
def rms(x: Tensor, eps: float, axes: tuple[int, ...] = (-1,)) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(axes, keepdim=True) + eps)


def gate_before_norm(real: object, o: Tensor, z: Tensor, w: Tensor, eps: float) -> Tensor:
    return rms(o * delta.silu(z), eps) * w


def over_all_heads(real: object, o: Tensor, z: Tensor, w: Tensor, eps: float) -> Tensor:
    return rms(o, eps, (-2, -1)) * w * delta.silu(z)


# Layout: in_proj is [q | k | v | z | b | a].
def exchanged(first: int, second: int) -> Bug:
    """Two parts of in_proj, of equal size, in each other's place."""

    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        for m in delta_nets(model):
            sizes = [*m.conv_widths, *m.widths[1:]]
            parts = list(m.in_proj.weight.data.split(sizes))
            assert sizes[first] == sizes[second]
            parts[first], parts[second] = parts[second], parts[first]
            m.in_proj.weight.data = torch.cat(parts)

    return bug


def filters_of_keys_and_queries(m: GatedDeltaNet) -> None:
    q, k, v = m.conv1d.data.split(m.conv_widths)
    m.conv1d.data = torch.cat([k, q, v])


def heads_of_z_turned(m: GatedDeltaNet) -> None:
    start, size = m.widths[0], m.widths[1]
    z = m.in_proj.weight.data[start : start + size]
    z.copy_(z.roll(size // m.heads, 0))


def not_dealt_back(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    """The files' rows, dealt out to key heads, taken as they come."""
    slots, parameters = released_names(model.config), dict(model.named_parameters())
    for i, layer in enumerate(model.layers):
        if layer.linear_attn is not None:
            names = [f"model.layers.{i}.linear_attn.in_proj_{kind}.weight" for kind in ("qkvz", "ba")]
            p = parameters[slots[names[0]].parameter]
            p.data = torch.cat([slots[name].read(p.data) for name in names])


def pairs_not_dealt_back(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    """The same of b and a alone."""
    slots, parameters = released_names(model.config), dict(model.named_parameters())
    for i, layer in enumerate(model.layers):
        if layer.linear_attn is not None:
            slot = slots[f"model.layers.{i}.linear_attn.in_proj_ba.weight"]
            rows = parameters[slot.parameter].data
            rows[-slot.shape[0] :] = slot.read(rows)


def borders(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda real, *a: real(*(change(x) if x.dtype == torch.int32 else x for x in a if isinstance(x, Tensor)))


BUGS: list[tuple[str, Where, Bug]] = [
    ("filter reversed", linear, taps(lambda w: w.flip(-1))),
    ("filter one token late", linear, taps(lambda w: torch.cat([w[..., 1:], 0 * w[..., :1]], -1))),
    ("filter without its past", linear, taps(lambda w: torch.cat([0 * w[..., :-1], w[..., -1:]], -1))),
    ("filter twice, the second on nothing", linear, taps(lambda w: w + torch.cat([0 * w[..., :-1], w[..., -1:]], -1))),
    ("convolution without SiLU", linear, other_activation(lambda x: x)),
    ("convolution with GELU", linear, other_activation(torch.nn.functional.gelu)),
    ("convolution crosses borders", linear, operation("causal_conv_silu", borders(one_sequence))),
    ("state crosses borders", linear, operation("gated_delta", borders(one_sequence))),
    ("state lost between chunks", linear, operation("gated_delta", borders(chopped))),
    ("convolution starts anew in each chunk", linear, operation("causal_conv_silu", borders(chopped))),
    ("queries and keys not normalised", linear, prepared(normalised=False)),
    ("queries' and keys' eps is the model's", linear, prepared(eps=1e-2)),
    ("queries and keys divided by their root mean square", linear, prepared(mean=True)),
    ("queries not scaled", linear, prepared(scale=1.0)),
    ("keys scaled too", linear, prepared(key_scale=0.5)),
    ("key heads tiled over value heads", spread, prepared(tiled=True)),
    ("decay after the write", linear, rule(fade_after=True)),
    ("prediction from the state before its decay", linear, rule(fade_in_prediction=False)),
    ("nothing predicted: plain gated linear attention", linear, rule(predict=False)),
    ("read before written", linear, rule(read_first=True)),
    ("beta on the value alone", linear, rule(beta_on_prediction=False)),
    ("beta not a sigmoid", linear, sigmoid_of_beta(lambda x: x)),
    ("beta twice a sigmoid", linear, sigmoid_of_beta(lambda x: 2 / (1 + (-x).exp()))),
    ("beta one", linear, sigmoid_of_beta(torch.ones_like)),
    ("decay the other way", linear, operation("decay", lambda real, *a: -real(*a))),
    ("no decay", linear, operation("decay", lambda real, *a: 0 * real(*a))),
    ("no bias in the decay", linear, each(GatedDeltaNet, no_dt_bias)),
    ("no A in the decay", linear, each(GatedDeltaNet, no_A)),
    ("A not exponentiated", linear, operation("decay", A_is_its_own_logarithm)),
    ("bias outside the softplus", linear, operation("decay", bias_outside_softplus)),
    ("softplus missing", linear, without_softplus(lambda x: x)),
    ("ReLU for softplus", linear, without_softplus(torch.relu)),
    ("output gated before its norm", linear, operation("gated_rms_norm", gate_before_norm)),
    ("output normalised over all heads", linear, operation("gated_rms_norm", over_all_heads)),
    ("output not gated", linear, operation("gated_rms_norm", lambda real, o, z, w, eps: rms(o, eps) * w)),
    ("output not normalised", linear, operation("gated_rms_norm", lambda real, o, z, w, eps: o * w * delta.silu(z))),
    ("output's gate a sigmoid", linear,
     operation("gated_rms_norm", lambda real, o, z, w, eps: rms(o, eps) * w / (1 + (-z).exp()))),
    ("output's norm zero-centred", linear,
     operation("gated_rms_norm", lambda real, o, z, w, eps: real(o, z, 1 + w, eps))),
    ("output's norm with another eps", linear,
     operation("gated_rms_norm", lambda real, o, z, w, eps: real(o, z, w, 1e-6))),
    ("queries and keys swapped", linear, exchanged(0, 1)),
    ("values and output gate swapped", linear, exchanged(2, 3)),
    ("beta and decay swapped", linear, exchanged(4, 5)),
    ("filters of queries and keys swapped", linear, each(GatedDeltaNet, filters_of_keys_and_queries)),
    ("output gate of another head", linear, each(GatedDeltaNet, heads_of_z_turned)),
    ("rows of the files not dealt back", dealt, not_dealt_back),
    ("rows of b and a not dealt back", lambda c: dealt(c) and spread(c), pairs_not_dealt_back),
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread_without_kernels")


@pytest.mark.parametrize(("name", "where", "bug"), BUGS, ids=[b[0] for b in BUGS])
def test_is_caught_in_every_model_that_it_touches(
    name: str, where: Where, bug: Bug, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_caught(name, where, bug, monkeypatch)


SAME = [
    rule(),
    prepared(),
    other_activation(torch.nn.functional.silu),
    sigmoid_of_beta(lambda x: 1 / (1 + (-x).exp())),
    operation("causal_conv_silu", borders(lambda cu: cu)),
    operation("gated_delta", borders(lambda cu: cu)),
    operation("gated_rms_norm", lambda real, o, z, w, eps: rms(o, eps) * w * delta.silu(z)),
    operation("decay", lambda real, a, A_log, dt_bias: -A_log.exp() * delta.softplus(a + dt_bias)),
]


@pytest.mark.parametrize("number", range(len(SAME)))
@pytest.mark.parametrize("case", [c for c in CASES if c.startswith(("next", "qwen3_5"))])
def test_what_the_bugs_are_made_of_is_no_bug(case: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(fresh(case))
    SAME[number](model, monkeypatch)
    assert list(differences(case, model)) == []


# The cache, as test_a_prompt_in_chunks_gives_transformers_logits uses it.
Recall = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
CACHE_BUGS: dict[str, Recall] = {
    "state forgotten": lambda inputs, state: (inputs, 0 * state),
    "inputs of the convolution forgotten": lambda inputs, state: (0 * inputs, state),
    "inputs of the convolution in reverse": lambda inputs, state: (inputs.flip(-1), state),
    "inputs of the convolution one older": lambda inputs, state: (inputs.roll(1, -1), state),
    "heads of the state turned": lambda inputs, state: (inputs, state.roll(1, 1)),
}


@pytest.mark.parametrize("name", CACHE_BUGS)
@pytest.mark.parametrize("case", ["next", "next_tied", "qwen3_5", "qwen3_5_moe_tied"])
def test_bugs_in_the_cache_are_caught(case: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = KVCache.recall
    monkeypatch.setattr(KVCache, "recall", lambda self, layer: CACHE_BUGS[name](*real(self, layer)))
    model, (reference, _) = copy.deepcopy(fresh(case)), said(case)
    cache, start = KVCache(model.config, 1, 70), 0
    with torch.no_grad():
        for chunk in reference["tokens_chunked"][0].split(CHUNKS):
            last = model.head(model(Batch.pack([chunk], starts=[start]), cache.place([[0]], [start])).hidden_ND)
            start += len(chunk)
    assert not apart(last, reference["logits_chunked"][0]) <= FORWARD
