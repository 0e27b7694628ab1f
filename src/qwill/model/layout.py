"""The released tensor names of a model, and where each of them lives in memory.

On disk every released matrix is its own; in memory q, k, v (and the gate of gated attention) are one matrix, gate and
up are one, all that a Gated DeltaNet multiplies its input by is one, and experts are stacked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qwill.model.config import ModelConfig


@dataclass(frozen=True)
class Slot:
    """The place of one tensor of the files: rows, or an expert's rows, of a parameter. `shape` is the tensor's.

    With `groups`, the file deals its rows out to that many heads, each with a piece of every part; in memory each part
    is together: part (offset, size) is groups · size rows from `offset` on.
    """

    parameter: str
    shape: tuple[int, ...]
    index: tuple[int | slice, ...] = ()
    groups: int = 0
    parts: tuple[tuple[int, int], ...] = ()

    def read(self, parameter: Tensor) -> Tensor:
        """The tensor of the files: a view of the parameter, or a copy where rows are dealt out."""
        if not self.groups:
            return parameter[self.index]
        return torch.cat([self._piece(parameter, *part) for part in self.parts], dim=1).reshape(self.shape)

    def write(self, parameter: Tensor, tensor: Tensor) -> None:
        """Put the tensor of the files into its place."""
        if not self.groups:
            parameter[self.index].copy_(tensor)
            return
        pieces = tensor.unflatten(0, (self.groups, -1)).split([size for _, size in self.parts], dim=1)
        for part, piece in zip(self.parts, pieces, strict=True):
            self._piece(parameter, *part).copy_(piece)

    def _piece(self, parameter: Tensor, offset: int, size: int) -> Tensor:
        return parameter[offset : offset + self.groups * size].unflatten(0, (self.groups, size))


def released_names(config: ModelConfig) -> dict[str, Slot]:
    """File tensor name → its slot, for every tensor that the released files of this configuration hold."""
    return dict(iter_slots(config))


def iter_slots(config: ModelConfig, stacked: Collection[str] = ()) -> Iterator[tuple[str, Slot]]:
    """`released_names`, one by one; the experts of a layer are one tensor where `stacked` holds its fused name."""
    c = config
    d = c.hidden_size
    yield "model.embed_tokens.weight", Slot("embed_tokens.weight", (c.vocab_size, d))
    for i in range(c.num_hidden_layers):
        yield from _layer(c, f"layers.{i}", f"model.layers.{i}", c.is_linear(i), c.is_sparse(i), stacked)
    yield "model.norm.weight", Slot("norm.weight", (d,))
    if not c.tie_word_embeddings:
        yield "lm_head.weight", Slot("lm_head.weight", (c.vocab_size, d))
    if c.mtp_layers:
        yield "mtp.fc.weight", Slot("mtp.fc.weight", (d, 2 * d))
        for norm in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
            yield f"mtp.{norm}.weight", Slot(f"mtp.{norm}.weight", (d,))
        for i in range(c.mtp_layers):
            yield from _layer(c, f"mtp.layers.{i}", f"mtp.layers.{i}", False, c.is_sparse(i), stacked)


def _layer(
    c: ModelConfig, here: str, there: str, linear: bool, sparse: bool, stacked: Collection[str]
) -> Iterator[tuple[str, Slot]]:
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield f"{there}.{norm}.weight", Slot(f"{here}.{norm}.weight", (c.hidden_size,))
    yield from _delta(c, here, there) if linear else _attention(c, here, there)
    here, there = f"{here}.mlp", f"{there}.mlp"
    yield from _experts(c, here, there, stacked) if sparse else _feed_forward(c, c.intermediate_size, here, there)


def _attention(c: ModelConfig, here: str, there: str) -> Iterator[tuple[str, Slot]]:
    d, k = c.hidden_size, c.head_dim
    q, kv = c.num_attention_heads * k, c.num_key_value_heads * k
    here, there = f"{here}.self_attn", f"{there}.self_attn"
    for kind in ("weight", "bias") if c.attention_bias or c.qkv_bias else ("weight",):
        inputs = {"weight": (d,), "bias": ()}[kind]
        for name, first, last in (("q", 0, q), ("k", q, q + kv), ("v", q + kv, q + 2 * kv)):
            slot = Slot(f"{here}.qkv_proj.{kind}", (last - first, *inputs), (slice(first, last),))
            if name == "q" and c.gated_attention:  # the file: each head's query, then its gate
                parts = ((0, k), (q + 2 * kv, k))
                slot = Slot(slot.parameter, (2 * q, *inputs), groups=c.num_attention_heads, parts=parts)
            yield f"{there}.{name}_proj.{kind}", slot
        if kind == "weight" or c.attention_bias:
            yield f"{there}.o_proj.{kind}", Slot(f"{here}.o_proj.{kind}", (d, q) if kind == "weight" else (d,))
    for name in ("q_norm", "k_norm") if c.qk_norm else ():
        yield f"{there}.{name}.weight", Slot(f"{here}.{name}.weight", (k,))


def _delta(c: ModelConfig, here: str, there: str) -> Iterator[tuple[str, Slot]]:
    d, groups, heads, k, v = (
        c.hidden_size, c.linear_num_key_heads, c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim
    )  # fmt: skip
    keys, values, shared = groups * k, heads * v, heads // groups
    here, there = f"{here}.linear_attn", f"{there}.linear_attn"
    channels = 2 * keys + values
    z, b, a, end = channels, channels + values, channels + values + heads, channels + values + 2 * heads
    if c.model_type == "qwen3_next":  # dealt out to key heads: [q, k, v of each value head, z of each], [b, a]
        qkvz = ((0, k), (keys, k), (2 * keys, shared * v), (z, shared * v))
        shape = (channels + values, d)
        yield f"{there}.in_proj_qkvz.weight", Slot(f"{here}.in_proj.weight", shape, groups=groups, parts=qkvz)
        ba = ((b, shared), (a, shared))
        yield f"{there}.in_proj_ba.weight", Slot(f"{here}.in_proj.weight", (2 * heads, d), groups=groups, parts=ba)
    else:
        for name, first, last in (("qkv", 0, z), ("z", z, b), ("b", b, a), ("a", a, end)):
            slot = Slot(f"{here}.in_proj.weight", (last - first, d), (slice(first, last),))
            yield f"{there}.in_proj_{name}.weight", slot
    yield f"{there}.conv1d.weight", Slot(f"{here}.conv1d", (channels, 1, c.linear_conv_kernel_dim))
    for name in ("A_log", "dt_bias"):
        yield f"{there}.{name}", Slot(f"{here}.{name}", (heads,))
    yield f"{there}.norm.weight", Slot(f"{here}.norm.weight", (v,))
    yield f"{there}.out_proj.weight", Slot(f"{here}.out_proj.weight", (d, values))


def _feed_forward(c: ModelConfig, f: int, here: str, there: str) -> Iterator[tuple[str, Slot]]:
    d = c.hidden_size
    yield f"{there}.gate_proj.weight", Slot(f"{here}.gate_up_proj.weight", (f, d), (slice(0, f),))
    yield f"{there}.up_proj.weight", Slot(f"{here}.gate_up_proj.weight", (f, d), (slice(f, 2 * f),))
    yield f"{there}.down_proj.weight", Slot(f"{here}.down_proj.weight", (d, f))


def _experts(c: ModelConfig, here: str, there: str, stacked: Collection[str]) -> Iterator[tuple[str, Slot]]:
    n, d, f = c.num_experts, c.hidden_size, c.moe_intermediate_size
    yield f"{there}.gate.weight", Slot(f"{here}.gate.weight", (n, d))
    if shared := c.shared_expert_intermediate_size:
        yield from _feed_forward(c, shared, f"{here}.shared_expert", f"{there}.shared_expert")
        yield f"{there}.shared_expert_gate.weight", Slot(f"{here}.shared_expert_gate.weight", (1, d))
    gate_up, down = f"{there}.experts.gate_up_proj", f"{there}.experts.down_proj"
    if gate_up in stacked:
        # transformers 5 stacks experts as this package does.
        yield gate_up, Slot(f"{here}.gate_up", (n, 2 * f, d))
        yield down, Slot(f"{here}.down", (n, d, f))
        return
    for e in range(n):
        expert = f"{there}.experts.{e}"
        yield f"{expert}.gate_proj.weight", Slot(f"{here}.gate_up", (f, d), (e, slice(0, f)))
        yield f"{expert}.up_proj.weight", Slot(f"{here}.gate_up", (f, d), (e, slice(f, 2 * f)))
        yield f"{expert}.down_proj.weight", Slot(f"{here}.down", (d, f), (e,))
