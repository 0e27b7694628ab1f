"""A model's multi-token-prediction head as its draft model (`Transformer.predict_ahead`; DeepSeek-V3, arXiv 2412.19437
§2.2).

What the head knows of token t comes from that token and the model's hidden state at t − 1: from no later token. So its
keys and values, and the hidden states, lie at the tokens' places in the blocks that the model has, and are shared,
copied, found again and written over with them. Token 0 has no state before it and so no entry; nothing looks there.

Behind the last token the head goes on from its own hidden states. The pass that checks its drafts brings the model's
own in their place.

Shape letters: N tokens of a pass, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwill.engine.executor import Step
from qwill.model.batch import Batch
from qwill.model.cache import KVCache

if TYPE_CHECKING:
    from qwill.model.lora import Adapter
    from qwill.model.transformer import Transformer


class HeadExecutor:
    """Passes of the head over tokens of which the model's hidden states before them are known."""

    def __init__(self, model: Transformer, blocks: int, block_size: int, kv_dtype: torch.dtype | None) -> None:
        """The model's blocks, by number; `kv_dtype` as in `KVCache`."""
        weight, config = model.embed_tokens.weight, model.config
        self._model, self._device = model, weight.device
        self._cache = KVCache(config.mtp_config, blocks, block_size, weight.dtype, weight.device, 0, kv_dtype, first=1)
        self._hidden_SD = weight.new_zeros(blocks * block_size, config.hidden_size, requires_grad=False)
        self.blocks, self.block_size = blocks, block_size
        self.experts_LNk: Tensor | None = None
        self.hidden_BD: Tensor | None = None

    @torch.inference_mode()
    def keep(self, step: Step, hidden_ND: Tensor) -> None:
        """Hold the model's hidden states at all of a pass's tokens."""
        self._hidden_SD[self._places(step, 0)] = hidden_ND

    @torch.inference_mode()
    def run(self, step: Step) -> Tensor:
        """float32 logits [rows, V] of the tokens that follow; the head's own hidden states at these rows take the place
        of the model's."""
        batch = Batch(step.tokens_N, step.positions_N - 1, step.cu_seqlens).to(self._device)
        before_ND = self._hidden_SD[self._places(step, 1)]
        self._cache.place(step.tables_RM, step.lengths_R)
        rows = step.rows.to(self._device)
        hidden_BD = self._model.predict_ahead(before_ND, batch, self._cache).hidden_ND[rows]
        self._hidden_SD[self._places(step, 0)[rows]] = hidden_BD
        return self._model.head(hidden_BD).float()

    def _places(self, step: Step, before: int) -> Tensor:
        """Where the hidden state so many tokens before each of the step's is."""
        at_N = step.positions_N - before
        row_N = torch.repeat_interleave(torch.arange(len(step.lengths_R)), step.cu_seqlens.diff())
        block_N = step.tables_RM[row_N, at_N // self.block_size].long()
        return (block_N * self.block_size + at_N % self.block_size).to(self._device)

    @torch.inference_mode()
    def copy_blocks(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        self._cache.copy_blocks(sources, targets)
        held_BSD = self._hidden_SD.unflatten(0, (self.blocks, self.block_size))
        held_BSD[torch.tensor(targets)] = held_BSD[torch.tensor(sources)]

    def grow(self, blocks: int) -> None:
        self._cache.grow(blocks)
        old_SD, self.blocks = self._hidden_SD, blocks
        self._hidden_SD = old_SD.new_zeros(blocks * self.block_size, old_SD.shape[1])
        self._hidden_SD[: len(old_SD)] = old_SD

    def copy_states(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """There are none."""

    def refresh(self) -> None:
        """Nothing is copied."""

    def put_adapter(self, number: int, adapter: Adapter) -> None:
        """Adapters are the model's, not its head's."""

    def remove_adapter(self, number: int) -> None:
        """There are none."""
