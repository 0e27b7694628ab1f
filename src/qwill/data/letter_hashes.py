"""A hash a word that does not tell case, width, accents, script variant and number from one another.

Each letter has a value, that of its folded form (`fold.py`) without accents; all digits have one value, and several in
a row count once. Punctuation, space and marks have none: they are passed over, and a word that has nothing else is left
out. A sign that stands for several letters (ﬁ) is a letter of its own. A word's hash is the mix of h ← (h ⊕ value) · m
over its letters.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from qwill.data import native_minhash
from qwill.data.fold import fold
from qwill.data.simplify import definition
from qwill.data.split_texts import Places, SplitTexts, running
from qwill.data.units import mix

Hashes = NDArray[np.uint64]

_MULTIPLIER = 0x9E3779B97F4A7C15
_ASSIGNED = (*range(0xD800), *range(0xE000, 0x323B0), *range(0xE0000, 0xE0200))  # the rest is no letter of any script


@cache
def letter_values() -> Hashes:
    """uint64 [0x110000]: the value of each code point, 0 for none."""
    values = mix(np.arange(1, 0x110001, dtype=np.uint64))
    letters = values.copy()
    signs = [chr(code) for code in _ASSIGNED if code != 10]
    for sign, folded in zip(signs, fold("\n".join(signs)).split("\n"), strict=True):
        if sign == folded and sign.isalpha() and sign > "\u33ff":
            continue  # Han and Hangul, for the most part: nothing to be left out
        plain = "".join(filter(_is_letter, definition(folded)))
        if plain != sign:
            told = [int(letters[ord(letter)]) for letter in plain]
            values[ord(sign)] = told[0] if len(told) == 1 else int(_mixed(told)) if told else 0
    values[10] = 0
    return values


def _is_letter(sign: str) -> bool:
    return sign.isalnum() or unicodedata.category(sign)[0] in "SCM"


def _mixed(told: list[int]) -> np.uint64:
    """One value for a sign that stands for several letters."""
    h = 0
    for value in told:
        h = (h ^ value) * _MULTIPLIER & 0xFFFFFFFFFFFFFFFF
    return mix(np.array([h], dtype=np.uint64))[0]


def word_hashes(split: SplitTexts) -> tuple[Hashes, Places]:
    """(hashes of all words that have a letter, offsets [texts + 1] of each text's own)."""
    values, count = letter_values(), len(split.starts)
    library = native_minhash.library()
    if library is None:
        found = word_hashes_by_definition(split.points, split.starts, split.ends)
    else:
        found = np.empty(count, dtype=np.uint64)
        native_minhash.call(library.minhash_words, split.points, split.starts, split.ends, count, values, found)
    has = found != 0
    return found[has], running(has.astype(np.int64))[split.offsets]


def word_hashes_by_definition(points: NDArray[np.uint32], starts: Places, ends: Places) -> Hashes:
    """One hash a word, 0 for a word without letters."""
    values = letter_values()
    digit = int(values[ord("0")])
    result = np.zeros(len(starts), dtype=np.uint64)
    told = values[points].tolist()
    for w, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        h, last = 0, 0
        for value in told[start:end]:
            if value and not value == last == digit:
                h, last = (h ^ value) * _MULTIPLIER & 0xFFFFFFFFFFFFFFFF, value
        result[w] = mix(np.array([h], dtype=np.uint64))[0] | np.uint64(last != 0)
    return result
