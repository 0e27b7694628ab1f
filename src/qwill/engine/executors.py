"""Which executor runs a model, and how many blocks of the cache there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from qwill.engine import native
from qwill.engine.ahead import HeadExecutor
from qwill.engine.engine_settings import EngineSettings, MtpSpec, blocks_in
from qwill.engine.executor import Executor, TorchExecutor

if TYPE_CHECKING:
    from qwill.model.transformer import Transformer


def executors_of(models: Sequence[Transformer], settings: EngineSettings, states: int) -> list[Executor]:
    """An executor for each model, all with the same number of blocks; `states` slots for recurrent states. A draft
    model has `max_running` more behind them, in which it looks ahead. If the model's own head drafts, one for it."""
    dtype = getattr(torch, settings.kv_dtype) if settings.kv_dtype else None
    ahead = isinstance(settings.speculate, MtpSpec)
    kinds = [_kind(model, settings.block_size, dtype, ahead) for model in models]
    held = [(model.config, usual) for model, (_, usual) in zip(models, kinds, strict=True)]
    main, more = models[0], 0
    if ahead:
        held.append((main.config.mtp_config, kinds[0][1]))
        more = main.config.hidden_size * main.embed_tokens.weight.dtype.itemsize
    blocks = settings.blocks or blocks_in(settings, held, more)
    slots = [states + settings.max_running * i if model.config.has_linear else 0 for i, model in enumerate(models)]
    made: list[Executor] = []
    for model, count, (kind, _) in zip(models, slots, kinds, strict=True):
        given = model, blocks, settings.block_size, count, dtype
        made.append(kind(*given, settings.in_place) if kind is native.NativeExecutor else kind(*given))
    return [*made, HeadExecutor(main, blocks, settings.block_size, dtype)] if ahead else made


def _kind(
    model: Transformer, block_size: int, dtype: torch.dtype | None, ahead: bool
) -> tuple[type[native.NativeExecutor | TorchExecutor], torch.dtype]:
    """The executor for a model, and in which type it holds keys and values. Native where it can be: it copies the
    weights, and its blocks are whole vectors of the processor. A head that looks `ahead` needs hidden states, which
    that doesn't give."""
    fits = not ahead and native.suits(model) and dtype in (None, *native.KINDS)
    fits = fits and block_size % native.lanes() == 0
    usual = native.cache_dtype(model) if fits else model.embed_tokens.weight.dtype
    return native.NativeExecutor if fits else TorchExecutor, dtype or usual
