"""A second model on the same weights: a reference, a critic or a rollout engine beside a policy that has an adapter."""

from __future__ import annotations

import copy
from typing import Any

from qwill.model.transformer import Experts, Linear, Transformer


def twin(model: Transformer) -> Transformer:
    """Modules of its own around the very tensors of `model`, so that it takes no memory for weights; without the
    adapter. What one adds to its weights the other has too; what is attached to one, the other hasn't."""
    shared: list[Any] = [*model.parameters(), *model.buffers()]
    shared += [model.head_codes] if model.head_codes is not None else []
    shared += [model.adapter] if model.adapter is not None else []
    made = copy.deepcopy(model, {id(one): one for one in shared})
    for module in made.modules():
        if isinstance(module, Linear | Experts):
            module.updates = None
    made.adapter = None
    return made
