"""Sequences in slots, prefill, one step for all: what `generate` asks of a model.

`SlotExecutor` runs the model itself, on any device and dtype, each slot being one large block of its cache;
`NativeSlots` has the native
executor run it on a CPU, quicker: a slot is a row of blocks there. Shape letters: B running sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from qwill.base.errors import ModelError
from qwill.engine import native
from qwill.engine.executor import Step
from qwill.model.batch import Batch
from qwill.model.cache import KVCache

if TYPE_CHECKING:
    from qwill.model.transformer import Transformer

PREFILL_TOKENS = 4096  # tokens of one prefill pass: bounds the attention mask and activations
PREFILL_CHUNK = 512  # longest piece of a prompt in one pass
PASS, BLOCK = 1024, 16  # tokens of one pass of the native executor, and of one of its blocks


class Slots(Protocol):
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


def executor_for(model: Transformer, slots: int, capacity: int) -> Slots:
    """The quickest executor that can run this model here. Weights may be copied: make a new one when they
    change.
    """
    kind = NativeSlots if native.suits(model) else SlotExecutor
    return kind(model, slots, capacity)


class SlotExecutor:
    """The model's own forward pass; slot i is block i of its cache, and its marked recurrent state is `slots` + i."""

    def __init__(self, model: Transformer, slots: int, capacity: int) -> None:
        self._model, self._weight, self._slots = model, model.embed_tokens.weight, slots
        self._borders = torch.arange(slots + 1, dtype=torch.int32)
        self.lengths, self._marks = torch.zeros(slots, dtype=torch.int64), torch.zeros(slots, dtype=torch.int64)
        self._cache, self.capacity = self._new_cache(capacity), capacity

    def _new_cache(self, capacity: int) -> KVCache:
        weight = self._weight
        return KVCache(self._model.config, self._slots, capacity, weight.dtype, weight.device, 2 * self._slots)

    def grow(self, capacity: int) -> None:
        old, self._cache = self._cache, self._new_cache(capacity)
        for kind in ("keys", "values"):
            for i, store in getattr(self._cache, kind).items():
                before = getattr(old, kind)[i].codes.unflatten(0, (self._slots, -1))
                store.codes.unflatten(0, (self._slots, -1))[:, : self.capacity] = before
        self._cache.inputs, self._cache.states = old.inputs, old.states
        self.capacity = capacity

    def _run(self, batch: Batch, slots: list[int]) -> Tensor:
        tables = torch.tensor(slots)
        self._cache.place(tables[:, None], self.lengths[tables], tables)
        hidden_ND = self._model(batch, self._cache).hidden_ND
        self.lengths[tables] += batch.lengths.long()
        return hidden_ND

    def step(self, tokens_B: Tensor) -> Tensor:
        count = len(tokens_B)
        batch = Batch(tokens_B, self.lengths[:count].to(self._weight.device), self._borders[: count + 1], row_length=1)
        return self._model.head(self._run(batch, list(range(count)))).float()

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
                out_ND = self._run(batch, places)
                for i, end in zip(rows, batch.cu_seqlens[1:].tolist(), strict=True):
                    hidden[i] = out_ND[end - 1]
        return self._model.head(torch.stack([hidden[i] for i in range(len(prompts))])).float()

    def mark(self, slots: list[int]) -> None:
        self._cache.copy_states(slots, [self._slots + i for i in slots])
        self._marks[slots] = self.lengths[slots]

    def rewind(self, slot: int, length: int) -> None:
        self._states_at(slot, length, [slot])
        self.lengths[slot] = length

    def copy(self, source: int, targets: list[int], length: int) -> None:
        self._cache.copy_blocks([source] * len(targets), targets)
        self._states_at(source, length, targets)
        self.lengths[targets] = length

    def _states_at(self, source: int, length: int, targets: list[int]) -> None:
        """Give the slots `targets` the recurrent states of slot `source` after `length` tokens, and its mark there."""
        if not self._cache.states or length == 0:
            return
        at_mark = length == int(self._marks[source])
        if not at_mark and length != int(self.lengths[source]):
            raise ModelError(
                f"a Gated DeltaNet's state cannot go back to {length} tokens: it is known after "
                f"{int(self._marks[source])} and {int(self.lengths[source])}"
            )
        now = source + self._slots if at_mark else source
        self._cache.copy_states([now] * 2 * len(targets), targets + [self._slots + i for i in targets])
        self._marks[targets] = length

    def move(self, sources: list[int], targets: list[int]) -> None:
        self._cache.copy_blocks(sources, targets)
        marked = [[self._slots + i for i in slots] for slots in (sources, targets)]
        self._cache.copy_states(sources + marked[0], targets + marked[1])
        self.lengths[targets], self._marks[targets] = self.lengths[sources], self._marks[sources]
        self.lengths[sources] = 0


