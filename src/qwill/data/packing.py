"""Token shards → rows: pack without padding, read any step's rows from its number alone.

Every document is the stream [<|endoftext|>, t1 … tn] predicting [t1 … tn, <|endoftext|>]; `<|endoftext|>` is thus the
context of a document's first token, as between documents in Qwen's own pretraining. Rows of `width` tokens are filled
best-fit, longest piece first; the last gap of a row is filled by cutting a piece, so there is no padding at all.
A row's pieces are separate sequences to attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qwill.base.errors import DataError
from qwill.data.token_shards import TokenStore, tokenize_corpus
from qwill.model.batch import Batch

__all__ = ["Piece", "RowLoader", "TokenStore", "TrainingRows", "assemble", "pack_rows", "tokenize_corpus"]


@dataclass(frozen=True)
class Piece:
    """Tokens [start, start + length) of the store, all of one document."""

    start: int
    length: int


def pack_rows(lengths: Sequence[int], starts: Sequence[int], width: int) -> list[list[Piece]]:
    """Fill rows of exactly `width` tokens with pieces; what is left at the very end (less than a row) is dropped.

    Documents longer than a row are cut into full rows first. Each further row takes the longest piece that fits into
    what is left of it, again and again; when none fits, the shortest piece is cut to fill the gap.
    """
    rows: list[list[Piece]] = []
    buckets: list[list[Piece]] = [[] for _ in range(width + 1)]
    for start, length in zip(starts, lengths, strict=True):
        while length >= width:
            rows.append([Piece(start, width)])
            start, length = start + width, length - width
        if length:
            buckets[length].append(Piece(start, length))
    total = sum(len(b) * i for i, b in enumerate(buckets))
    while total >= width:
        row, room = [], width
        while room:
            size = next((i for i in range(room, 0, -1) if buckets[i]), 0)
            if size:
                piece = buckets[size].pop()
            else:
                size = next(i for i in range(room + 1, width + 1) if buckets[i])
                whole = buckets[size].pop()
                piece = Piece(whole.start, room)
                buckets[size - room].append(Piece(whole.start + room, size - room))
            row.append(piece)
            room -= piece.length
        rows.append(row)
        total -= width
    return rows


def _rows(store: TokenStore, width: int) -> list[list[Piece]]:
    """Rows of every document's first copy, then of all second copies, and so on: no row holds a text twice."""
    copies = np.ones(len(store.offsets) - 1, dtype=np.int64) if store.copies is None else store.copies
    lengths, rows = np.diff(store.offsets), list[list[Piece]]()
    for number in range(int(copies.max(initial=0))):
        again = copies > number
        rows += pack_rows(lengths[again].tolist(), store.offsets[:-1][again].tolist(), width)
    return rows


@dataclass
class TrainingRows:
    batch: Batch
    targets_N: torch.Tensor


def assemble(store: TokenStore, pieces: Sequence[Piece], ends: set[int], width: int) -> TrainingRows:
    """The pieces of whole rows as a batch with its targets; `ends`: where documents end in the store."""
    tokens = np.concatenate([store.tokens[p.start : p.start + p.length] for p in pieces]).astype(np.int64)
    targets = np.empty_like(tokens)
    targets[:-1] = tokens[1:]
    lengths = np.array([p.length for p in pieces])
    last = np.cumsum(lengths) - 1
    following = [p.start + p.length for p in pieces]
    targets[last] = [store.end_id if f in ends else int(store.tokens[f]) for f in following]
    cu = torch.from_numpy(np.concatenate([[0], last + 1]).astype(np.int32))
    positions = np.arange(len(tokens)) - np.repeat(last + 1 - lengths, lengths)
    batch = Batch(torch.from_numpy(tokens), torch.from_numpy(positions), cu, row_length=width)
    return TrainingRows(batch, torch.from_numpy(targets))


class RowLoader:
    """Step number → rows, with nothing to remember: epoch e visits all rows in the order drawn from (seed, e)."""

    def __init__(self, store: TokenStore, width: int, rows_per_step: int, seed: int) -> None:
        self.store, self.width, self.rows_per_step, self.seed = store, width, rows_per_step, seed
        self.rows = _rows(store, width)
        if len(self.rows) < rows_per_step:
            raise DataError(
                f"the corpus fills {len(self.rows)} rows of {width} tokens, fewer than the {rows_per_step} of one "
                "step; add text or lower batch_rows."
            )
        self.ends = set((store.offsets[1:]).tolist())
        self._orders: dict[int, np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> int:
        return len(self.rows) // self.rows_per_step

    def row_indices(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._orders:
            self._orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))}
        first = place * self.rows_per_step
        return self._orders[epoch][first : first + self.rows_per_step].tolist()

    def step(self, step: int) -> TrainingRows:
        return assemble(self.store, [p for r in self.row_indices(step) for p in self.rows[r]], self.ends, self.width)

    def consumed(self, steps: int) -> Iterator[tuple[int, int, int]]:
        """(document, first token, last token + 1) of what the first `steps` steps read, each token once."""
        seen = sorted({r for s in range(min(steps, self.steps_per_epoch)) for r in self.row_indices(s)})
        if steps > self.steps_per_epoch:
            seen = sorted({*seen, *(r for s in range(self.steps_per_epoch, steps) for r in self.row_indices(s))})
        pieces = sorted((p.start, p.start + p.length) for r in seen for p in self.rows[r])
        documents = np.searchsorted(self.store.offsets, [a for a, _ in pieces], side="right") - 1
        told = 0
        for document, (a, b) in zip(documents.tolist(), pieces, strict=True):
            # Copies of a document may be cut at other places, so their pieces can overlap.
            a, told = max(a, told), max(b, told)
            if a < b:
                yield document, a, b
