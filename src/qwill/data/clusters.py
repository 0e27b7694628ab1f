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

import math
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
from qwill.data.units import mix

Indices = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_MOST_LEADERS = 64  # a bucket with more unlike documents than this is boilerplate; bounds the work it can cause
_PER_ENTRY = 64  # bytes that grouping an entry takes at its peak: entry, order, sorted copies
_MOST_PARTS = 500  # files open at once; at 64 bytes an entry a thousand million documents are then 128 MB a part
_STEP = 1 << 16  # documents whose sketches are looked at together
_PIECE = 1 << 20  # entries of a band that are split together


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
    temporary files, about 250 bytes a document. `memory_mb`: for sorting, beside the 50 bytes a document. A document
    whose `has` is unset is its own cluster. Raises DataError where chunks and quality tell of different numbers of
    documents."""
    with tempfile.TemporaryDirectory(dir=work, prefix="bands.") as name:
        folder = Path(name)
        _spill(((c.keys[:, :, None], c.sketches, c.has) for c in chunks), settings.bands, len(quality), folder)
        parent = _single(len(quality))
        for band in range(settings.bands):
            for keys, documents in _ranges(folder / f"{band}.keys", folder / "documents", 1, memory_mb):
                starts, members = _buckets(keys, documents)
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
        for keys, documents in _ranges(folder / "0.keys", folder / "documents", 2, memory_mb):
            _join(parent, *_with_first(*_buckets(keys, documents)))
        _flatten(parent)
    return Clusters(_choose(parent, quality, length), np.ones(len(quality), dtype=np.float32))


# Keys on disk


def _spill(
    chunks: Iterable[tuple[Hashes, NDArray[np.uint8] | None, NDArray[np.bool_]]], bands: int, count: int, folder: Path
) -> None:
    """Write `N.keys` (uint64 [m, width] of band N), `documents` (int64 [m], those with keys) and `sketches` (of all).

    A chunk: keys [k, bands, width], sketches [k, functions], which have keys [k]."""
    read = 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{band}.keys", "wb")) for band in range(bands)]
        documents = stack.enter_context(open(folder / "documents", "wb"))
        sketches = stack.enter_context(open(folder / "sketches", "wb"))
        for keys, sketch, has in chunks:
            if keys.shape[1] != bands:
                raise DataError(f"keys of {keys.shape[1]} bands where the settings say {bands}; make them again.")
            for band, file in enumerate(files):
                file.write(keys[has, band].tobytes())
            documents.write((np.flatnonzero(has) + read).astype(np.int64).tobytes())
            if sketch is not None:
                sketches.write(sketch.tobytes())
            read += len(keys)
    if read != count:
        raise DataError(f"keys of {read} documents, but the quality of {count}; give one for each document.")


def _ranges(path: Path, owners: Path, width: int, memory_mb: float) -> Iterator[tuple[Hashes, Indices]]:
    """Keys [m, width] and their documents [m], m > 0, in parts that fit; equal keys are in one part."""
    count = owners.stat().st_size // 8
    if not count:
        return
    parts = min(_MOST_PARTS, math.ceil(count * _PER_ENTRY / (memory_mb * (1 << 20))))
    if parts <= 1:
        yield np.fromfile(path, dtype=np.uint64).reshape(-1, width), np.fromfile(owners, dtype=np.int64)
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="parts.") as name:
        with ExitStack() as stack:
            files = [stack.enter_context(open(Path(name) / f"{part}", "wb")) for part in range(parts)]
            for first in range(0, count, _PIECE):
                size = min(_PIECE, count - first)
                keys = np.fromfile(path, np.uint64, size * width, offset=8 * first * width).reshape(-1, width)
                documents = np.fromfile(owners, np.uint64, size, offset=8 * first)
                entries = np.column_stack((keys, documents))
                # Keys are hashes: their upper halves are spread evenly.
                part_of = (keys[:, 0] >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)
                for part, file in enumerate(files):
                    file.write(entries[part_of == part].tobytes())
        for part in range(parts):
            entries = np.fromfile(Path(name) / f"{part}", dtype=np.uint64).reshape(-1, width + 1)
            if len(entries):
                yield entries[:, :width], entries[:, width].astype(np.int64)


def _buckets(keys: Hashes, documents: Indices) -> tuple[NDArray[np.bool_], Indices]:
    """Documents that share their key with another, bucket after bucket, and whether each begins its bucket."""
    order = np.argsort(keys[:, 0]) if keys.shape[1] == 1 else np.lexsort(keys.T)
    ordered = keys[order]
    same = np.concatenate(([False], (ordered[1:] == ordered[:-1]).all(axis=1), [False]))
    shared = same[1:] | same[:-1]
    return ~same[:-1][shared], documents[order[shared]]


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
