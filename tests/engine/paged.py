"""Sequences by number on an executor: each has its own blocks, not in order, and they take turns in any company."""

import torch

from qwill.engine.executor import Step


class Paged:
    def __init__(self, kind, model, sequences, capacity, block_size=16, kv_dtype=None):
        width = -(-capacity // block_size)
        states = 2 * sequences if model.config.has_linear else 0
        self.executor = kind(model, sequences * width, block_size, states, kv_dtype)
        self.has_states, self.lengths, self.adapters = bool(states), [0] * sequences, [-1] * sequences
        shuffled = torch.randperm(sequences * width, generator=torch.Generator().manual_seed(1))
        self.tables = shuffled.int().view(sequences, width)

    def append(self, pieces, drafted=None):
        """Sequence → its next tokens; logits after the last token of each, in the order given. `drafted` of them may
        yet not count; those that do are told to `settle`."""
        drafted = drafted or {}
        lengths = torch.tensor([self.lengths[i] for i in pieces])
        sizes = [0, *map(len, pieces.values())]
        borders = torch.tensor(sizes).cumsum(0, dtype=torch.int32)
        step = Step(
            tokens_N=torch.tensor([t for piece in pieces.values() for t in piece]),
            positions_N=torch.cat([torch.arange(self.lengths[i], self.lengths[i] + len(p)) for i, p in pieces.items()]),
            cu_seqlens=borders, lengths_R=lengths, tables_RM=self.tables[list(pieces)],
            states_R=torch.tensor([i if self.has_states else -1 for i in pieces]),
            rows=borders[1:].long() - 1, adapters_R=torch.tensor([self.adapters[i] for i in pieces]),
            drafts_R=torch.tensor([drafted.get(i, 0) for i in pieces]) if drafted else None,
        )  # fmt: skip
        for i, piece in pieces.items():
            self.lengths[i] += len(piece) - drafted.get(i, 0)
        return self.executor.run(step).clone()

    def settle(self, taken):
        """So many of the drafted tokens of these sequences count."""
        self.executor.settle({i: count for i, count in taken.items() if count})
        for i, count in taken.items():
            self.lengths[i] += count

    def copy(self, source, target):
        self.executor.copy_blocks(self.tables[source].tolist(), self.tables[target].tolist())
        if self.has_states:
            self.executor.copy_states([source], [target])
        self.lengths[target] = self.lengths[source]
