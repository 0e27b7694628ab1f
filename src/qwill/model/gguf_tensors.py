"""The tensors of a GGUF file: names, shapes, types, and where each lives in a model.

llama.cpp stacks a layer's experts as this package does, but keeps gate and up apart, and for `llama` it reorders the
rows of q and k. Source: llama.cpp's converter (conversion/) and quantiser (src/llama-quant.cpp).

Shape suffixes: E experts, O outputs, I inputs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import Tensor

from qwill.model.config import ModelConfig
from qwill.model.ggml_blocks import BLOCKS
from qwill.model.layout import Slot, iter_slots

# Released name of a module → its name in a GGUF file; with `.weight` or `.bias`.
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
}  # fmt: skip
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Entry:
    """One tensor of a GGUF file. `released` is its name in a Hugging Face file, that of all experts where they are
    stacked; `rows` are its rows of each expert's matrix there; `heads` is not 0 where rows are reordered by head."""

    name: str
    shape: tuple[int, ...]
    released: str
    slot: Slot
    rows: slice | None = None
    heads: int = 0

    def part(self, parameter: Tensor) -> Tensor:
        """The view of the model's parameter that is this tensor, before reordering."""
        whole = self.slot.read(parameter)
        return whole if self.rows is None else whole[:, self.rows]


class _Everything(Collection[str]):
    """Holds every name: as `stacked` it makes `iter_slots` yield experts stacked, however many there may be."""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def entries(config: ModelConfig) -> Iterator[Entry]:
    """Every tensor of the model's GGUF file, one by one: an absurd number of layers costs nothing until they come."""
    for released, slot in iter_slots(config, _Everything()):
        module, _, last = released.rpartition(".")
        if match := LAYER.fullmatch(module):
            block, inside = f"blk.{match[1]}", match[2]
        else:
            block, inside = "", module
        if inside == "mlp.experts":
            experts, outputs, inputs = slot.shape
            if last == "down_proj":
                yield Entry(f"{block}.ffn_down_exps.weight", slot.shape, released, slot, slice(0, outputs))
                continue
            half = outputs // 2
            for at, name in ((0, "ffn_gate_exps"), (half, "ffn_up_exps")):
                yield Entry(f"{block}.{name}.weight", (experts, half, inputs), released, slot, slice(at, at + half))
            continue
        name = f"{block}.{IN_LAYER[inside]}" if block else WHOLE[inside]
        heads = _reordered(config).get(inside, 0)
        yield Entry(f"{name}.{last}", slot.shape, released, slot, heads=heads)


def _reordered(config: ModelConfig) -> dict[str, int]:
    if config.model_type != "llama":
        return {}
    return {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}


def reorder(rows: Tensor, heads: int) -> Tensor:
    """Rows of each head from (half, pair), which rotate-half RoPE expects, to (pair, half): the two that RoPE turns
    together become neighbours. Of a matrix [O, I] or a bias [O]."""
    return rows.view(heads, 2, rows.shape[0] // heads // 2, -1).transpose(1, 2).reshape(rows.shape)


def restore(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `reorder`."""
    return rows.view(heads, rows.shape[0] // heads // 2, 2, -1).transpose(1, 2).reshape(rows.shape)


def type_of(entry: Entry, kind: str, config: ModelConfig) -> str:
    """What llama.cpp's quantiser makes of a tensor when the file is to be of `kind`.

    Norms, biases and the router stay F32. In a Q4_0 file the head (or the embedding tied to it), and with eight experts
    k and v, have more bits; llama.cpp by default takes Q6_K for the head, this writes Q8_0. Rows that no block divides
    are F16.
    """
    if len(entry.shape) == 1 or entry.name.endswith("ffn_gate_inp.weight"):
        return "F32"
    if kind == "Q4_0":
        head = "token_embd.weight" if config.tie_word_embeddings else "output.weight"
        if entry.name == head or (config.num_experts == 8 and entry.name.endswith(("attn_k.weight", "attn_v.weight"))):
            kind = "Q8_0"
    return "F16" if entry.shape[-1] % BLOCKS[kind].weights else kind
