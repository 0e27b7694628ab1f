"""What generation asks of a model: sequences in slots, prefill, one step for all. Two executors of the one
definition.

`TorchExecutor` runs the model itself, on any device and dtype; `native.NativeExecutor` runs float32 on a CPU,
quicker. Shape letters: B running sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from qwill.engine import native
from qwill.model.batch import Batch
from qwill.model.cache import KVCache

if TYPE_CHECKING:
    from qwill.model.transformer import Transformer

PREFILL_TOKENS = 4096  # tokens of one prefill pass: bounds the attention mask and activations
PREFILL_CHUNK = 512  # longest piece of a prompt in one pass


class Executor(Protocol):
    """`lengths` (int64, CPU) says how many tokens each slot holds; setting one to 0 empties the slot."""

    lengths: Tensor
    capacity: int

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        """Append prompts to the sequences in the given slots; float32 logits [prompts, V] after each one's
        last token.
        """

    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to each of the first B slots; float32 logits [B, V], valid until the next call."""

    def mark(self, slots: list[int]) -> None:
        """Make the sequences in these slots, as they are, something that `rewind` and `copy` can come back to."""

    def rewind(self, slot: int, length: int) -> None:
        """Cut the sequence in a slot off after `length` tokens, its length at its mark."""

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Give the slots `targets` the first `length` tokens of slot `source`: all of them, or up to its mark."""

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Move whole sequences to other slots; `sources` are free afterwards."""

    def grow(self, capacity: int) -> None:
        """Make room for sequences of `capacity` tokens, keeping what is cached."""


def executor_for(model: Transformer, slots: int, capacity: int) -> Executor:
    """The quickest executor that can run this model here. Weights may be copied: make a new one when they
    change.
    """
    kind = native.NativeExecutor if native.suits(model) else TorchExecutor
    return kind(model, slots, capacity)


class TorchExecutor:
    """The model's own forward pass with its key/value cache."""

    def __init__(self, model: Transformer, slots: int, capacity: int) -> None:
        self._model, self._weight = model, model.embed_tokens.weight
        self._borders = torch.arange(slots + 1, dtype=torch.int32)
        self._cache = self._new_cache(slots, capacity)
        self.lengths, self.capacity = self._cache.lengths, capacity

    def _new_cache(self, slots: int, capacity: int) -> KVCache:
        return KVCache(self._model.config, slots, capacity, self._weight.dtype, self._weight.device)

    def grow(self, capacity: int) -> None:
        old, self._cache = self._cache, self._new_cache(len(self.lengths), capacity)
        self._cache.take_over(old)
        self.capacity = capacity

    def step(self, tokens_B: Tensor) -> Tensor:
        count, device = len(tokens_B), self._weight.device
        batch = Batch(tokens_B, self.lengths[:count].to(device), self._borders[: count + 1], row_length=1)
        return self._model.head(self._model(batch, self._cache.select(count)).hidden_ND).float()

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        # Prompts of similar length share a pass, so that attention pads little.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        hidden: dict[int, Tensor] = {}
        while order:
            width = min(len(prompts[order[-1]]), PREFILL_CHUNK)
            group = order[-max(1, PREFILL_TOKENS // width) :]
            del order[-len(group) :]
            for start in range(0, len(prompts[group[-1]]), PREFILL_CHUNK):
                rows = [i for i in group if len(prompts[i]) > start]
                pieces = [prompts[i][start : start + PREFILL_CHUNK] for i in rows]
                places = [slots[i] for i in rows]
                batch = Batch.pack(pieces, starts=self.lengths[places].tolist()).to(self._weight.device)
                out_ND = self._model(batch, self._cache.select(places)).hidden_ND
                for i, end in zip(rows, batch.cu_seqlens[1:].tolist(), strict=True):
                    hidden[i] = out_ND[end - 1]
        return self._model.head(torch.stack([hidden[i] for i in range(len(prompts))])).float()

    def mark(self, slots: list[int]) -> None:
        self._cache.mark(slots)

    def rewind(self, slot: int, length: int) -> None:
        self._cache.rewind(slot, length)

    def copy(self, source: int, targets: list[int], length: int) -> None:
        self._cache.copy(source, targets, length)

    def move(self, sources: list[int], targets: list[int]) -> None:
        self._cache.move(sources, targets)
