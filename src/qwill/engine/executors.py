"""Which executor runs a model, and how many blocks of the cache there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from qwill.engine import native
from qwill.engine.engine_settings import EngineSettings, blocks_in
from qwill.engine.executor import Executor, TorchExecutor

if TYPE_CHECKING:
    from qwill.model.transformer import Transformer


def executors_of(models: Sequence[Transformer], settings: EngineSettings, states: int) -> list[Executor]:
    """An executor for each model, all with the same number of blocks; `states` slots for recurrent states. A draft
    model has `max_running` more behind them, in which it looks ahead."""
    dtype = getattr(torch, settings.kv_dtype) if settings.kv_dtype else None
    kinds = [_kind(model, settings.block_size, dtype) for model in models]
    held = [(model.config, usual) for model, (_, usual) in zip(models, kinds, strict=True)]
    blocks = settings.blocks or blocks_in(settings, held)
    slots = [states + settings.max_running * i if model.config.has_linear else 0 for i, model in enumerate(models)]
    return [
        kind(model, blocks, settings.block_size, count, dtype)
        for model, count, (kind, _) in zip(models, slots, kinds, strict=True)
    ]


def _kind(
    model: Transformer, block_size: int, dtype: torch.dtype | None
) -> tuple[type[native.NativeExecutor | TorchExecutor], torch.dtype]:
    """The executor for a model, and in which type it holds keys and values. Native where it can be: it copies the
    weights, and its blocks are whole vectors of the processor."""
    fits = native.suits(model) and dtype in (None, *native.KINDS) and block_size % native.lanes() == 0
    usual = native.cache_dtype(model) if fits else model.embed_tokens.weight.dtype
    return native.NativeExecutor if fits else TorchExecutor, dtype or usual
