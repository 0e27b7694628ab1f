"""Pages in more than one language: the language of each paragraph, and what is made of a page that mixes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from qwill.data.language import Identified, identify_all
from qwill.data.languages import OTHER

Mixed = Literal["keep", "split", "main"]
Span = tuple[int, int, str, float]  # start, end, code, score

FEW_LETTERS = 20  # a Latin letter counts 1, one of a script with longer code units as many as its bytes in UTF-8
_LINE = re.compile(r"[^\n]*\n*")
_LETTERS = re.compile(r"[^\W\d_]+")


def paragraph_languages(text: str, codes: Sequence[str] = ("en", "zh"), minimum: float | None = None) -> list[Span]:
    """The runs of paragraphs in one language, in order: (start, end, code, score), which together are all of `text`.

    A paragraph is a line. One that is too short to be sure of (FEW_LETTERS), or whose language is not told although a
    neighbour's is, goes with the run before it, at the beginning with the one after. `score` is a run's lowest.
    """
    lines = [(found.start(), found.end()) for found in _LINE.finditer(text) if found.end() > found.start()]
    told = identify_all([text[start:end].rstrip("\n") for start, end in lines], codes, minimum)
    runs: list[Span] = []
    pending = 0  # where the lines begin that wait for the next run
    for (start, end), one in zip(lines, told, strict=True):
        size = sum(len(word.encode("utf-8", "surrogatepass")) for word in _LETTERS.findall(text[start:end]))
        sure = size >= FEW_LETTERS and (one.code != OTHER or _is_foreign(one))
        if sure and not (runs and runs[-1][2] == one.code):
            runs.append((pending if not runs else start, end, one.code, one.score))
        elif runs:
            first, _, code, score = runs[-1]
            runs[-1] = (first, end, code, min(score, one.score) if sure else score)
    if not runs and text:
        whole = identify_all([text], codes, minimum)[0]
        runs = [(0, len(text), whole.code, whole.score)]
    return runs


def _is_foreign(one: Identified) -> bool:
    """Whether a paragraph is surely in none of the languages asked for, rather than not to be told."""
    return one.score < 0.05


def pieces(
    text: str, codes: Sequence[str] = ("en", "zh"), mixed: Mixed = "keep", minimum: float | None = None
) -> list[tuple[str, Identified]]:
    """What a page becomes: its text and language, once for each document made of it.

    `keep`: the page as it is, whatever its paragraphs. `main`: the paragraphs in the language that most of the text (in
    bytes) is in. `split`: one document for each language asked for, of its paragraphs, in order of their first; what is
    in none of them is left out. A page of one language is given back unchanged, and so is one that is all "other".
    """
    whole = identify_all([text], codes, minimum)[0]
    if mixed == "keep":
        return [(text, whole)]
    spans = paragraph_languages(text, codes, minimum)
    found = dict.fromkeys(code for _, _, code, _ in spans if code != OTHER)
    if len({code for _, _, code, _ in spans}) < 2 or not found:
        return [(text, whole)]
    parts = [_joined(text, spans, code) for code in found]
    if mixed == "main":
        parts = [max(parts, key=lambda part: len(part[0].encode("utf-8", "surrogatepass")))]
    return parts


def _joined(text: str, spans: Sequence[Span], code: str) -> tuple[str, Identified]:
    own = [(text[start:end].rstrip("\n"), score) for start, end, spoken, score in spans if spoken == code]
    return "\n".join(part for part, _ in own), Identified(code, min(score for _, score in own), code)
