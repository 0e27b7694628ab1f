"""Adapters laid out for `forward.c` (`low_rank.h`): for each product of a layer one A and one B for all that it fuses.

The released projections of a fused one stand one below the other in A [R, I], R being the sum of their ranks; B [C, R]
has zeros where a projection's ranks meet rows that aren't its own, and holds the scale. Expert projections have an E
before these. Shape letters as in lora.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwill.model.lora import LowRank, targets_of

if TYPE_CHECKING:
    from qwill.model.lora import Adapter
    from qwill.model.transformer import Transformer

# Where the products of a layer are, in the order of low_rank.h; the experts' stand in the place of the dense ones.
PRODUCTS = {
    "self_attn.qkv_proj.weight": 0, "self_attn.o_proj.weight": 1, "mlp.gate.weight": 2,
    "mlp.gate_up_proj.weight": 3, "mlp.gate_up": 3, "mlp.down_proj.weight": 4, "mlp.down": 4,
}  # fmt: skip
COUNT = 5
GATE_UP = 3

Pack = Callable[[Tensor, int], Tensor]  # [E, columns, k] and how many columns are gates → panels


class LowRankStruct(ctypes.Structure):
    _fields_ = [("rank", ctypes.c_int64), ("a", ctypes.c_void_p), ("b", ctypes.c_void_p)]


class NativeAdapter:
    """An adapter's structures for every layer and product, and the memory that they point into. Raises ModelError for
    the adapter of another model."""

    def __init__(self, model: Transformer, adapter: Adapter, pack: Pack) -> None:
        self.layers = [(LowRankStruct * COUNT)() for _ in model.layers]
        self.kept: list[Tensor] = []
        self.rank = 0
        for layer, product, a_ERI, b_ECR in _fused(model, adapter):
            half = b_ECR.shape[1] // 2 if product == GATE_UP else 0
            a, b = pack(a_ERI, 0), pack(b_ECR, half)
            self.kept += [a, b]
            self.rank = max(self.rank, a_ERI.shape[1])
            self.layers[layer][product] = LowRankStruct(a_ERI.shape[1], a.data_ptr(), b.data_ptr())


def _fused(model: Transformer, adapter: Adapter) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """(layer, product, A, B) of every fused projection that the adapter changes."""
    targets = targets_of(model, adapter)
    places: dict[str, list[tuple[LowRank, int]]] = {}
    for name, part in adapter.parts.items():
        target = targets[name]
        width = model.get_submodule(target.owner)
        weight: Tensor = getattr(width, target.attribute)
        places.setdefault(f"{target.owner}.{target.attribute}", []).append((part, weight.shape[-2]))
    for place, parts in places.items():
        _, layer, product = place.split(".", 2)
        stacks = [(p.a.detach().float(), p.b.detach().float() * p.scale) for p, _ in parts]
        a_ERI = torch.cat([a if a.dim() == 3 else a[None] for a, _ in stacks], dim=1)
        b_ECR = a_ERI.new_zeros(len(a_ERI), parts[0][1], a_ERI.shape[1])
        at = 0
        for (part, _), (_, b) in zip(parts, stacks, strict=True):
            b_EOr = b if b.dim() == 3 else b[None]
            b_ECR[:, part.rows_O, at : at + b_EOr.shape[2]] = b_EOr
            at += b_EOr.shape[2]
        yield int(layer), PRODUCTS[product], a_ERI, b_ECR
