"""Lines, paragraphs or sentences that many documents hold: the boilerplate of a site, a licence, a chain letter.

As CCNet does with paragraphs (Wenzek et al. 2020, section 3.2), each is compared by a hash of its normalised form, over
the whole corpus. What is counted is documents, so a refrain that only one poem repeats stays. Sentences end at the
marks of Chinese as well as of English (datatrove's sentence deduplication finds none in Chinese, #324).

Hashes have 64 bits: among a thousand million different lines, two are taken for equal in one corpus of thirty.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qwill.data.spill import Cuts, Rows, by_document, groups, parts, put
from qwill.data.units import normalise

_CLOSING = "\"'”’」』】〉》）)\\]"
# What ends a unit. A run of marks is looked at once, from its first, so that a million dots take no time either.
_ENDS = {
    "line": re.compile(r"\n"),
    "paragraph": re.compile(r"\n[^\S\n]*+\n\s*+"),
    "sentence": re.compile(
        rf"(?<![。！？｡])[。！？｡]++[{_CLOSING}]*+\s*+|(?<![.!?…])[.!?…]++[{_CLOSING}]*+\s++|\n\s*+"
    ),
}
_BATCH = 1 << 16  # rows written at once


@dataclass(frozen=True)
class LineDuplicates:
    """unit: what is compared. least: bytes of UTF-8 that its normalised form must have to be cut (24 are 24 English
    letters or 8 Chinese characters, which say about as much). most: documents that may hold it. keep_first: whether the
    first document that holds one of more than `most` keeps it, or all lose it."""

    unit: Literal["line", "paragraph", "sentence"] = "line"
    least: int = 24
    most: int = 1
    keep_first: bool = True


def units(text: str, unit: str) -> Iterator[tuple[int, int]]:
    """Where each unit of `text` begins and ends, in characters, with the white space after it; together all of it."""
    start = 0
    for match in _ENDS[unit].finditer(text):
        yield start, match.end()
        start = match.end()
    if start < len(text):
        yield start, len(text)


def line_cuts(
    texts: Iterable[tuple[int, str]], count: int, settings: LineDuplicates, work: Path, memory_mb: float = 1024
) -> Cuts:
    """What to cut from each of `count` documents: (offsets int64 [count + 1], spans int64 [n, 2]), the spans of a
    document in characters, in order and apart.

    `texts`: (index, text) in ascending order; documents that are left out have no spans. `work`: a folder for temporary
    files, 32 bytes a line and as many again where they don't fit in `memory_mb`."""
    with tempfile.TemporaryDirectory(dir=work, prefix="lines.") as name:
        table, cuts = Path(name) / "lines", Path(name) / "cuts"
        _write(texts, settings, table)
        with open(cuts, "wb") as file:
            for rows in parts(table, 4, memory_mb):
                starts, places = groups(rows[:, :1])
                put(file, _too_common(starts, rows[places, 1:], settings))
        return by_document(cuts, count, memory_mb)


def _write(texts: Iterable[tuple[int, str]], settings: LineDuplicates, table: Path) -> None:
    """A row for each unit that is long enough: (hash, document, start, end)."""
    batch: list[tuple[int, int, int, int]] = []
    with open(table, "wb") as file:
        for index, text in texts:
            for start, end in units(text, settings.unit):
                told = " ".join(normalise(text[start:end]).split()).encode("utf-8", "surrogatepass")
                if len(told) >= max(1, settings.least):
                    key = int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")
                    batch.append((key, index, start, end))
                if len(batch) >= _BATCH:
                    put(file, np.array(batch, dtype=np.uint64))
                    batch.clear()
        if batch:
            put(file, np.array(batch, dtype=np.uint64))


def _too_common(starts: NDArray[np.bool_], rows: Rows, settings: LineDuplicates) -> Rows:
    """Those of the rows (document, start, end), group after group of equal units, that are to be cut."""
    if not len(rows):
        return rows
    another = starts.copy()
    another[1:] |= rows[1:, 0] != rows[:-1, 0]
    group = np.cumsum(starts) - 1
    documents = np.bincount(group, weights=another).astype(np.int64)
    cut = documents[group] > settings.most
    if settings.keep_first:
        cut &= rows[:, 0] != rows[np.flatnonzero(starts)[group], 0]
    return rows[cut]
