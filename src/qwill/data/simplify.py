"""Text as datatrove 0.10.1 simplifies it before MinHash: lower case, numbers as 0, no punctuation, one space, no
accents.

Step by step: lower case; every number, with one decimal mark inside, becomes `0`; punctuation and control characters
become spaces; runs of white space become one space; canonical decomposition, and every nonspacing mark (category Mn)
goes. The order matters: accents go last, so that a number's digits are found as they were written.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from qwill.data import native_minhash

# The characters that datatrove counts as punctuation (`PUNCTUATION` in its utils/text.py), control characters among
# them. Its own choice: `§`, `•` and `。`'s relatives `｡` and `﹒` stay.
_MARKS = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
_CONTROLS = [*range(9), *range(11, 32), *range(127, 160)]
_TO_SPACE = _MARKS + "".join(map(chr, _CONTROLS))
_PUNCTUATION = re.compile(f"[{re.escape(_TO_SPACE)}]")

# Digits of Unicode 17 that Python 3.11's `\d` (Unicode 14) lacks: datatrove asks the package regex, which keeps up.
_LATER_DIGITS = (
    "\U00010d40-\U00010d49\U000116d0-\U000116e3\U00011bf0-\U00011bf9\U00011de0-\U00011de9\U00011f50-\U00011f59"
    "\U00016130-\U00016139\U00016d70-\U00016d79\U0001ccf0-\U0001ccf9\U0001e4f0-\U0001e4f9\U0001e5f1-\U0001e5fa"
)
_BETWEEN = "\u4e00"  # which nothing else is decomposed to
_NUMBER = re.compile(rf"[\d{_LATER_DIGITS}]+(?:[.,،٫⎖⎗⎘][\d{_LATER_DIGITS}]+)?")
_ASCII_NUMBER = re.compile(rb"[0-9]+(?:[.,][0-9]+)?")
# Lower case and spaces for punctuation in one table; digits stay, so that the table may come after the numbers.
_ASCII = bytes(32 if chr(c) in _TO_SPACE else ord(chr(c).lower()) for c in range(128)) + bytes(range(128, 256))


def _without_marks(text: str) -> str:
    """`text` without its nonspacing marks, as this Python's Unicode has them: few kinds of them occur in one text."""
    marks = [c for c in set(text) if unicodedata.category(c) == "Mn"]
    if len(marks) > 8:
        return text.translate(dict.fromkeys(map(ord, marks)))
    for mark in marks:
        text = text.replace(mark, "")
    return text


def definition(text: str) -> str:
    """What `simplify` gives, by Python's own functions."""
    if text.isascii():
        plain = _ASCII_NUMBER.sub(b"0", text.encode()).translate(_ASCII)
        return " ".join(plain.decode().split())
    text = _PUNCTUATION.sub(" ", _NUMBER.sub("0", text.lower()))
    text = " ".join(text.split())
    if text.isascii():
        return text
    return _without_marks(unicodedata.normalize("NFD", text)).strip()


def simplify(text: str) -> str:
    """`text` as datatrove's `simplify_text` gives it by default; lone surrogates stay as they are."""
    library = native_minhash.library()
    if library is not None:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        out = np.empty(len(points), dtype=np.uint32)
        length = library.minhash_simplify(*map(native_minhash.pointer, (points, len(points), _table(), out)))
        if length >= 0:
            return out[:length].tobytes().decode("utf-32-le", "surrogatepass")
    return definition(text)


@cache
def _table() -> NDArray[np.uint32]:
    """What becomes of each code point, as minhash.c has it: another one, or nothing, a space, a digit, or what it can't
    say, which are several characters, or marks that stay and so may change places with others."""
    dropped, space, digit, otherwise = range(0x110000, 0x110004)
    table = np.arange(0x110000, dtype=np.uint32)
    # The rest is Han, private or nobody's, and stays as it is.
    signs = "".join(map(chr, (*range(0x20000), *range(0x2F800, 0x2FA20), *range(0xE0000, 0xE0200))))
    told = definition(_BETWEEN.join(signs.replace(_BETWEEN, "x"))).split(_BETWEEN)
    told = [" ", *told[1:]] if len(told) == len(signs) else [definition(f"x{sign}x")[1:-1] for sign in signs]
    for sign, plain in zip(signs, told, strict=True):
        if plain != sign:
            table[ord(sign)] = {"": dropped, " ": space}.get(plain, ord(plain) if len(plain) == 1 else otherwise)
    for match in re.finditer(rf"[\d{_LATER_DIGITS}]", signs):
        table[ord(match[0])] = digit
    table[[ord(_BETWEEN), ord("x"), ord(" ")]] = ord(_BETWEEN), ord("x"), space
    kept = (c for c in signs if unicodedata.combining(c) and unicodedata.category(c) != "Mn")
    table[[*map(ord, kept), ord("Σ")]] = otherwise  # Σ is σ or ς, by its neighbours
    return table
