"""Words by the C files of this room: bounds in a text of code points, many times faster than the definitions.

`words.c` remembers the words of chunks and asks affix_words.py for those that it has not met; `chinese.c` is jieba.
Both give what the definitions give. Without a C compiler, with QWILL_NATIVE=0 or after `enable(False)` the definitions
are used.
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

from qwill.base.native_build import compile_library
from qwill.data.affix_words import affixes, cut_chunk, kind, put_together, tables

SOURCES = ("words.c", "measures.c", "chinese.c", "units.c")
SPACE_AFTER, BLANK = 4, 8  # as in words.c
CASE, CHANGES = 1, 2
MOST_MEMO = 256 << 20  # bytes of one rule's memo; then it starts anew
MOST_KEPT = 1 << 24  # code points that work space is kept for
_MISSING = 4096

_enabled = os.environ.get("QWILL_NATIVE", "1") != "0"
_pointer, _number = ctypes.c_void_p, ctypes.c_int64
# Types of the arguments: p a pointer, i a number; after the colon of the result.
_SIGNATURES = {
    "words.c": {"memo_new": "pii:p", "memo_free": "p:", "memo_size": "p:i", "memo_add": "ppipii:", "sentences": "pi:i",
                "words_of": "ppppippppip:"},
    "measures.c": {"characters_new": "pp:p", "work_new": ":p", "work_free": "p:", "work_size": "p:i",
                   "repetition": "pppipp:", "n_grams": "ppppipipip:", "quality": "ppippippipp:",
                   "lines_of": "pppipipp:", "c4_lines": "ppippppp:"},
    "chinese.c": {"jieba_new": "pippp:p", "jieba_cut": "pppipp:i"},
    "units.c": {"hash_units": "pippp:i"},
}  # fmt: skip


def enable(on: bool) -> None:
    """Turn the C files on (where a compiler exists) or off."""
    global _enabled
    _enabled = on


@cache
def functions() -> dict[str, Any] | None:
    """The functions of the C files by name; None without a compiler."""
    found: dict[str, Any] = {}
    for source in SOURCES:
        library = compile_library(source, "qwill.data", threads=False)
        if library is None:
            return None
        # They take microseconds and share memos, so they keep the interpreter's lock.
        held = ctypes.PyDLL(library._name)
        for name, signature in _SIGNATURES[source].items():
            arguments, _, result = signature.partition(":")
            function = getattr(held, name)
            function.argtypes = [_pointer if a == "p" else _number for a in arguments]
            function.restype = {"p": _pointer, "i": _number, "": None}[result]
            found[name] = function
    return found


def available() -> bool:
    return _enabled and functions() is not None


@cache
def character_classes() -> tuple[bytes, int]:
    """(a byte a code point: 1 white space, 2 line end, 4 letter, 8 symbol, 16 digit; the same as C keeps it with what
    is an ASCII letter in lower case), all by Python's own str methods."""
    import numpy as np

    from qwill.data.punctuation import SYMBOLS

    every = "".join(map(chr, range(0x110000)))
    blank, letter, digit = (
        np.frombuffer(bytes(map(test, every)), np.uint8) for test in (str.isspace, str.isalpha, str.isdecimal)
    )
    classes = blank | letter << 2 | digit << 4
    for c in np.flatnonzero(blank).tolist():
        classes[c] |= 2 * (len(f"a{chr(c)}b".splitlines()) == 2)
    classes[[ord(c) for c in SYMBOLS]] |= 8
    # What reads it looks for ASCII phrases; a lower case of several characters can't be a part of those.
    lower = np.arange(0x2200, dtype=np.uint32)
    for c in range(0x2200):
        small = chr(c).lower()
        lower[c] = ord(small) if len(small) == 1 else 0xFFFF
    data = classes.astype(np.uint8).tobytes()
    call = functions()
    assert call is not None
    return data, call["characters_new"](data, lower.tobytes())


def code_points(text: str) -> bytes:
    """4 bytes a code point, as this machine has them; lone surrogates stay."""
    return text.encode("utf-32-le", "surrogatepass")


class Space(threading.local):
    """Work space of a thread, grown to the longest text so far: bounds and marks of words, missing chunks, results."""

    def __init__(self) -> None:
        self.room = 0
        self.arrays: dict[str, Any] = {}
        self.at: dict[str, int] = {}

    def grow(self, size: int) -> None:
        """Room for `size` words and pieces."""
        import numpy as np

        if size <= self.room and self.room <= max(MOST_KEPT, size):
            return
        self.room = size + size // 2 + 1024
        self.arrays = {
            "starts": np.empty(self.room, np.int32),
            "ends": np.empty(self.room, np.int32),
            "marks": np.empty(self.room, np.uint8),
            "missing": np.empty(2 * _MISSING, np.int64),
            "out": np.empty(64, np.int64),
        }
        self.at = {name: int(array.ctypes.data) for name, array in self.arrays.items()}


space = Space()


