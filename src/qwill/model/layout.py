"""The released tensor names of a model, and where each of them lives in memory.

On disk every released matrix is its own; in memory q, k, v are one matrix, gate and up are one, experts are stacked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import Tensor

from qwill.model.config import ModelConfig


@dataclass(frozen=True)
class Slot:
    """The place of one tensor of the files: rows, or an expert's rows, of a parameter. `shape` is the tensor's."""

    parameter: str
    shape: tuple[int, ...]
    index: tuple[int | slice, ...] = ()

    def read(self, parameter: Tensor) -> Tensor:
        """The tensor of the files: a view of the parameter."""
        return parameter[self.index]

    def write(self, parameter: Tensor, tensor: Tensor) -> None:
        """Put the tensor of the files into its place."""
        parameter[self.index].copy_(tensor)


def released_names(config: ModelConfig) -> dict[str, Slot]:
    """File tensor name → its slot, for every tensor that the released files of this configuration hold."""
    return dict(iter_slots(config))


def iter_slots(config: ModelConfig, stacked: Collection[str] = ()) -> Iterator[tuple[str, Slot]]:
    """`released_names`, one by one; the experts of a layer are one tensor where `stacked` holds its fused name."""
    c = config
    d, q, kv = c.hidden_size, c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    yield "model.embed_tokens.weight", Slot("embed_tokens.weight", (c.vocab_size, d))
    for i in range(c.num_hidden_layers):
        here, there = f"layers.{i}", f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{there}.{norm}.weight", Slot(f"{here}.{norm}.weight", (d,))
        for kind in ("weight", "bias") if c.attention_bias else ("weight",):
            inputs = {"weight": (d,), "bias": ()}[kind]
            for name, first, last in (("q", 0, q), ("k", q, q + kv), ("v", q + kv, q + 2 * kv)):
                slot = Slot(f"{here}.self_attn.qkv_proj.{kind}", (last - first, *inputs), (slice(first, last),))
                yield f"{there}.self_attn.{name}_proj.{kind}", slot
            shape = (d, q) if kind == "weight" else (d,)
            yield f"{there}.self_attn.o_proj.{kind}", Slot(f"{here}.self_attn.o_proj.{kind}", shape)
        for name in ("q_norm", "k_norm") if c.qk_norm else ():
            yield f"{there}.self_attn.{name}.weight", Slot(f"{here}.self_attn.{name}.weight", (c.head_dim,))
        yield from (_experts(c, i, stacked) if c.is_sparse(i) else _feed_forward(c, i))
    yield "model.norm.weight", Slot("norm.weight", (d,))
    if not c.tie_word_embeddings:
        yield "lm_head.weight", Slot("lm_head.weight", (c.vocab_size, d))


def _feed_forward(config: ModelConfig, layer: int) -> Iterator[tuple[str, Slot]]:
    d, f = config.hidden_size, config.intermediate_size
    here, there = f"layers.{layer}.mlp", f"model.layers.{layer}.mlp"
    yield f"{there}.gate_proj.weight", Slot(f"{here}.gate_up_proj.weight", (f, d), (slice(0, f),))
    yield f"{there}.up_proj.weight", Slot(f"{here}.gate_up_proj.weight", (f, d), (slice(f, 2 * f),))
    yield f"{there}.down_proj.weight", Slot(f"{here}.down_proj.weight", (d, f))


def _experts(config: ModelConfig, layer: int, stacked: Collection[str]) -> Iterator[tuple[str, Slot]]:
    n, d, f = config.num_experts, config.hidden_size, config.moe_intermediate_size
    here, there = f"layers.{layer}.mlp", f"model.layers.{layer}.mlp"
    yield f"{there}.gate.weight", Slot(f"{here}.gate.weight", (n, d))
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
