"""Seeded bugs in what only some types have: shared experts, partial and stretched RoPE, gated attention, zero-centred
norms. Each must be seen in every model of the record that it touches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from qwill.model import ops, rope
from qwill.model.config import ModelConfig
from qwill.model.transformer import Attention, Experts, Transformer

from .seeded import (
    Bug,
    Where,
    assert_caught,
    attentions,
    centred,
    each,
    gated,
    llama3,
    partial,
    reconfigure,
    scaled,
    shared,
    sparse,
    yarn,
)

Rope = tuple[Tensor, Tensor]


# Shared experts.
def no_shared_expert(m: Experts) -> None:
    m.shared_expert = None


def shared_expert_in_full(m: Experts) -> None:
    m.shared_expert_gate.forward = lambda x: x.new_full((len(x), 1), 99.0)  # type: ignore[union-attr,method-assign]


def shared_expert_counts_twice(m: Experts) -> None:
    m.shared_expert.down_proj.weight.data *= 2  # type: ignore[union-attr]


def shared_gate_and_up_swapped(m: Experts) -> None:
    w = m.shared_expert.gate_up_proj.weight  # type: ignore[union-attr]
    w.data = torch.cat(w.data.chunk(2)[::-1])


def shared_expert_sees_the_routed_output(m: Experts) -> None:
    real, routed = m.shared_expert.forward, m.gate_up  # type: ignore[union-attr]
    assert routed is not None
    m.shared_expert.forward = lambda x: real(x.flip(0))  # type: ignore[union-attr,method-assign]


def sigmoid_of_width(width: Callable[[ModelConfig], int], wrong: Callable[[Tensor], Tensor]) -> Bug:
    """The sigmoids of one place, told by their width, become something else."""

    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        real, here = torch.sigmoid, width(model.config)
        patch.setattr(torch, "sigmoid", lambda x: wrong(x) if x.shape[-1] == here else real(x))

    return bug


def one(c: ModelConfig) -> int:
    return 1


def all_heads(c: ModelConfig) -> int:
    return c.num_attention_heads * c.head_dim


# Stretched RoPE.
def rescale(**changes: Any) -> Bug:
    return reconfigure(lambda c: c.with_(rope_scaling=replace(c.rope_scaling, **changes)))  # type: ignore[type-var]


def no_scaling(c: ModelConfig) -> ModelConfig:
    return c.with_(rope_scaling=None)


def sine_not_magnified(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real, by = ops.rope_tables, model.config.rope_scaling.magnitude  # type: ignore[union-attr]

    def wrong(*a: Any) -> Rope:
        cos, sin = real(*a)
        return cos, sin / by

    patch.setattr(ops, "rope_tables", wrong)


def ramp(wrong: Callable[[Tensor], Tensor]) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        real = rope._ramp
        patch.setattr(rope, "_ramp", lambda *a: wrong(real(*a)))

    return bug


def ramp_of_the_whole_head(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = rope._ramp
    patch.setattr(rope, "_ramp", lambda dim, theta, s: real(2 * dim, theta, s)[: dim // 2])


def other_truncation(c: ModelConfig) -> ModelConfig:
    return c.with_(rope_scaling=replace(c.rope_scaling, truncate=not c.rope_scaling.truncate))  # type: ignore[type-var,union-attr]


def magnified(c: ModelConfig) -> bool:
    return c.rope_scaling is not None and c.rope_scaling.magnitude != 1


def with_mscale(c: ModelConfig) -> bool:
    return c.rope_scaling is not None and c.rope_scaling.mscale is not None


def with_given_factor(c: ModelConfig) -> bool:
    return c.rope_scaling is not None and c.rope_scaling.attention_factor is not None


def partial_yarn(c: ModelConfig) -> bool:
    return yarn(c) and partial(c)


# Partial RoPE.
def all_of_the_head_turns(c: ModelConfig) -> ModelConfig:
    return c.with_(partial_rotary_factor=1.0)


def two_more_turn(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.rope_tables
    patch.setattr(ops, "rope_tables", lambda p, dim, *a: real(p, dim + 2, *a))


def the_end_of_the_head_turns(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real = ops.rotate

    def wrong(x: Tensor, turn: Rope) -> Tensor:
        rest = x.shape[-1] - 2 * turn[0].shape[-1]
        return torch.cat([x[..., :rest], real(x[..., rest:], turn)], -1)

    patch.setattr(ops, "rotate", wrong)


def halves_of_the_whole_head(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    """The pair of dimension i is i + K/2 and not i + R/2."""

    def wrong(x: Tensor, turn: Rope) -> Tensor:
        cos, sin, n = turn[0][:, None], turn[1][:, None], turn[0].shape[-1]
        (a, a_rest), (b, b_rest) = ((h[..., :n], h[..., n:]) for h in x.chunk(2, -1))
        return torch.cat([a * cos - b * sin, a_rest, b * cos + a * sin, b_rest], -1)

    patch.setattr(ops, "rotate", wrong)


def frequencies_of_the_whole_head(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    real, head_dim = ops.rope_tables, model.config.head_dim

    def wrong(p: Tensor, dim: int, *a: Any) -> Rope:
        cos, sin = real(p, head_dim, *a)
        return cos[:, : dim // 2], sin[:, : dim // 2]

    patch.setattr(ops, "rope_tables", wrong)


# Gated attention: qkv_proj is [q | k | v | gate].
def gate_of_another_head(m: Attention) -> None:
    gate = m.qkv_proj.weight.data[-m.gate_width :]
    gate.copy_(gate.roll(m.head_dim, 0))


def queries_and_gates_not_told_apart(m: Attention) -> None:
    """The file's rows (each head's query, then its gate) taken for all queries, then all gates."""
    rows, n, k = m.qkv_proj.weight.data, m.gate_width, m.head_dim
    file = torch.stack([rows[:n].unflatten(0, (-1, k)), rows[-n:].unflatten(0, (-1, k))], 1).flatten(0, 2)
    rows[:n], rows[-n:] = file.chunk(2)


def gate_and_queries_swapped(m: Attention) -> None:
    rows, n = m.qkv_proj.weight.data, m.gate_width
    rows[:n], rows[-n:] = rows[-n:].clone(), rows[:n].clone()


def gate_on_the_values(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    """Gating before attention: of each key head's values by the gate of its first query head."""
    c = model.config
    gates: list[Tensor] = []
    real_sigmoid, real_attention = torch.sigmoid, ops.attention
    heads = [m for m in attentions(model) if m.gate_width]
    for m in heads:
        m.qkv_proj.register_forward_hook(lambda m, i, out: gates.append(out[:, -all_heads(c) :]))
    patch.setattr(torch, "sigmoid", lambda x: torch.ones_like(x) if x.shape[-1] == all_heads(c) else real_sigmoid(x))

    def wrong(q: Tensor, k: Tensor, v: Tensor, plan: object) -> Tensor:
        gate = real_sigmoid(gates.pop()).unflatten(1, (c.num_attention_heads, -1))
        return real_attention(q, k, v * gate[:, :: c.num_attention_heads // c.num_key_value_heads], plan)  # type: ignore[arg-type]

    patch.setattr(ops, "attention", wrong)


# Zero-centred norms: a weight less by 1 is what a norm that forgets to add it has.
def not_centred(*names: str) -> Bug:
    def bug(model: Transformer, patch: pytest.MonkeyPatch) -> None:
        for name, p in model.named_parameters():
            if name.endswith(tuple(f"{n}.weight" for n in names)) and "linear_attn" not in name:
                p.data -= 1

    return bug


BUGS: list[tuple[str, Where, Bug]] = [
    ("shared expert left out", shared, sparse(no_shared_expert)),
    ("shared expert without its gate", shared, sparse(shared_expert_in_full)),
    ("shared expert counts twice", shared, sparse(shared_expert_counts_twice)),
    ("shared expert's gate is not a sigmoid", shared, sigmoid_of_width(one, lambda x: x)),
    ("shared expert's gate is a tanh", shared, sigmoid_of_width(one, torch.tanh)),
    ("shared expert's gate and up swapped", shared, sparse(shared_gate_and_up_swapped)),
    ("shared expert sees another token", shared, sparse(shared_expert_sees_the_routed_output)),
    ("RoPE not stretched", scaled, reconfigure(no_scaling)),
    ("stretched by another factor", scaled, rescale(factor=4.5)),
    ("attention factor missing", magnified, rescale(attention_factor=1.0)),
    ("attention factor on the cosine alone", magnified, sine_not_magnified),
    ("given attention factor ignored", with_given_factor, rescale(attention_factor=None)),
    ("mscale ignored", with_mscale, rescale(mscale=None)),
    ("mscale_all_dim ignored", with_mscale, rescale(mscale_all_dim=None)),
    ("YaRN's ramp upside down", yarn, ramp(lambda r: 1 - r)),
    ("YaRN stretches all frequencies", yarn, ramp(torch.ones_like)),
    ("YaRN's ramp a step", yarn, ramp(lambda r: (r > 0).float())),
    ("YaRN's ramp of the whole head", partial_yarn, ramp_of_the_whole_head),
    ("YaRN's beta_slow", yarn, rescale(beta_slow=2.0)),
    ("YaRN's original length", yarn, rescale(original_max_position_embeddings=160)),
    ("YaRN's bounds cut or not", yarn, reconfigure(other_truncation)),
    ("Llama's original length", llama3, rescale(original_max_position_embeddings=80)),
    ("Llama's low frequency factor", llama3, rescale(low_freq_factor=1.5)),
    ("Llama's high frequency factor", llama3, rescale(high_freq_factor=5.0)),
    ("all of the head turns", partial, reconfigure(all_of_the_head_turns)),
    ("two dimensions more turn", partial, two_more_turn),
    ("the end of the head turns", partial, the_end_of_the_head_turns),
    ("halves of the whole head", partial, halves_of_the_whole_head),
    ("frequencies of the whole head", partial, frequencies_of_the_whole_head),
    ("attention's gate is not a sigmoid", gated, sigmoid_of_width(all_heads, lambda x: x)),
    ("attention's gate is a SiLU", gated, sigmoid_of_width(all_heads, torch.nn.functional.silu)),
    ("attention's gate missing", gated, sigmoid_of_width(all_heads, torch.ones_like)),
    ("attention's gate before attention", gated, gate_on_the_values),
    ("gate of another head", gated, each(Attention, gate_of_another_head)),
    ("gate and queries swapped", gated, each(Attention, gate_and_queries_swapped)),
    ("queries and gates not told apart", gated, each(Attention, queries_and_gates_not_told_apart)),
    ("norm before the mixer not zero-centred", centred, not_centred("input_layernorm")),
    ("norm before the feed-forward not zero-centred", centred, not_centred("post_attention_layernorm")),
    ("query norm not zero-centred", centred, not_centred("q_norm")),
    ("key norm not zero-centred", centred, not_centred("k_norm")),
]


def final_norm_not_centred(model: Transformer, patch: pytest.MonkeyPatch) -> None:
    model.norm.zero_centred = False


BUGS.append(("final norm not zero-centred", centred, final_norm_not_centred))


@pytest.mark.parametrize(("name", "where", "bug"), BUGS, ids=[b[0] for b in BUGS])
def test_is_caught_in_every_model_that_it_touches(
    name: str, where: Where, bug: Bug, monkeypatch: pytest.MonkeyPatch, one_thread_without_kernels: None
) -> None:
    assert_caught(name, where, bug, monkeypatch)
