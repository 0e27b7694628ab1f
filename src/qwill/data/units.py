"""Words of alphabetic scripts and single characters of Chinese: the units that every other file here counts.

Splitting text is most of what a curation run does, and doing it once per question asked of a document is
where the time of other tools goes; so there is one definition of a unit, cheap enough for all of them: a run
of letters and digits (an apostrophe inside belongs to it), or one Han or kana character. Punctuation and
space are never units."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qwill.data.fold import fold

HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"

_UNIT = re.compile(rf"[{HAN}{KANA}]|[^\W_{HAN}{KANA}]+(?:['’][^\W_{HAN}{KANA}]+)*")

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def normalise(text: str) -> str:
    """Text as it is compared: `fold`'s form, in which neither width, case nor the Chinese script makes a difference."""
    return fold(text)


def split(text: str) -> list[str]:
    """The units of `text`, normalised, in order."""
    return _UNIT.findall(normalise(text))


@lru_cache(maxsize=1 << 20)
def _unit_hash(unit: str) -> int:
    return int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8).digest(), "little")


def hashes(units: list[str]) -> NDArray[np.uint64]:
    """One stable 64-bit hash a unit (not Python's `hash`, which differs from one process to the next)."""
    return np.fromiter(map(_unit_hash, units), dtype=np.uint64, count=len(units))


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection in which every bit depends on every
    bit."""
    z = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def ngram_hashes(unit_hashes: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Hashes of all runs of `n` units, `len(units) - n + 1` of them (none for a shorter text)."""
    count = len(unit_hashes) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    total = unit_hashes[:count].copy()
    for offset in range(1, n):
        total *= _MULTIPLIER
        total += unit_hashes[offset : offset + count]
    return mix(total)


def distinct(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The sorted set of `values`. (numpy 2.4's own `unique` hashes, which takes eight times as long on such values.)"""
    ordered = np.sort(values)
    return ordered[np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))] if len(ordered) else ordered


def text_key(text: str, unit_hashes: NDArray[np.uint64] | None = None) -> bytes:
    """16 bytes that are equal for texts with equal units: case, width, spacing and punctuation do not matter.

    `unit_hashes` (of `unit_hashes.text_hashes`) saves splitting the text again. A text without any unit keeps its own
    characters, so that two rows of punctuation stay two things.
    """
    from qwill.data.unit_hashes import text_hashes

    found = text_hashes(text) if unit_hashes is None else unit_hashes
    told = found.astype("<u8").tobytes() if len(found) else text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(told, digest_size=16).digest()
