"""What is decided about all documents at once: which of them, and which lines and passages, stand there twice.

Reads a few columns of every chunk, and for lines and substrings the text of each in turn; memory is bounded by
`memory_mb` and what does not fit goes to the work folder. The result is one file, made whole or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwill.base.files import new_file
from qwill.data.chunks import read_arrays, read_chunk
from qwill.data.clusters import exact_duplicates, near_duplicates
from qwill.data.lines import line_cuts
from qwill.data.minhash import BandKeys
from qwill.data.settings import CurateConfig
from qwill.data.substrings import substring_cuts

Cuts = tuple[NDArray[np.int64], NDArray[np.int64]]  # offsets [documents + 1] into spans [n, 2], in characters


@dataclass(frozen=True)
class Decisions:
    """One row a document in order of reading. exact, near: the document that stays for it, itself where it stays;
    lines, passages: spans to cut. first: each chunk's first row, and the number of documents at the end."""

    first: NDArray[np.int64]
    exact: NDArray[np.int64]
    near: NDArray[np.int64]
    likeness: NDArray[np.float32]
    lines: Cuts
    passages: Cuts


def second_pass(
    config: CurateConfig, chunks: Sequence[Path], digests: Sequence[str], work: Path,
    progress: Callable[[str, int], None],
) -> tuple[Path, str]:  # fmt: skip
    """The file of decisions about the documents of `chunks`, and its fingerprint; made before when it is there already.

    `progress` is told of each step that is done and how many documents are left."""
    fingerprint = hashlib.blake2b("\n".join(digests).encode(), digest_size=16).hexdigest()
    path = work / f"second-{fingerprint}.npz"
    if not path.exists():
        _write(path, _decide(config, chunks, work, progress))
    return path, fingerprint


def _decide(
    config: CurateConfig, chunks: Sequence[Path], work: Path, progress: Callable[[str, int], None]
) -> Decisions:
    columns = [read_arrays(path, ("live", "bytes", "quality")) for path in chunks]
    first = np.cumsum([0, *(len(part["live"]) for part in columns)], dtype=np.int64)
    live, size, quality = (np.concatenate([part[n] for part in columns]) for n in ("live", "bytes", "quality"))
    itself = np.arange(len(live), dtype=np.int64)
    exact, near, likeness = itself.copy(), itself, np.ones(len(live), dtype=np.float32)
    if config.exact:
        rows = np.flatnonzero(live)
        keys = (read_arrays(path, ("key", "live")) for path in chunks)
        live_keys = (part["key"][part["live"]] for part in keys)
        clusters = exact_duplicates(live_keys, quality[rows], size[rows], work, config.memory_mb)
        exact[rows] = rows[clusters.representative]
    stays = live & (exact == itself)
    progress("exact duplicates", int(stays.sum()))
    if config.near is not None:
        found = near_duplicates(_bands(chunks, first, stays), quality, size, config.near, work, config.memory_mb)
        near, likeness = found.representative, found.similarity
        stays &= near == itself
        progress("near duplicates", int(stays.sum()))
    lines = passages = _no_cuts(len(live))
    if config.lines is not None:
        lines = line_cuts(_texts(chunks, first, stays), len(live), config.lines, work, config.memory_mb)
        progress("lines", int(stays.sum()))
    if config.substrings is not None:
        texts = _texts(chunks, first, stays, lines)
        passages = substring_cuts(texts, len(live), config.substrings, work, config.memory_mb)
        progress("passages", int(stays.sum()))
    return Decisions(first, exact, near, likeness, lines, passages)


def _bands(chunks: Sequence[Path], first: NDArray[np.int64], stays: NDArray[np.bool_]) -> Iterator[BandKeys]:
    """The band keys of each chunk, of the documents that still stay."""
    for path, start, end in zip(chunks, first[:-1].tolist(), first[1:].tolist(), strict=True):
        arrays = read_arrays(path, ("bands", "sketches", "banded"))
        yield BandKeys(arrays["bands"], arrays["sketches"], arrays["banded"] & stays[start:end])


def _texts(
    chunks: Sequence[Path], first: NDArray[np.int64], stays: NDArray[np.bool_], cuts: Cuts | None = None
) -> Iterator[tuple[int, str]]:
    """(row, text) of every document that stays, with `cuts` taken out."""
    for number, path in enumerate(chunks):
        for row, document in enumerate(read_chunk(path).documents, start=int(first[number])):
            if stays[row]:
                yield row, cut(document.text, spans(cuts, row)) if cuts is not None else document.text


def spans(cuts: Cuts, row: int) -> NDArray[np.int64]:
    """The spans [n, 2] of one document."""
    offsets, all_spans = cuts
    return all_spans[offsets[row] : offsets[row + 1]]


def cut(text: str, where: NDArray[np.int64]) -> str:
    """`text` without the spans (characters, in order, apart from each other)."""
    if not len(where):
        return text
    kept, last = list[str](), 0
    for start, end in where.tolist():
        kept.append(text[last:start])
        last = end
    return "".join((*kept, text[last:]))


def _no_cuts(count: int) -> Cuts:
    return np.zeros(count + 1, dtype=np.int64), np.zeros((0, 2), dtype=np.int64)


def _write(path: Path, found: Decisions) -> None:
    with new_file(path) as file:
        np.savez(
            file,
            first=found.first,
            exact=found.exact,
            near=found.near,
            likeness=found.likeness,
            lines=found.lines[0],
            line_spans=found.lines[1],
            passages=found.passages[0],
            passage_spans=found.passages[1],
        )


def read_decisions(path: Path) -> Decisions:
    """What `second_pass` wrote."""
    with np.load(path) as arrays:
        return Decisions(
            arrays["first"],
            arrays["exact"],
            arrays["near"],
            arrays["likeness"],
            (arrays["lines"], arrays["line_spans"]),
            (arrays["passages"], arrays["passage_spans"]),
        )
