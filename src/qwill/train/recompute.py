"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): a layer's insides are computed again in the backward
pass instead of being kept, so that of each layer a forward pass keeps only what goes into it.

The mathematics does not know of it: the layers are wrapped from outside, for as long as training lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint

from qwill.model.transformer import Transformer


@contextmanager
def recomputing(model: Transformer, what: Literal["none", "layer"]) -> Iterator[None]:
    """Within it, the backward pass of `model` runs each layer once more (`layer`), or everything is kept (`none`).

    The same operations on the same numbers: loss and gradients keep every bit, and every token its experts. It costs
    about one more forward pass.
    """
    layers = list(model.layers) if what == "layer" else []
    for layer in layers:
        layer.forward = _again(layer.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own is behind it


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        # No random numbers are drawn in a layer, so their state need not be kept.
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)

    return run
