"""Documents → token rows: tokenise once, pack without padding, read any step's rows from its number alone.

Every document is the stream [<|endoftext|>, t1 … tn] predicting [t1 … tn, <|endoftext|>]; `<|endoftext|>` is thus the
context of a document's first token, as between documents in Qwen's own pretraining. Rows of `width` tokens are filled
best-fit, longest piece first; the last gap of a row is filled by cutting a piece, so there is no padding at all.
A row's pieces are separate sequences to attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qwill.base.errors import DataError
from qwill.base.files import write_bytes, write_json
from qwill.model.batch import Batch
from qwill.text.tokenizer import Tokenizer


@dataclass
class TokenStore:
    """`tokens` holds all documents' streams end to end; document i is tokens[offsets[i]:offsets[i+1]] (with its leading
    `<|endoftext|>`); `lengths_bytes[i]` is its size as UTF-8; `language[i]` indexes `languages`."""

    tokens: np.ndarray
    offsets: np.ndarray
    lengths_bytes: np.ndarray
    language: np.ndarray
    languages: list[str]
    end_id: int


def tokenize_corpus(parquet: Path, tokenizer: Tokenizer, folder: Path) -> TokenStore:
    """Tokenise the `text` column once into `folder`; a finished store there is read back (memory-mapped)."""
    import pyarrow.parquet as pq

    from qwill.base.files import read_json

    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "store.json"
    if not done.exists():
        table = pq.read_table(parquet, columns=["text", "language"])
        texts, names = table["text"].to_pylist(), table["language"].to_pylist()
        if not texts:
            raise DataError(f"{parquet}: holds no documents; the corpus stage must keep at least one.")
        languages = sorted(set(names))
        end_id = tokenizer.special("<|endoftext|>")
        streams = [[end_id, *ids] for ids in tokenizer.encode_batch(texts)]
        dtype = np.uint16 if tokenizer.vocab_size <= 65536 else np.uint32
        arrays = {
            "tokens": np.fromiter((t for s in streams for t in s), dtype=dtype),
            "offsets": np.cumsum([0, *(len(s) for s in streams)], dtype=np.int64),
            "lengths_bytes": np.array([len(t.encode()) for t in texts], dtype=np.int64),
            "language": np.array([languages.index(n) for n in names], dtype=np.int8),
        }
        for name, array in arrays.items():
            write_bytes(folder / f"{name}.{array.dtype.name}", array.tobytes())
        write_json(done, {"languages": languages, "end_id": end_id, "dtype": np.dtype(dtype).name})
    info = read_json(done)
    arrays_of_store = ("tokens", "offsets", "lengths_bytes", "language")
    read = {
        name: np.memmap(folder / f"{name}.{kind}", dtype=kind, mode="r")
        for name, kind in zip(arrays_of_store, (info["dtype"], "int64", "int64", "int8"), strict=True)
    }  # fmt: skip
    return TokenStore(**read, languages=info["languages"], end_id=info["end_id"])


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


@dataclass
class TrainingRows:
    batch: Batch
    targets_N: torch.Tensor


class RowLoader:
    """Step number → rows, with nothing to remember: epoch e visits all rows in the order drawn from (seed, e)."""

    def __init__(self, store: TokenStore, width: int, rows_per_step: int, seed: int) -> None:
        self.store, self.width, self.rows_per_step, self.seed = store, width, rows_per_step, seed
        lengths = np.diff(store.offsets).tolist()
        self.rows = pack_rows(lengths, store.offsets[:-1].tolist(), width)
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
        pieces = [p for r in self.row_indices(step) for p in self.rows[r]]
        tokens = np.concatenate([self.store.tokens[p.start : p.start + p.length] for p in pieces]).astype(np.int64)
        targets = np.empty_like(tokens)
        targets[:-1] = tokens[1:]
        lengths = np.array([p.length for p in pieces])
        last = np.cumsum(lengths) - 1
        following = [p.start + p.length for p in pieces]
        targets[last] = [self.store.end_id if f in self.ends else int(self.store.tokens[f]) for f in following]
        cu = torch.from_numpy(np.concatenate([[0], last + 1]).astype(np.int32))
        positions = np.arange(len(tokens)) - np.repeat(last + 1 - lengths, lengths)
        batch = Batch(torch.from_numpy(tokens), torch.from_numpy(positions), cu, row_length=self.width)
        return TrainingRows(batch, torch.from_numpy(targets))

    def consumed(self, steps: int) -> Iterator[tuple[int, int, int]]:
        """(document, first token, last token + 1) of every piece that the first `steps` steps read, each once."""
        seen = sorted({r for s in range(min(steps, self.steps_per_epoch)) for r in self.row_indices(s)})
        if steps > self.steps_per_epoch:
            seen = sorted({*seen, *(r for s in range(self.steps_per_epoch, steps) for r in self.row_indices(s))})
        pieces = sorted((p.start, p.start + p.length) for r in seen for p in self.rows[r])
        documents = np.searchsorted(self.store.offsets, [a for a, _ in pieces], side="right") - 1
        for document, (a, b) in zip(documents.tolist(), pieces, strict=True):
            yield document, a, b
