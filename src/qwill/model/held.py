"""A model's projections held as integers, and back: attention's and feed-forward's matrices, each expert's too.

Embedding, head, norms, routers and the input projections of Gated DeltaNet stay floats, as in quantised folders.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from qwill.base.errors import ModelError
from qwill.model.byte_scales import with_byte_scales
from qwill.model.fitted import fit_minima
from qwill.model.packed import Codes
from qwill.model.project import Quantized
from qwill.model.quantize import Scheme, quantize
from qwill.model.transformer import Experts, Linear, Transformer

ATTENTION, FEED_FORWARD = ("qkv_proj", "o_proj", "out_proj"), ("gate_up_proj", "down_proj")
BYTES = Scheme(8, 32)


@torch.no_grad()
def hold(model: Transformer, bits: int) -> None:
    """Round every projection to 8 or 4 bits in groups of 32 columns; one that is held in no more bits already stays.

    Beside experts attention is little, and its errors cost as much as theirs: it keeps 8 bits then. Raises ModelError,
    naming the projection, where rows do not divide into groups.
    """
    for name, module, attribute in _projections(model):
        weight = getattr(module, attribute)
        wanted = 8 if model.config.num_experts and name.endswith(ATTENTION) else bits
        if isinstance(weight, Quantized):
            if weight.bits <= wanted:
                continue
            weight = weight.dense(torch.float32)
        try:
            matrices = [round_to(matrix, wanted) for matrix in weight.reshape(-1, *weight.shape[-2:])]
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from None
        delattr(module, attribute)
        setattr(module, attribute, Quantized(matrices[0] if weight.dim() == 2 else _stacked(matrices)))


def round_to(weight_OI: Tensor, bits: int) -> Codes:
    """8 bits with a scale, or 4 with a scale and a minimum, for each group of 32."""
    if bits == 4:
        return with_byte_scales(fit_minima(weight_OI), weight_OI)
    return quantize(weight_OI, BYTES, torch.float16)


@torch.no_grad()
def multiply_out(model: Transformer) -> None:
    """Every weight that is held as integers becomes floats of the embedding's type."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Quantized):
                delattr(module, name)
                setattr(module, name, nn.Parameter(child.dense(model.embed_tokens.weight.dtype)))


def _projections(model: Transformer) -> Iterator[tuple[str, nn.Module, str]]:
    for name, module in list(model.named_modules()):
        if isinstance(module, Experts):
            yield from ((name, module, "gate_up"), (name, module, "down"))
        elif isinstance(module, Linear) and name.endswith(ATTENTION + FEED_FORWARD):
            yield name, module, "weight"


def _stacked(matrices: list[Codes]) -> Codes:
    def all_of(part: str) -> Tensor | None:
        found = [getattr(codes, part) for codes in matrices]
        return None if found[0] is None else torch.stack(found)

    values, scale = all_of("values"), all_of("scale")
    assert values is not None and scale is not None
    return Codes(matrices[0].bits, matrices[0].columns, values, scale, all_of("zero"), all_of("minimum"))
