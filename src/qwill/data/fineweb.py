"""FineWeb's own quality rules (Penedo et al. 2024, section 3.6) as datatrove 0.10.1 applies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from qwill.data.gopher_repetition import repeated
from qwill.data.punctuation import TERMINAL
from qwill.data.rules import Rule, Values, first_failing, share

_LEAST = 5e-324  # the smallest number above 0


@dataclass(frozen=True)
class FineWeb:
    """Limits as FineWeb uses them for English, names as in datatrove. No value switches a rule off: a limit that
    nothing reaches does (FineWeb-2 has 999 for `short_line_thr`). `line_punct_exclude_zero` lets a document pass that
    has no line with a terminal mark at all; `short_line_length` is in characters."""

    line_punct_thr: float = 0.12
    line_punct_exclude_zero: bool = False
    stop_chars: frozenset[str] = TERMINAL
    short_line_thr: float = 0.67
    short_line_length: int = 30
    char_duplicates_ratio: float = 0.01
    new_line_ratio: float = 0.3


def measure(text: str, words: Sequence[str], limits: FineWeb) -> dict[str, float]:
    """Every rule's value, named as its reason, and `lines`, the lines that are not blank: 0 is the reason "empty".

    line_punct_ratio: share of lines whose very last character is terminal (a space after it hides it);
    short_line_ratio: share of short lines; char_dup_ratio: characters of lines that repeat an earlier one, of the text
    without line feeds; list_ratio: line feeds a word. nan of no lines or words.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    return {
        "lines": float(len(lines)),
        "line_punct_ratio": share(sum(line.endswith(tuple(limits.stop_chars)) for line in lines), len(lines)),
        "short_line_ratio": share(sum(len(line) <= limits.short_line_length for line in lines), len(lines)),
        "char_dup_ratio": share(repeated(lines)[1], len(text.replace("\n", ""))),
        "list_ratio": share(text.count("\n"), len(words)),
    }


@lru_cache(maxsize=64)
def rules(limits: FineWeb) -> tuple[Rule, ...]:
    """The rules in order."""
    only = ("line_punct_ratio", _LEAST, 2.0) if limits.line_punct_exclude_zero else None
    return (
        Rule("empty", "lines", True, 1.0, ""),
        Rule("line_punct_ratio", "line_punct_ratio", True, limits.line_punct_thr, "line_punct_thr", only),
        Rule("short_line_ratio", "short_line_ratio", False, limits.short_line_thr, "short_line_thr"),
        Rule("char_dup_ratio", "char_dup_ratio", False, limits.char_duplicates_ratio, "char_duplicates_ratio"),
        Rule("list_ratio", "list_ratio", False, limits.new_line_ratio, "new_line_ratio"),
    )


def decide(values: Values, limits: FineWeb) -> tuple[str, float] | None:
    """(datatrove's reason, value) of the first rule that fails, None to keep."""
    return first_failing(rules(limits), values)
