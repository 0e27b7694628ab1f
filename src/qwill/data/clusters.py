"""Duplicates: which documents say the same, and which of them stays; in bounded memory, however many there are.

Documents meet in a bucket where they share a key (`minhash.band_keys`, or 16 bytes of `units.text_key`). Clusters are
transitive over every shared key, as datatrove's are, and of each one document stays: that of the highest quality, of
those the longest, of those the first. So the answer depends on the documents alone: not on their order (but for the
last tie), nor on chunks, nor on the memory that is allowed.

Keys go to disk as they come, one file a band. A band is sorted in memory, or, where it is larger than allowed, split by
ranges of its keys into files that fit; one bucket is never split. What is held for all documents at once is about 50
bytes each: the parent of each in its cluster (union–find), quality, length and answer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError
from qwill.data.minhash import BandKeys, MinHash, similarity
from qwill.data.spill import groups, parts, put
from qwill.data.units import mix

Indices = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_MOST_LEADERS = 64  # a bucket with more unlike documents than this is boilerplate; bounds the work it can cause
_STEP = 1 << 16  # documents whose sketches are looked at together


@dataclass(frozen=True)
class Clusters:
    """For each of n documents the index of the one that stays for it (its own where it stays), int64 [n], and how alike
    the two are (Jaccard similarity 0..1, estimated; 1 for itself and for exact duplicates), float32 [n]."""

    representative: Indices
    similarity: NDArray[np.float32]

    def gone(self) -> Indices:
        """Indices of the documents that go, ascending."""
        return np.flatnonzero(self.representative != np.arange(len(self.representative)))


def near_duplicates(
    chunks: Iterable[BandKeys],
    quality: NDArray[np.float32],
    length: Indices,
    settings: MinHash,
    work: Path,
    memory_mb: float = 1024,
) -> Clusters:
    """Clusters of the documents whose band keys come in `chunks`, in order of reading.

    `quality`, `length`: [n], which decide who stays; not a number counts as the least quality. `work`: a folder for
    temporary files, about 350 bytes a document. `memory_mb`: for sorting, beside the 50 bytes a document. A document
    whose `has` is unset is its own cluster. Raises DataError where chunks and quality tell of different numbers of
    documents."""
    with tempfile.TemporaryDirectory(dir=work, prefix="bands.") as name:
        folder = Path(name)
        _spill(((c.keys[:, :, None], c.sketches, c.has) for c in chunks), settings.bands, len(quality), folder)
        parent = _single(len(quality))
        for band in range(settings.bands):
            for starts, members in _buckets(folder / f"{band}", 1, memory_mb):
                if settings.verify is None:
                    _join(parent, *_with_first(starts, members))
                else:
                    order = _ranked(starts, members, quality, length, folder / "sketches", settings.functions)
                    for pairs in _alike(*order, folder / "sketches", settings):
                        _join(parent, *pairs)
            _flatten(parent)
        representative = _choose(parent, quality, length)
        alike = np.ones(len(quality), dtype=np.float32)
        for some in _steps(Clusters(representative, alike).gone()):
            alike[some] = _compare(some, representative[some], folder / "sketches", settings.functions)
        return Clusters(representative, alike)


def exact_duplicates(
    chunks: Iterable[NDArray[np.uint8]],
    quality: NDArray[np.float32],
    length: Indices,
    work: Path,
    memory_mb: float = 1024,
) -> Clusters:
    """Clusters of documents with equal keys of 16 bytes (uint8 [k, 16] a chunk; `units.text_key`); the rest as in
    `near_duplicates`."""
    with tempfile.TemporaryDirectory(dir=work, prefix="keys.") as name:
        folder = Path(name)
        told = (np.ascontiguousarray(c).view(np.uint64) for c in chunks)
        _spill(((k[:, None, :], None, np.ones(len(k), dtype=np.bool_)) for k in told), 1, len(quality), folder)
        parent = _single(len(quality))
        for starts, members in _buckets(folder / "0", 2, memory_mb):
            _join(parent, *_with_first(starts, members))
        _flatten(parent)
    return Clusters(_choose(parent, quality, length), np.ones(len(quality), dtype=np.float32))


# Keys on disk


def _spill(
    chunks: Iterable[tuple[Hashes, NDArray[np.uint8] | None, NDArray[np.bool_]]], bands: int, count: int, folder: Path
) -> None:
    """Write one table a band, of keys and document, and `sketches` (of all documents).

    A chunk: keys [k, bands, width], sketches [k, functions], which have keys [k]."""
    read = 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{band}", "wb")) for band in range(bands)]
        sketches = stack.enter_context(open(folder / "sketches", "wb"))
        for keys, sketch, has in chunks:
            if keys.shape[1] != bands:
                raise DataError(f"keys of {keys.shape[1]} bands where the settings say {bands}; make them again.")
            documents = np.flatnonzero(has) + read
            for band, file in enumerate(files):
                put(file, keys[has, band], documents)
            if sketch is not None:
                sketches.write(sketch.tobytes())
            read += len(keys)
    if read != count:
        raise DataError(f"keys of {read} documents, but the quality of {count}; give one for each document.")


def _buckets(table: Path, width: int, memory_mb: float) -> Iterator[tuple[NDArray[np.bool_], Indices]]:
    """Documents that share their key with another, bucket after bucket, and whether each begins its bucket."""
    for rows in parts(table, width + 1, memory_mb):
        starts, places = groups(rows[:, :width])
        yield starts, rows[places, width].astype(np.int64)


# Which pairs of a bucket are one


def _with_first(starts: NDArray[np.bool_], members: Indices) -> tuple[Indices, Indices]:
    """Every pair of a bucket's first document and another of it."""
    first = np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))
    return members[first[~starts]], members[~starts]


