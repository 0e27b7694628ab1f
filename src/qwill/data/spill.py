"""Rows of numbers on disk that are worked on in parts that fit in memory, and spans collected by document.

Deduplication asks the same of all its tables: bring together what has the same key. A table is a file of uint64 rows
whose first column is the key. Where it is larger than memory allows, it is split by ranges of the key into files that
fit, and each is then sorted by itself; nothing depends on how many there are."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint64]
Cuts = tuple[NDArray[np.int64], NDArray[np.int64]]  # offsets [documents + 1] into spans [n, 2], in characters

_COPIES = 4  # rows in memory, their order, a sorted copy and what is found in it
_MOST_PARTS = 500  # files open at once
_PIECE = 1 << 19  # rows read at once while a table is split


def put(file: BinaryIO, *columns: NDArray[Any]) -> None:
    """Append rows made of columns ([m] or [m, k]) of whole numbers of any type."""
    file.write(np.column_stack([column.astype(np.uint64, copy=False) for column in columns]).tobytes())


def parts(path: Path, columns: int, memory_mb: float, end: int = 1 << 64) -> Iterator[Rows]:
    """The rows [m, columns], m > 0, of the table, in parts in order of the ranges of their first column, which are
    below `end` and should be spread evenly. Rows with the same first column are in one part, in the table's order."""
    size = path.stat().st_size
    count = min(_MOST_PARTS, math.ceil(size * _COPIES / (memory_mb * (1 << 20))), end)
    if count <= 1:
        if size:
            yield np.fromfile(path, dtype=np.uint64).reshape(-1, columns)
        return
    step = np.uint64(-(-end // count))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="parts.") as name:
        with ExitStack() as stack:
            files = [stack.enter_context(open(Path(name) / f"{part}", "wb")) for part in range(count)]
            for first in range(0, size, 8 * columns * _PIECE):
                rows = np.fromfile(path, np.uint64, columns * _PIECE, offset=first).reshape(-1, columns)
                part_of = rows[:, 0] // step
                for part in np.flatnonzero(np.bincount(part_of.astype(np.int64))).tolist():
                    files[part].write(rows[part_of == part].tobytes())
        for part in range(count):
            rows = np.fromfile(Path(name) / f"{part}", dtype=np.uint64).reshape(-1, columns)
            if len(rows):
                yield rows


def groups(keys: Rows) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """(whether each begins a group, places in `keys` [m, columns]) of the rows that are equal to another, group after
    group, in the order of `keys` within each."""
    order = np.argsort(keys[:, 0], kind="stable") if keys.shape[1] == 1 else np.lexsort(keys.T)
    ordered = keys[order]
    same = np.concatenate(([False], (ordered[1:] == ordered[:-1]).all(axis=1), [False]))
    shared = same[1:] | same[:-1]
    return ~same[:-1][shared], order[shared]


def merged(spans: Rows) -> Rows:
    """Rows (document, start, end) in order, those of a document that touch or overlap made one."""
    if not len(spans):
        return spans
    rows = spans[np.lexsort((spans[:, 1], spans[:, 0]))].astype(np.int64)
    # The farthest end so far within the document: documents are set apart by more than any text is long.
    far = np.cumsum(np.concatenate(([False], rows[1:, 0] != rows[:-1, 0]))) << 32
    reach = np.maximum.accumulate(rows[:, 2] + far)
    begins = np.concatenate(([True], rows[1:, 1] + far[1:] > reach[:-1]))
    lasts = np.concatenate((np.flatnonzero(begins)[1:] - 1, [len(rows) - 1]))
    return np.column_stack((rows[begins, :2], (reach - far)[lasts])).astype(np.uint64)


def by_document(path: Path, documents: int, memory_mb: float) -> Cuts:
    """Spans of a table of (document, start, end) in order, those of a document that touch or overlap made one."""
    spans_path = path.with_suffix(".spans")
    counts = np.zeros(documents + 1, dtype=np.int64)
    with open(spans_path, "wb") as file:
        for rows in parts(path, 3, memory_mb, end=max(1, documents)):
            rows = merged(rows)
            put(file, rows[:, 1:])
            counts[1:] += np.bincount(rows[:, 0].astype(np.int64), minlength=documents)
    spans = np.fromfile(spans_path, dtype=np.int64).reshape(-1, 2)
    spans_path.unlink()
    return np.cumsum(counts), spans
