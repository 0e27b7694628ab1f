"""Many texts split into words, held as code points and bounds instead of a string a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.data import native_words
from qwill.data.words import split_words

Places = NDArray[np.int64]


@dataclass(frozen=True)
class SplitTexts:
    """points: uint32 [characters] of all texts end to end. starts, ends: int64 [words], of each word in `points`.
    offsets: int64 [texts + 1], of each text's first word."""

    points: NDArray[np.uint32]
    starts: Places
    ends: Places
    offsets: Places

    @classmethod
    def one(cls, codes: bytes, starts: NDArray[Any], ends: NDArray[Any]) -> SplitTexts:
        """One text, of its `native_words.code_points` and the bounds of its words, which are copied."""
        offsets = np.array([0, len(starts)], dtype=np.int64)
        return cls(np.frombuffer(codes, dtype=np.uint32), starts.astype(np.int64), ends.astype(np.int64), offsets)

    def strings(self) -> list[list[str]]:
        """The words of each text."""
        text = self.points.tobytes().decode("utf-32-le", "surrogatepass")
        words = [text[a:b] for a, b in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]
        return [words[a:b] for a, b in pairwise(self.offsets.tolist())]


def running(sizes: Places) -> Places:
    """[n + 1]: where each of n parts begins in all of them end to end."""
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)))


def split_texts(texts: Sequence[str], rule: str) -> SplitTexts:
    """Texts split by a rule of `words.split_words`."""
    return end_to_end([split_text(text, rule) for text in texts])


def split_text(text: str, rule: str) -> SplitTexts:
    """One text split by a rule of `words.split_words`."""
    if not native_words.suits(rule):
        return from_words([split_words(text, rule)])
    codes = native_words.code_points(text)
    return SplitTexts.one(codes, *native_words.cut(text, codes, rule).arrays())


def end_to_end(parts: Sequence[SplitTexts]) -> SplitTexts:
    """The texts of all parts."""
    points = running(np.array([len(part.points) for part in parts], dtype=np.int64))
    words = running(np.array([len(part.starts) for part in parts], dtype=np.int64))
    none = np.zeros(0, dtype=np.int64)
    return SplitTexts(
        np.concatenate([none.astype(np.uint32), *(part.points for part in parts)]),
        np.concatenate([none, *(part.starts + at for part, at in zip(parts, points, strict=False))]),
        np.concatenate([none, *(part.ends + at for part, at in zip(parts, points, strict=False))]),
        np.concatenate([none, *(part.offsets[:-1] + at for part, at in zip(parts, words, strict=False)), words[-1:]]),
    )


def from_words(words: Sequence[list[str]]) -> SplitTexts:
    """The same of texts whose words are known."""
    flat = [word for own in words for word in own]
    ends = np.cumsum(np.fromiter(map(len, flat), dtype=np.int64, count=len(flat)))
    points = np.frombuffer("".join(flat).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    starts = np.concatenate((np.zeros(min(1, len(flat)), dtype=np.int64), ends[:-1]))
    return SplitTexts(points, starts, ends, running(np.fromiter(map(len, words), dtype=np.int64, count=len(words))))
