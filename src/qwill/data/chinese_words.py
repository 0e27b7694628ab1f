"""Chinese words as jieba 0.42.1 cuts them by default: the definition, in Python, of what `chinese.c` does faster.

jieba cuts a text into blocks of Han, Latin letters, digits and `+#&._%-`, and single characters. A block of Han alone
goes to rjieba, which has the same dictionary and model and gives the same words; on the others it would not (it knows
other blocks), so jieba does them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from qwill.base.errors import ConfigError

_BLOCK = re.compile("([\u4e00-\u9fd5a-zA-Z0-9+#&._%-]+)")
_HAN = re.compile("[\u4e00-\u9fd5]+")


@cache
def _libraries() -> tuple[Any, Any]:
    try:
        import jieba
        import rjieba
    except ImportError as error:
        raise ConfigError(f"words: chinese: needs jieba and rjieba ({error}); pip install 'qwill[curate]'.") from None
    jieba.setLogLevel(60)  # it tells standard error how it loads its dictionary
    return jieba, rjieba


def cut_chinese(text: str) -> Iterator[str]:
    """The words of a text; a character of white space is one too."""
    jieba, rjieba = _libraries()
    for block in _BLOCK.split(text):
        if _HAN.fullmatch(block):
            yield from rjieba.cut(block)
        elif _BLOCK.match(block):
            yield from jieba.cut(block)
        else:
            yield from block


def with_spaces(words: Iterator[str]) -> list[str]:
    """Words and white space as spaCy keeps them: a run of white space is one word, less a space right after a word."""
    found: list[str] = []
    blank = ""
    after = False  # the run follows a word
    for word in words:
        if word.isspace():
            blank += word
            continue
        if after and blank.startswith(" "):
            blank = blank[1:]
        found += [blank, word] if blank else [word]
        blank, after = "", True
    if after and blank.startswith(" "):
        blank = blank[1:]
    return [*found, blank] if blank else found


def jieba_tables() -> tuple[bytes, list[float], list[float], list[float]]:
    """jieba's dictionary file and its model: log-probabilities of a start, a move and (from U+4E00 to U+9FD5) a
    character, for the states B E M S."""
    _libraries()
    from jieba.finalseg import MIN_FLOAT, emit_P, start_P, trans_P

    start = [start_P[s] for s in "BEMS"]
    move = [trans_P[a].get(b, MIN_FLOAT) for a in "BEMS" for b in "BEMS"]
    emit = [emit_P[s].get(chr(c), MIN_FLOAT) for c in range(0x4E00, 0x9FD6) for s in "BEMS"]
    return files("jieba").joinpath("dict.txt").read_bytes(), start, move, emit