def _ranked(
    starts: NDArray[np.bool_],
    members: Indices,
    quality: NDArray[np.float32],
    length: Indices,
    sketches: Path,
    functions: int,
) -> tuple[NDArray[np.bool_], Indices]:
    """The buckets with their members in an order that only the documents' content decides: best, longest, then by
    sketch. Documents with equal sketches are like the same others, so their own order decides nothing."""
    content = np.empty(len(members), dtype=np.uint64)
    for places in _steps(np.arange(len(members))):
        padded = np.zeros((len(places), -(-functions // 8) * 8), dtype=np.uint8)
        padded[:, :functions] = _rows(members[places], sketches, functions)
        told = np.zeros(len(places), dtype=np.uint64)
        for word in padded.view(np.uint64).T:
            told = mix(told * np.uint64(0x9E3779B97F4A7C15) + word)
        content[places] = told
    order = np.lexsort((members, content, -length[members], -_comparable(quality[members]), np.cumsum(starts)))
    return starts, members[order]


def _alike(
    starts: NDArray[np.bool_], members: Indices, sketches: Path, settings: MinHash
) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of a bucket that are alike enough: each of the rest is compared with the first, those that are unlike it
    with the first of them, and so on."""
    bucket = np.cumsum(starts)
    for _ in range(_MOST_LEADERS):
        starts = np.concatenate((np.ones(min(1, len(bucket)), dtype=np.bool_), bucket[1:] != bucket[:-1]))
        leaders, rest = _with_first(starts, members)
        if not len(rest):
            return
        alike = np.empty(len(rest), dtype=np.bool_)
        for places in _steps(np.arange(len(rest))):
            found = _compare(leaders[places], rest[places], sketches, settings.functions)
            alike[places] = found >= np.float32(settings.verify or 0.0)
        yield leaders[alike], rest[alike]
        members, bucket = rest[~alike], bucket[~starts][~alike]


def _steps(indices: Indices) -> Iterator[Indices]:
    for first in range(0, len(indices), _STEP):
        yield indices[first : first + _STEP]


def _rows(documents: Indices, sketches: Path, functions: int) -> NDArray[np.uint8]:
    """Sketches [m, functions]. The file is mapped anew each time: pages of a mapping that is kept count as memory."""
    return np.array(np.memmap(sketches, dtype=np.uint8, mode="r").reshape(-1, functions)[documents])


def _compare(a: Indices, b: Indices, sketches: Path, functions: int) -> NDArray[np.float32]:
    return similarity(_rows(a, sketches, functions), _rows(b, sketches, functions))


# Clusters


def _single(count: int) -> NDArray[Any]:
    """Every document its own cluster. The parent of each has a smaller index or is itself; roots name the clusters."""
    return np.arange(count, dtype=np.int32 if count < 1 << 31 else np.int64)


def _join(parent: NDArray[Any], a: Indices, b: Indices) -> None:
    """Make one cluster of each pair's two, in place.

    All pairs at once: the root of the higher name takes the least of the roots it is paired with as its parent, until
    no pair is left with two roots."""
    one, other = a.astype(parent.dtype), b.astype(parent.dtype)
    while len(one):
        one, other = _roots(parent, one), _roots(parent, other)
        differ = one != other
        one, other = one[differ], other[differ]
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))


def _roots(parent: NDArray[Any], members: NDArray[Any]) -> NDArray[Any]:
    """The name of each member's cluster; their paths to it are halved until they are short."""
    while True:
        above = parent[members]
        higher = parent[above]
        if np.array_equal(above, higher):
            return above
        parent[members] = higher


def _flatten(parent: NDArray[Any]) -> None:
    """Make every document's parent the name of its cluster."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return
        parent[:] = above


def _choose(parent: NDArray[Any], quality: NDArray[np.float32], length: Indices) -> Indices:
    """Of each cluster the best, the longest, the first; for every document the one that stays."""
    known = _comparable(quality)
    best = np.full(len(parent), -np.inf, dtype=np.float32)
    np.maximum.at(best, parent, known)
    candidates = np.flatnonzero(known == best[parent])
    longest = np.full(len(parent), np.iinfo(np.int64).min)
    np.maximum.at(longest, parent[candidates], length[candidates])
    candidates = candidates[length[candidates] == longest[parent[candidates]]]
    first = np.full(len(parent), len(parent))
    np.minimum.at(first, parent[candidates], candidates)
    return first[parent]


def _comparable(quality: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isnan(quality), np.float32(-np.inf), quality).astype(np.float32, copy=False)
