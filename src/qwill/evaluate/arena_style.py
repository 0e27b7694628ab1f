"""What a reply looks like, counted: length, headers, bold and lists, the features of LMArena's style control (2024).

Markdown in fenced code is code and not style. Length is in words, a Chinese, Japanese or Korean character being one,
in place of LMArena's tokens of one vocabulary: features are shares of a sum, so the unit cancels but for mixed texts.
"""

from __future__ import annotations

import re

STYLE = ("length", "headers", "bold", "lists")

FENCE = re.compile(r"^[ ]{0,3}(```+|~~~+)[^\n]*\n.*?(?:^[ ]{0,3}\1[`~]*[ ]*$|\Z)", re.M | re.S)
CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
LETTERS = rf"[^\W{CHARACTER}]+"
WORD = re.compile(rf"[{CHARACTER}]|{LETTERS}(?:['’\-.]{LETTERS})*")
HEADER = re.compile(r"^[ ]{0,3}#{1,6}[ \t]+\S", re.M)
BOLD = re.compile(r"\*\*(?=\S)[^*\n]+?(?<=\S)\*\*|(?<!\w)__(?=\S)[^_\n]+?(?<=\S)__(?!\w)")
ITEM = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,3}[.)、])[ \t]+\S|^[ \t]*\d{1,3}、\S", re.M)


def style_counts(reply: str) -> tuple[int, int, int, int]:
    """(words, headers, bold pieces, list items) of a reply in Markdown; see `arena.style_features`."""
    prose = FENCE.sub("\n", reply)
    headers, bold, items = (len(pattern.findall(prose)) for pattern in (HEADER, BOLD, ITEM))
    return len(WORD.findall(reply)), headers, bold, items


def word_count(text: str) -> int:
    return len(WORD.findall(text))
