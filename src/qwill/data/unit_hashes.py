"""Hashes of the units of a text, and of runs of them, without a Python object for each: about 20 ns a character.

The units are those of `units.split`; a test holds the two to each other. Where a unit stands in the text as it was
written is found afterwards, for the few that are asked for.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from qwill.data import native_words
from qwill.data.fold import fold, folded_points
from qwill.data.units import HAN, KANA, mix, split

Hashes = NDArray[np.uint64]

# Odd, so that there is an inverse modulo 2⁶⁴ and a prefix sum serves every start.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_BLOCK = 1 << 20
_TOGETHER = 1 << 15  # small enough for all arrays of a batch to stay in the processor's second cache

_BETWEEN, _WORD, _SINGLE, _APOSTROPHE = range(4)


@cache
def _classes() -> NDArray[np.uint8]:
    """What each code point is to a unit: between two, part of a word, one by itself, or an apostrophe."""
    table = np.frombuffer(bytes(map(str.isalnum, map(chr, range(0x110000)))), dtype=np.uint8).copy()
    for first, last in re.findall("(.)-(.)|(?:.)", HAN + KANA):
        if first:
            table[ord(first) : ord(last) + 1] = _SINGLE
    table[[ord("'"), ord("’")]] = _APOSTROPHE
    return table


@cache
def _powers(base: int, count: int) -> Hashes:
    values = np.full(count, base, dtype=np.uint64)
    values[0] = 1
    return np.multiply.accumulate(values)


def _up_to(base: int, count: int) -> Hashes:
    """The first `count` powers, from a table whose size is a power of two, so that few are made."""
    return _powers(base, max(1024, 1 << (count - 1).bit_length()))[:count]


def _hashed(values: Hashes, starts: NDArray[np.intp], ends: NDArray[np.intp]) -> Hashes:
    """A polynomial in _BASE of each stretch `values[start:end]`, the same wherever it stands."""
    total = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * _up_to(_BASE, len(values)), out=total[1:])
    return mix((total[ends] - total[starts]) * _up_to(_INVERSE, len(values) + 1)[starts])


def _block(codes: NDArray[np.uint32], classes: NDArray[np.uint8]) -> tuple[Hashes, NDArray[np.intp]]:
    """Hashes of the units of a stretch, and where each begins in it."""
    inner = classes == _WORD
    marks = np.flatnonzero(classes == _APOSTROPHE)
    marks = marks[(marks > 0) & (marks < len(codes) - 1)]
    marks = marks[inner[marks - 1] & inner[marks + 1]]
    inner[marks] = True
    change = np.diff(inner.view(np.int8), prepend=0, append=0)
    single = np.flatnonzero(classes == _SINGLE)
    starts = np.concatenate([np.flatnonzero(change == 1), single])
    ends = np.concatenate([np.flatnonzero(change == -1), single + 1])
    if len(single):
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], ends[order]
    if not len(starts):
        return np.empty(0, dtype=np.uint64), starts
    values = codes.astype(np.uint64)
    values[marks] = ord("'")
    return _hashed(values, starts, ends), starts


def unit_hashes(folded: str) -> Hashes:
    """One stable 64-bit hash for each unit of a text that `fold` has folded; equal units have equal hashes."""
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    classes = _classes()[codes]
    parts, start = list[Hashes](), 0
    while start < len(codes):
        end = min(start + _BLOCK, len(codes))
        if end < len(codes):
            # A block ends where no word goes on.
            cut = np.flatnonzero((classes[start:end] == _BETWEEN) | (classes[start:end] == _SINGLE))
            after = np.flatnonzero(classes[end:] == _BETWEEN) if not len(cut) else cut
            end = start + int(cut[-1]) + 1 if len(cut) else end + int(after[0]) + 1 if len(after) else len(codes)
        parts.append(_block(codes[start:end], classes[start:end])[0])
        start = end
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)


def text_hashes(text: str) -> Hashes:
    """`unit_hashes` of the folded text, by units.c where that can be: 5 ns a character."""
    if not native_words.available():
        return unit_hashes(fold(text))
    call = native_words.functions()
    assert call is not None
    found = np.empty(len(text), dtype=np.uint64)
    tables = folded_points().ctypes.data, _classes().ctypes.data
    count = call["hash_units"](native_words.code_points(text), len(text), *tables, found.ctypes.data)
    return found[:count] if count >= 0 else unit_hashes(fold(text))


def batch_hashes(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """(hashes [N] of the units of all texts end to end, offsets [len(texts) + 1] of each text's own): as `unit_hashes`
    of each folded text, short ones together."""
    parts, counts, held, size = list[Hashes](), [0], list[str](), 0
    for i, text in enumerate(map(fold, texts)):
        held.append(text)
        size += len(text) + 1
        if size >= _TOGETHER or i + 1 == len(texts):
            if len(held) == 1:
                parts.append(unit_hashes(text))
                counts.append(len(parts[-1]))
            else:
                # The line end after each text keeps the last unit of one from meeting the first of the next.
                joined = "\n".join([*held, ""]).encode("utf-32-le", "surrogatepass")
                codes = np.frombuffer(joined, dtype=np.uint32)
                hashes, starts = _block(codes, _classes()[codes])
                parts.append(hashes)
                ends = np.cumsum([len(one) + 1 for one in held])
                counts += np.diff(np.searchsorted(starts, ends), prepend=0).tolist()
            held, size = [], 0
    return np.concatenate([*parts, np.empty(0, np.uint64)]), np.cumsum(counts)


def run_hashes(units: Hashes, n: int) -> Hashes:
    """Hashes of all runs of `n` units, `len(units) - n + 1` of them; none for fewer units."""
    count = len(units) - n + 1
    parts = list[Hashes]()
    for start in range(0, max(0, count), _BLOCK):
        block = units[start : start + _BLOCK + n - 1]
        starts = np.arange(min(_BLOCK, count - start))
        parts.append(_hashed(block, starts, starts + n))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)


# Nothing composes or is split across one of these, so that what stands between them can be folded by itself.
_PIECE = re.compile("[^ \\n\\r\\t，。、！？：；]+")


def places(text: str, runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where the units from first to last (exclusive) stand in `text` as it was written, as (start, end) characters."""
    pieces, counts, total = list[re.Match[str]](), list[int](), 0
    for piece in _PIECE.finditer(text):
        pieces.append(piece)
        counts.append(total)
        total += len(split(piece.group()))

    def place(unit: int) -> tuple[int, int]:
        at = bisect_left(counts, unit + 1) - 1
        piece, number = pieces[at].group(), unit - counts[at]
        wanted = split(piece)[: number + 1]
        lengths = range(len(piece) + 1)
        start = bisect_left(lengths, True, key=lambda n: len(split(piece[:n])) > number) - 1
        end = bisect_left(lengths, True, lo=start, key=lambda n: split(piece[:n])[: number + 1] == wanted)
        return pieces[at].start() + start, pieces[at].start() + end

    return [(place(first)[0], place(last - 1)[1]) for first, last in runs]
