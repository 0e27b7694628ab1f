"""The weights that a model with an adapter amounts to, one matrix at a time: what is held as integers is multiplied out
and the adapter added when it is asked for, and given up soon after, so that a model too large for memory as floats can
be written as them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qwill.base.errors import ModelError
from qwill.model.lora import LowRank, targets_of
from qwill.model.project import Quantized
from qwill.model.transformer import Transformer

KEPT = 2  # matrices: files name an expert's gate, up and down in turn, which are two in memory


def merged_weights(model: Transformer, merged: bool = True) -> Callable[[str], Tensor]:
    """A parameter's name → its value with the model's adapter in it; unless `merged`, without. Raises ModelError, when
    called, for integers to which nothing is added: their folder is there already."""
    held = {name: module for name, module in model.named_modules() if isinstance(module, Quantized)}
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    updates: dict[str, list[LowRank]] = {}
    if merged and model.adapter is not None:
        for name, target in targets_of(model, model.adapter).items():
            updates.setdefault(f"{target.owner}.{target.attribute}", []).append(model.adapter.parts[name])
    dtype, kept = model.embed_tokens.weight.dtype, dict[str, Tensor]()

    @torch.no_grad()
    def weight(name: str) -> Tensor:
        if name in kept:
            return kept[name]
        if name in held and not updates:
            raise ModelError(f"{name} is held quantised; load the model as floats to save it.")
        if name not in updates and name not in held:
            return parameters[name]
        made = held[name].dense(dtype) if name in held else parameters[name].clone()
        for part in updates.get(name, ()):
            part.add_to(made)
        if len(kept) == KEPT:
            del kept[next(iter(kept))]
        kept[name] = made
        return made

    return weight
