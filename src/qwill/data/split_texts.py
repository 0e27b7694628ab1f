"""Many texts split into words, held as code points and bounds instead of a string a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qwill.data import native_words
from qwill.data.words import split_words

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """The words of one text. codes: its `native_words.code_points`. starts, ends: int32 [words], of each in those."""

    codes: bytes
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]


@dataclass(frozen=True)
class SplitTexts:
    """points: uint32 [characters] of all texts end to end. starts, ends: int64 [words], of each word in `points`.
    offsets: int64 [texts + 1], of each text's first word."""

    points: NDArray[np.uint32]
    starts: Places
    ends: Places
    offsets: Places

    def strings(self) -> list[list[str]]:
        """The words of each text."""
        text = self.points.tobytes().decode("utf-32-le", "surrogatepass")
        words = [text[a:b] for a, b in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]
        return [words[a:b] for a, b in pairwise(self.offsets.tolist())]


def running(sizes: Places) -> Places:
    """[n + 1]: where each of n parts begins in all of them end to end."""
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)))


def split_text(text: str, rule: str) -> Words:
    """One text split by a rule of `words.split_words`; good until this thread splits another."""
    if not native_words.suits(rule):
        return from_strings(split_words(text, rule))
    codes = native_words.code_points(text)
    return Words(codes, *native_words.cut(text, codes, rule).arrays())


def from_strings(words: Sequence[str]) -> Words:
    """The same of a text whose words are known."""
    ends = np.cumsum(np.fromiter(map(len, words), dtype=np.int32, count=len(words)), dtype=np.int32)
    starts = np.concatenate((np.zeros(min(1, len(words)), dtype=np.int32), ends[:-1]))
    return Words(native_words.code_points("".join(words)), starts, ends)


def end_to_end(parts: Iterable[Words]) -> SplitTexts:
    """The words of many texts as one; each part is done with before the next is asked for."""
    codes, starts, ends, at = list[bytes](), list[Places](), list[Places](), 0
    for part in parts:
        codes.append(part.codes)
        starts.append(part.starts + np.int64(at))
        ends.append(part.ends + np.int64(at))
        at += len(part.codes) // 4
    none = np.zeros(0, dtype=np.int64)
    return SplitTexts(
        np.frombuffer(b"".join(codes), dtype=np.uint32),
        np.concatenate([none, *starts]),
        np.concatenate([none, *ends]),
        running(np.array(list(map(len, starts)), dtype=np.int64)),
    )


def split_texts(texts: Sequence[str], rule: str) -> SplitTexts:
    """Texts split by a rule of `words.split_words`."""
    return end_to_end(split_text(text, rule) for text in texts)


def from_words(words: Sequence[Sequence[str]]) -> SplitTexts:
    """The same of texts whose words are known."""
    return end_to_end(map(from_strings, words))
