"""Which script a letter belongs to, by the blocks of Unicode, and the shares of scripts in many texts at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

# First and last code point of the blocks that hold letters, by ISO 15924; Kana is hiragana and katakana together.
BLOCKS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latn": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
    "Grek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrl": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Armn": ((0x530, 0x58F),),
    "Hebr": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Arab": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)),
    "Syrc": ((0x700, 0x74F),),
    "Thaa": ((0x780, 0x7BF),),
    "Nkoo": ((0x7C0, 0x7FF),),
    "Deva": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Beng": ((0x980, 0x9FF),),
    "Guru": ((0xA00, 0xA7F),),
    "Gujr": ((0xA80, 0xAFF),),
    "Orya": ((0xB00, 0xB7F),),
    "Taml": ((0xB80, 0xBFF),),
    "Telu": ((0xC00, 0xC7F),),
    "Knda": ((0xC80, 0xCFF),),
    "Mlym": ((0xD00, 0xD7F),),
    "Sinh": ((0xD80, 0xDFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Laoo": ((0xE80, 0xEFF),),
    "Tibt": ((0xF00, 0xFFF),),
    "Mymr": ((0x1000, 0x109F), (0xAA60, 0xAA7F)),
    "Geor": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Ethi": ((0x1200, 0x139F), (0x2D80, 0x2DDF)),
    "Khmr": ((0x1780, 0x17FF),),
    "Mong": ((0x1800, 0x18AF),),
    "Hang": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF)),
    "Kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "Hani": (
        (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF),
    ),
}  # fmt: skip
# Names for writing that mixes scripts, and for a variety of one.
TOGETHER = {"Jpan": ("Kana", "Hani"), "Kore": ("Hang",), "Hans": ("Hani",), "Hant": ("Hani",)}
NAMES = (*BLOCKS, *TOGETHER)

_LETTER = re.compile(r"[^\W\d_]")
_NO_LETTER, _ANOTHER, _FIRST = 0, 1, 2


@cache
def _classes() -> NDArray[np.uint8]:
    """Of each code point: 0 for no letter, 1 for one of a script not listed, from 2 on those of BLOCKS in order."""
    table = np.zeros(0x110000, np.uint8)
    codes = (*range(0xD800), *range(0xE000, 0x33000))  # above are no letters
    table[[ord(sign) for sign in _LETTER.findall("".join(map(chr, codes)))]] = _ANOTHER
    for place, blocks in enumerate(BLOCKS.values()):
        for first, last in blocks:
            own = table[first : last + 1]
            own[own == _ANOTHER] = place + _FIRST
    return table


def shares(texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of each text, the shares of its letters in the scripts of BLOCKS, in order [texts, scripts], and how many letters
    it has. Shares of a text without letters are 0."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    width = len(BLOCKS) + _FIRST
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    counts = np.bincount(owner * width + _classes()[codes], minlength=len(texts) * width).reshape(-1, width)
    letters = counts[:, _ANOTHER:].sum(axis=1)
    return counts[:, _FIRST:] / np.maximum(letters, 1)[:, None], letters
