"""Long passages that stand in the corpus more than once, letter by letter (Lee et al. 2022, ExactSubstr).

A window is what follows a place, `length` characters of it, or `wide_length` where it begins with a Han, kana or Hangul
character: Lee et al.'s 50 tokens are about 200 letters of English and 100 Chinese characters. A window that stands at
an earlier place too (of a document with a smaller index, or farther ahead in its own) is cut; the first stays. Windows
are counted in characters and a cut never begins or ends inside a word or before a combining mark, so that what stays is
text (text-dedup #33: cut by bytes, it isn't). What is cut is said elsewhere; of that, a half word at an end stays.

Lee et al. sort all suffixes of the corpus. All that is asked of that order is that equal windows stand together, which
any order of their contents does; sorted by fingerprint, windows can be split by ranges of it into tables that fit in
memory, where a suffix array has to hold the text or compare each of its blocks with each other. And few windows have to
be sorted at all. Each has an anchor, a run of characters in it that its content alone decides (the minimizer of Roberts
et al. 2004): equal windows have equal anchors, so only windows whose anchor stands elsewhere as well are looked at.
Fingerprints are two residues of 61 bits (Karp & Rabin 1987), so that none of 10^12 windows is ever taken for another.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import unicodedata
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import ConfigError
from qwill.data.native_minhash import pointer
from qwill.data.spill import Cuts, by_document, groups, merged, parts, put
from qwill.data.units import mix

Points = NDArray[np.uint32]

PRIME = (1 << 61) - 1
_BASES = (0x0B5AD4ECEDA1CE2A9 % PRIME, 0x1D8AF066C2F5D8D1B % PRIME)
_AT_ONCE = 1 << 20  # windows of a document: some 100 MB
_MOST_WORD = 100  # letters; a longer run is no word, and may be cut
# Where scripts whose characters say more than a letter begin and end.
_WIDE = np.array(
    [0x2E80, 0x2FE0, 0x3005, 0x3008, 0x3040, 0x3100, 0x31F0, 0x3200, 0x3400, 0x4DC0, 0x4E00, 0xA000, 0xAC00, 0xD7A4,
     0xF900, 0xFB00, 0xFF66, 0xFFA0, 0x20000, 0x323B0],
    dtype=np.uint32,
)  # fmt: skip


@dataclass(frozen=True)
class Substrings:
    """How long a passage must be to count, in characters: `wide_length` where it begins with Han, kana or Hangul.
    Raises ConfigError below 8, where single words would be cut."""

    length: int = 200
    wide_length: int = 100

    def __post_init__(self) -> None:
        if min(self.length, self.wide_length) < 8:
            raise ConfigError("substrings: length and wide_length are at least 8 characters; use a longer one.")

    @property
    def shortest(self) -> int:
        return min(self.length, self.wide_length)


def substring_cuts(
    texts: Iterable[tuple[int, str]], count: int, settings: Substrings, work: Path, memory_mb: float = 1024
) -> Cuts:
    """What to cut from each of `count` documents: (offsets int64 [count + 1], spans int64 [n, 2]), the spans of a
    document in characters, in order and apart.

    `texts`: (index, text) in ascending order; documents that are left out have no spans. `work`: a folder for temporary
    files: the text once, about a byte more for each of its characters, and 64 bytes a character that stands in a
    passage twice. The answer does not depend on `memory_mb`."""
    with tempfile.TemporaryDirectory(dir=work, prefix="substrings.") as name:
        folder = Path(name)
        kept = _Texts(folder / "texts")
        _find_suspects(texts, settings, kept, folder, memory_mb)
        suspects = by_document(folder / "suspects", count, memory_mb)
        with open(folder / "cuts", "wb") as cuts:
            with open(folder / "windows", "wb") as file:
                for index, text in kept.read(suspects[0]):
                    points = _points(text)
                    for first, end in suspects[1][suspects[0][index] : suspects[0][index + 1]].tolist():
                        _sort_windows(index, points, first, end, settings, file, cuts)
            for rows in parts(folder / "windows", 5, memory_mb, end=PRIME):
                begins, places = groups(rows[:, :2])
                put(cuts, merged(rows[places[~begins], 2:]))
        return _in_whole_words(by_document(folder / "cuts", count, memory_mb), kept)


def _find_suspects(
    texts: Iterable[tuple[int, str]], settings: Substrings, kept: _Texts, folder: Path, memory_mb: float
) -> None:
    """Write the table `suspects` of (document, first start, end of starts): all windows that may stand twice.

    What occurs again within a piece of a document is one of them at once: a million equal letters are one anchor."""
    size = settings.shortest
    with open(folder / "suspects", "wb") as suspects:
        with open(folder / "anchors", "wb") as file:
            for index, text in texts:
                points = _points(text)
                if len(points) >= size:
                    kept.append(index, text)
                for here in range(0, len(points) - size + 1, _AT_ONCE):
                    value, first, last = anchors(points[here : here + _AT_ONCE + size - 1], size, size // 4)
                    document = np.full(len(value), index, dtype=np.uint64)
                    rows = np.column_stack((value, document, (np.stack((first, last + 1), 1) + here).astype(np.uint64)))
                    begins, places = groups(rows[:, :1])
                    put(suspects, merged(rows[places, 1:]))
                    put(file, np.delete(rows, places[~begins], axis=0))
        kept.close()
        for rows in parts(folder / "anchors", 4, memory_mb):
            put(suspects, merged(rows[groups(rows[:, :1])[1], 1:]))


def _sort_windows(
    index: int, points: Points, first: int, end: int, settings: Substrings, table: BinaryIO, cuts: BinaryIO
) -> None:
    """Put the windows of a document that start in [first, end) into the table; those that the same piece of the
    document has already go to `cuts` at once."""
    for here in range(first, end, _AT_ONCE):
        for one, other, starts, size in _windows(points, here, min(end, here + _AT_ONCE) - 1, settings):
            document = np.full(len(one), index, dtype=np.int64)
            spans = np.column_stack((document, starts, starts + size)).astype(np.uint64)
            begins, places = groups(np.column_stack((one, other)))
            again = places[~begins]
            put(cuts, merged(spans[again]))
            put(table, *(np.delete(part, again, axis=0) for part in (one, other, spans)))


class _Texts:
    """Texts on disk, to be read again in their order."""

    def __init__(self, path: Path) -> None:
        self.path, self.indices, self.sizes = path, array("q"), array("q")
        self._file = open(path, "wb")  # noqa: SIM115 - closed by `close`

    def append(self, index: int, text: str) -> None:
        self.indices.append(index)
        self.sizes.append(self._file.write(text.encode("utf-8", "surrogatepass")))

    def close(self) -> None:
        self._file.close()

    def read(self, offsets: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
        """Those that own something between their offset and the next."""
        with open(self.path, "rb") as file:
            for index, size in zip(self.indices, self.sizes, strict=True):
                if offsets[index] == offsets[index + 1]:
                    file.seek(size, os.SEEK_CUR)
                else:
                    yield index, file.read(size).decode("utf-8", "surrogatepass")


def _points(text: str) -> Points:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _windows(
    points: Points, first: int, last: int, settings: Substrings
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64], int]]:
    """(fingerprints under both bases, starts, size) of the windows that start in [first, last], for either size."""
    wide = np.searchsorted(_WIDE, points[first : last + 1], side="right") % 2 == 1
    for size, chosen in ((settings.length, ~wide), (settings.wide_length, wide)):
        end = min(last, len(points) - size)
        if end >= first and chosen[: end - first + 1].any():
            here = np.flatnonzero(chosen[: end - first + 1])
            one, other = fingerprints(points, first, end, size)
            yield one[here], other[here], here + first, size


# Cuts that leave words whole


def _in_whole_words(cuts: Cuts, kept: _Texts) -> Cuts:
    offsets, spans = cuts
    result = array("q")
    counts = np.zeros(len(offsets), dtype=np.int64)
    for index, text in kept.read(offsets):
        for start, end in spans[offsets[index] : offsets[index + 1]].tolist():
            start, end = whole_words(text, start, end)
            if start < end:
                result.extend((start, end))
                counts[index + 1] += 1
    return np.cumsum(counts), np.array(result, dtype=np.int64).reshape(-1, 2)


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """The span, less the parts of words at its ends that also lie outside of it, and less a space between two words
    that would else become one."""
    later, sooner = start, end
    while later < end and later - start <= _MOST_WORD and (_inside(text, later) or _ends_before(text, later)):
        later += 1
    while sooner > start and end - sooner <= _MOST_WORD and _inside(text, sooner):
        sooner -= 1
    start, end = later if later - start <= _MOST_WORD else start, sooner if end - sooner <= _MOST_WORD else end
    if 0 < start < end < len(text) and not any(c.isspace() or _is_wide(c) for c in (text[start - 1], text[end])):
        if text[start].isspace():
            return start + 1, end
        return start, end - text[end - 1].isspace()
    return start, end


def _inside(text: str, place: int) -> bool:
    return 0 < place < len(text) and _one_word(text[place - 1], text[place])


def _one_word(before: str, after: str) -> bool:
    """Whether two characters in a row are of one word: its letters, their marks, and the punctuation that it has."""
    if before.isspace() or after.isspace():
        return False
    if unicodedata.category(after)[0] == "M" or "\u200d" in (before, after):
        return True
    return not (_is_wide(before) or _is_wide(after))


def _ends_before(text: str, place: int) -> bool:
    """Whether what stands at `place` is punctuation that belongs to what is before it."""
    mark = unicodedata.category(text[place])
    return place > 0 and mark[0] == "P" and mark not in ("Ps", "Pi") and not text[place - 1].isspace()


def _is_wide(character: str) -> bool:
    return character >= "\u2e80" and bool(np.searchsorted(_WIDE, ord(character), side="right") % 2)


# Fingerprints


def anchors(points: Points, window: int, size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """(value, first start, last start) of each run of windows with the same anchor: of the fingerprints of `size` code
    points in a window of `window`, mixed, the least, and of equal ones the first."""
    most = max(0, len(points) - window + 1)
    library = _library()
    value, first, last = np.empty(most, np.uint64), np.empty(most, np.int64), np.empty(most, np.int64)
    if library is not None:
        count = library.substring_anchors(
            *map(pointer, (points, len(points), window, size)),
            ctypes.c_uint64(_BASES[0]),
            *map(pointer, (value, first, last)),
        )
        if count < 0:
            raise MemoryError
        return value[:count].copy(), first[:count].copy(), last[:count].copy()
    values = mix(fingerprints(points, 0, len(points) - size, size)[0]).tolist() if most else []
    queue: deque[int] = deque()
    count, anchor = 0, -1
    for place, here in enumerate(values):
        if queue and queue[0] + window - size + 1 <= place:
            queue.popleft()
        while queue and values[queue[-1]] > here:
            queue.pop()
        queue.append(place)
        if (start := place + size - window) < 0:
            continue
        if queue[0] != anchor:
            anchor = queue[0]
            value[count], first[count] = values[anchor], start
            count += 1
        last[count - 1] = start
    return value[:count], first[:count], last[:count]


def fingerprints(points: Points, first: int, last: int, size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Residues, under two bases, of the windows of `size` code points c that start in [first, last]: the sum of
    (c + 1) base^(places to the end) modulo 2^61 - 1."""
    library = _library()
    found = np.empty(last - first + 1, np.uint64), np.empty(last - first + 1, np.uint64)
    if library is not None:
        bases = map(ctypes.c_uint64, _BASES)
        library.substring_windows(*map(pointer, (points, first, last, size)), *bases, *map(pointer, found))
        return found
    told = [point + 1 for point in points[first : last + size].tolist()]
    for base, out in zip(_BASES, found, strict=True):
        gone, h = pow(base, size, PRIME), 0
        for i, value in enumerate(told):
            h = (h * base + value - (gone * told[i - size] if i >= size else 0)) % PRIME
            if i + 1 >= size:
                out[i + 1 - size] = h
    return found


@cache
def _library() -> ctypes.CDLL | None:
    from qwill.base.native_build import compile_library

    if os.environ.get("QWILL_NATIVE", "1") == "0":
        return None
    library = compile_library("substrings.c", "qwill.data", threads=False)
    if library is not None:
        library.substring_anchors.restype = ctypes.c_int64
        library.substring_windows.restype = None
    return library
