"""The weights that rollouts are made with, where these have less precision than training: a copy, rounded anew from the
trainer's before each step's rollouts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch

from qwill.base.errors import ConfigError, ModelError
from qwill.model.held import hold, hold_again
from qwill.model.transformer import Transformer
from qwill.model.twin import twin


def rollout_weights(model: Transformer, dtype: Literal["same", "bfloat16", "int8"]) -> Callable[[], Transformer]:
    """What to call before each rollout; it gives the model to roll out with.

    `same`: the trainer's own, in whose storage the engine reads. `bfloat16`: each weight rounded to it. `int8`: the
    projections as codes with a scale for each 32 columns, which the native executor multiplies with activations of 8
    bits. Raises ConfigError where rows do not divide into these.
    """
    if dtype == "same":
        return lambda: model
    if model.adapter is not None and dtype == "int8":
        return _beside(model)
    rounded = copy.deepcopy(model).requires_grad_(False).eval()
    if dtype == "bfloat16":
        rounded.to(torch.bfloat16)
    else:
        _hold(rounded)

    @torch.no_grad()
    def refreshed() -> Transformer:
        hold_again(rounded, model)
        return rounded

    return refreshed


def _beside(model: Transformer) -> Callable[[], Transformer]:
    """The base rounded once (what is quantised already is shared), and the adapter beside it as it is."""
    rounded = twin(model)
    _hold(rounded)
    rounded.adapter = model.adapter
    return lambda: rounded


def _hold(rounded: Transformer) -> None:
    try:
        hold(rounded, 8)
    except ModelError as error:
        why = str(error).partition(";")[0]
        raise ConfigError(f"rollout_dtype is int8, but {why}; take bfloat16.") from None