class NativeSlots:
    """The native executor, slot i being its blocks from i · M on."""

    def __init__(self, model: Transformer, slots: int, capacity: int) -> None:
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        per_slot = -(-capacity // BLOCK)
        self._executor = native.NativeExecutor(model, slots * per_slot, BLOCK)
        self._place(per_slot)

    def _place(self, per_slot: int) -> None:
        slots = len(self.lengths)
        self.capacity = per_slot * BLOCK
        self._tables = torch.arange(slots * per_slot, dtype=torch.int32).view(slots, per_slot)
        self._none, self._ones = torch.full((slots,), -1), torch.arange(slots + 1, dtype=torch.int32)

    def grow(self, capacity: int) -> None:
        slots, before, now = len(self.lengths), self.capacity // BLOCK, -(-capacity // BLOCK)
        old = self._executor.resize(slots * now)
        for new, store in zip(self._executor.cache, old, strict=True):
            new.unflatten(1, (slots, now))[:, :, :before] = store.unflatten(1, (slots, before))
        self._place(now)

    def step(self, tokens_B: Tensor) -> Tensor:
        count = len(tokens_B)
        none, lengths = self._none[:count], self.lengths[:count]
        rows = torch.arange(count)
        places = (lengths.clone(), self._ones[: count + 1], lengths, self._tables[:count])
        step = Step(tokens_B.contiguous(), *places, none, rows, none)
        logits = self._executor.run(step)
        lengths += 1
        return logits

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        logits = []
        waiting = [(list(prompt), slot) for prompt, slot in zip(prompts, slots, strict=True)]
        while waiting:
            pieces: list[tuple[list[int], int]] = []
            done, room = 0, PASS
            while waiting and room:
                prompt, slot = waiting.pop(0)
                pieces.append((prompt[:room], slot))
                if prompt[room:]:
                    waiting.insert(0, (prompt[room:], slot))
                else:
                    done += 1
                room -= len(pieces[-1][0])
            logits.append(self._run(pieces, done).clone())
        return torch.cat(logits)

    def _run(self, pieces: list[tuple[list[int], int]], done: int) -> Tensor:
        """Append pieces of prompts to their slots; logits after the first `done` of them, which are those that end."""
        batch = Batch.pack([p for p, _ in pieces], starts=self.lengths[[s for _, s in pieces]].tolist())
        places = torch.tensor([slot for _, slot in pieces])
        none, rows = self._none[places], batch.cu_seqlens[1 : done + 1].long() - 1
        lengths, tables = self.lengths[places], self._tables[places]
        step = Step(batch.tokens_N, batch.positions_N, batch.cu_seqlens, lengths, tables, none, rows, none)
        logits = self._executor.run(step)
        self.lengths[places] += batch.lengths.long()
        return logits

    def copy(self, source: int, targets: list[int], length: int) -> None:
        count = -(-length // BLOCK)
        wanted = [self._tables[t, i].item() for t in targets for i in range(count)]
        self._executor.copy_blocks(self._tables[source, :count].tolist() * len(targets), [int(b) for b in wanted])
        self.lengths[targets] = length

    def mark(self, slots: list[int]) -> None:
        """Nothing to remember: keys and values can be cut off anywhere."""

    def rewind(self, slot: int, length: int) -> None:
        self.lengths[slot] = length

    def move(self, sources: list[int], targets: list[int]) -> None:
        for source, target in zip(sources, targets, strict=True):
            self.copy(source, [target], int(self.lengths[source]))
        self.lengths[sources] = 0