@dataclass
class Memo:
    """The memo of one rule, an object of words.c."""

    rule: str
    handle: int = 0

    def fresh(self) -> int:
        """The handle, emptied when it has grown too large."""
        call = functions()
        assert call is not None
        if self.handle and call["memo_size"](self.handle) < MOST_MEMO:
            return self.handle
        if self.handle:
            call["memo_free"](self.handle)
        blanks = [c for c, bits in enumerate(character_classes()[0][:0x3001]) if bits & 1]
        self.handle = call["memo_new"](_numbers(blanks), len(blanks), self.rule in ("english", "spaces"))
        for case, words in affixes(self.rule).cases.items():
            if not any(map(str.isspace, case)):
                self._add(case, list(words), CASE)
        return self.handle

    def learn(self, chunk: str) -> None:
        """Add a chunk as the definition cuts it."""
        self._add(chunk, cut_chunk(chunk, affixes(self.rule)), 0)

    def _add(self, chunk: str, words: list[str], flags: int) -> None:
        call = functions()
        assert call is not None
        if put_together(words, [False] * len(words), affixes(self.rule)):
            flags |= CHANGES
        ends, at = [], 0
        for word in words:
            at += len(word)
            ends.append(at << 2 | kind(word))
        call["memo_add"](self.handle, code_points(chunk), len(chunk), _numbers(ends), len(ends), flags)


def _numbers(values: list[int]) -> bytes:
    return b"".join(v.to_bytes(4, "little") for v in values)


@cache
def _memo(rule: str) -> Memo:
    return Memo(rule)


@cache
def _jieba() -> int:
    import numpy as np

    from qwill.data.chinese_words import jieba_tables

    dictionary, *model = jieba_tables()
    call = functions()
    assert call is not None
    return call["jieba_new"](dictionary, len(dictionary), *(np.array(part).tobytes() for part in model))


def suits(rule: str) -> bool:
    """Whether the C files cut by a rule."""
    return available() and (rule == "chinese" or rule in tables()["rules"])


@dataclass(frozen=True)
class Bounds:
    """Where `words` words stand: int32 arrays by address, good until this thread cuts its next text. `sentences` is 0
    where nobody counted."""

    words: int
    starts: int
    ends: int
    sentences: int

    def arrays(self) -> tuple[Any, Any]:
        """(starts, ends) as arrays, as good as long."""
        return space.arrays["starts"][: self.words], space.arrays["ends"][: self.words]

    def strings(self, text: str) -> list[str]:
        starts, ends = self.arrays()
        return [text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def cut(text: str, codes: bytes, rule: str, pieces: tuple[bytes, bytes] | None = None) -> Bounds:
    """The words of a text whose `code_points` are `codes`, white space left out.

    `pieces`: starts and ends (int64) of the parts to cut, each as if it were a text of its own; `sentences` is then the
    sum over them. The rule must be one that `suits`.
    """
    import numpy as np

    call = functions()
    assert call is not None
    space.grow(len(text) + 1)
    at = space.at
    if rule == "chinese":
        assert pieces is None
        words = call["jieba_cut"](_jieba(), character_classes()[0], codes, len(text), at["starts"], at["ends"])
        return Bounds(words, at["starts"], at["ends"], 0)
    memo = _memo(rule)
    handle = memo.fresh()
    lows, highs = pieces or (bytes(8), len(text).to_bytes(8, "little"))
    out = space.arrays["out"]
    while True:
        call["words_of"](
            handle, codes, lows, highs, len(lows) // 8, at["starts"], at["ends"], at["marks"], at["missing"], _MISSING,
            at["out"],
        )  # fmt: skip
        words, every, sentences, missing, changes = out[:5].tolist()
        if not missing:
            break
        found = space.arrays["missing"][: 2 * min(missing, _MISSING)].tolist()
        for chunk in {text[a:b] for a, b in zip(found[::2], found[1::2], strict=True)}:
            memo.learn(chunk)
    if changes:
        if pieces and len(lows) > 8:
            return _joined(text, codes, rule, np.frombuffer(lows, np.int64), np.frombuffer(highs, np.int64))
        words, sentences = _settled(text, affixes(rule), every)
    return Bounds(words, at["starts"], at["ends"], sentences)


def _joined(text: str, codes: bytes, rule: str, lows: Any, highs: Any) -> Bounds:
    """`cut` piece by piece, for pieces in which special cases have to be put together."""
    starts: list[int] = []
    ends: list[int] = []
    sentences = 0
    for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
        part = cut(text, codes, rule, (low.to_bytes(8, "little"), high.to_bytes(8, "little")))
        starts += space.arrays["starts"][: part.words].tolist()
        ends += space.arrays["ends"][: part.words].tolist()
        sentences += part.sentences
    space.arrays["starts"][: len(starts)], space.arrays["ends"][: len(ends)] = starts, ends
    return Bounds(len(starts), space.at["starts"], space.at["ends"], sentences)


def _settled(text: str, rules: Any, every: int) -> tuple[int, int]:
    """The last search for special cases over the words in the work space: (words but white space, sentences)."""
    call = functions()
    assert call is not None
    starts, ends, marks = (space.arrays[name][:every].tolist() for name in ("starts", "ends", "marks"))
    words = [text[a:b] for a, b in zip(starts, ends, strict=True)]
    changed = put_together(words, [bool(m & SPACE_AFTER) for m in marks], rules)
    for first in sorted(changed, reverse=True):
        size, new = changed[first]
        new_starts, at = [], starts[first]
        for word in new:
            new_starts.append(at)
            at += len(word)
        starts[first : first + size] = new_starts
        ends[first : first + size] = [a + len(w) for a, w in zip(new_starts, new, strict=True)]
        marks[first : first + size] = [kind(w) for w in new]
    space.arrays["marks"][: len(marks)] = marks
    sentences = call["sentences"](space.at["marks"], len(marks))
    kept = [i for i, m in enumerate(marks) if not m & BLANK]
    space.arrays["starts"][: len(kept)] = [starts[i] for i in kept]
    space.arrays["ends"][: len(kept)] = [ends[i] for i in kept]
    return len(kept), sentences
