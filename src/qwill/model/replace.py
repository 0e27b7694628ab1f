"""New weights into a model that is in use: each tensor is copied to where the old one lies, and nothing moves.

Names and shapes are those of the released files (layout.py), as a Hugging Face model's `state_dict` has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from qwill.base.errors import ModelError
from qwill.model.layout import Slot, iter_slots
from qwill.model.lora import weight_of
from qwill.model.project import Quantized
from qwill.model.quantize import Scheme, quantize
from qwill.model.transformer import Transformer

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@torch.no_grad()
def replace_weights(model: Transformer, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> None:
    """Write the tensors into the model, in its types; those that are not given stay. No more than one of them is ever
    in memory twice, so pairs may come one by one from elsewhere.

    Weights held as codes are quantised as the old ones were. Raises ModelError for a name or a shape that the model has
    not, a head that differs from the embedding where the two are one, and codes that are not symmetric: before
    anything is written if `tensors` is a mapping, else when it comes to it.
    """
    slots = _slots(model)
    if isinstance(tensors, Mapping):
        for name, tensor in tensors.items():
            _check(model, slots, name, tensor)
        tensors = tensors.items()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    head: Tensor | None = None
    for name, tensor in tensors:
        slot = _check(model, slots, name, tensor)
        if name == HEAD and model.lm_head is None:
            head = tensor
            continue
        if slot.parameter in ("embed_tokens.weight", HEAD):
            model.head_codes = None
        weight = parameters.get(slot.parameter)
        if weight is not None:
            slot.write(weight, tensor)
        else:
            codes = _codes(model, slot)
            rows = tensor.detach().to(codes.scale.device, codes.scale.dtype)
            parts = [quantize(part, _scheme(codes)) for part in rows.reshape(-1, *rows.shape[-2:])]
            for place, part in zip(_places(slot, rows.dim()), parts, strict=True):
                codes.write(place, part)
    if head is not None and not torch.equal(head.to(model.head_weight_VD), model.head_weight_VD):
        raise ModelError(f"{HEAD} differs from {EMBEDDING}, but this model has one matrix for both; leave it out.")


def _slots(model: Transformer) -> dict[str, Slot]:
    """Every name that a tensor may have: experts one by one, or those of a layer stacked."""
    layers = range(model.config.num_hidden_layers)
    stacked = {f"model.layers.{i}.mlp.experts.{name}" for i in layers for name in ("gate_up_proj", "down_proj")}
    slots = {**dict(iter_slots(model.config)), **dict(iter_slots(model.config, stacked))}
    if model.lm_head is None:
        slots[HEAD] = slots[EMBEDDING]
    return slots


def _check(model: Transformer, slots: Mapping[str, Slot], name: str, tensor: Tensor) -> Slot:
    kind = model.config.model_type
    slot = slots.get(name)
    if slot is None:
        raise ModelError(f"{name} is no tensor of this {kind} model; expected names as in its released files.")
    if tuple(tensor.shape) != slot.shape:
        raise ModelError(f"{name} has shape {list(tensor.shape)}; this {kind} model needs {list(slot.shape)}.")
    owner, _, attribute = slot.parameter.rpartition(".")
    codes = weight_of(model, owner, attribute) if owner else None
    if isinstance(codes, Quantized) and (codes.zero is not None or codes.minimum is not None or slot.groups):
        raise ModelError(f"{name} is held as integers of a kind that is not made here; load the model as floats.")
    return slot


def _codes(model: Transformer, slot: Slot) -> Quantized:
    owner, _, attribute = slot.parameter.rpartition(".")
    codes = weight_of(model, owner, attribute)
    assert isinstance(codes, Quantized)
    return codes


def _scheme(codes: Quantized) -> Scheme:
    groups = codes.scale.shape[-1]
    return Scheme(8 if codes.bits == 8 else 4, None if groups == 1 else codes.columns // groups)


def _places(slot: Slot, dims: int) -> list[Slot]:
    """The slot, or that of each expert of a stack."""
    if dims == 2:
        return [slot]
    return [Slot(slot.parameter, slot.shape[1:], (e, *slot.index[1:])) for e in range(slot.shape[0])]
