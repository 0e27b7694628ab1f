"""Gopher's quality rules (Rae et al. 2021, section A1.1) as datatrove 0.10.1 reads them.

Where datatrove divides by zero, in a document without words or lines, the value here is nan and the rule passes: the
length rule, or the stop words if that is off, is what drops such a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from qwill.data.punctuation import SYMBOLS
from qwill.data.rules import Rule, Values, first_failing, share

GOPHER_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})


@dataclass(frozen=True)
class GopherQuality:
    """Limits as FineWeb uses them for English. None or 0 switches a rule off.

    The names are datatrove's; its `max_non_alpha_words_ratio` is the least share of words with a letter (datatrove
    issue 202). `alphabetic`: "datatrove" counts punctuation among the words that should hold a letter, which few
    Markdown documents survive; "letters" does not.
    """

    min_doc_words: int | None = 50
    max_doc_words: int | None = 100_000
    min_avg_word_length: float | None = 3
    max_avg_word_length: float | None = 10
    max_symbol_word_ratio: float | None = 0.1
    max_bullet_lines_ratio: float | None = 0.9
    max_ellipsis_lines_ratio: float | None = 0.3
    max_non_alpha_words_ratio: float | None = 0.8
    min_stop_words: int | None = 2
    stop_words: frozenset[str] = GOPHER_STOP_WORDS
    alphabetic: Literal["datatrove", "letters"] = "datatrove"


def measure(text: str, words: Sequence[str], limits: GopherQuality) -> dict[str, float]:
    """Every rule's value. `words`: all tokens of `text` that are not space, punctuation included.

    words: tokens that hold more than punctuation; mean_word_length: their mean length in characters; hashes, ellipses:
    occurrences a token; bullets, ellipsis_lines: shares of the lines (str.splitlines); alphabetic: share of the tokens
    with a letter (str.isalpha, so Han is letters); stop_words: how many different ones occur.
    """
    real = [word for word in words if not SYMBOLS.issuperset(word)]
    lines = text.splitlines()
    judged = real if limits.alphabetic == "letters" else words
    return {
        "words": float(len(real)),
        "mean_word_length": share(sum(map(len, real)), len(real)),
        "hashes": share(text.count("#"), len(words)),
        "ellipses": share(text.count("...") + text.count("…"), len(words)),
        "bullets": share(sum(line.lstrip().startswith(("•", "-")) for line in lines), len(lines)),
        "ellipsis_lines": share(sum(line.rstrip().endswith(("...", "…")) for line in lines), len(lines)),
        "alphabetic": share(sum(any(map(str.isalpha, word)) for word in judged), len(judged)),
        "stop_words": float(len(limits.stop_words.intersection(words))),
    }


# reason, value, fails below, setting
_RULES = (
    ("gopher_short_doc", "words", True, "min_doc_words"),
    ("gopher_long_doc", "words", False, "max_doc_words"),
    ("gopher_below_avg_threshold", "mean_word_length", True, "min_avg_word_length"),
    ("gopher_above_avg_threshold", "mean_word_length", False, "max_avg_word_length"),
    ("gopher_too_many_hashes", "hashes", False, "max_symbol_word_ratio"),
    ("gopher_too_many_ellipsis", "ellipses", False, "max_symbol_word_ratio"),
    ("gopher_too_many_bullets", "bullets", False, "max_bullet_lines_ratio"),
    ("gopher_too_many_end_ellipsis", "ellipsis_lines", False, "max_ellipsis_lines_ratio"),
    ("gopher_below_alpha_threshold", "alphabetic", True, "max_non_alpha_words_ratio"),
    ("gopher_enough_stop_words", "stop_words", True, "min_stop_words"),
)


@lru_cache(maxsize=64)
def rules(limits: GopherQuality) -> tuple[Rule, ...]:
    """The rules that are on, in order."""
    told = ((reason, value, below, getattr(limits, setting), setting) for reason, value, below, setting in _RULES)
    return tuple(Rule(*rule) for rule in told if rule[3])


def decide(values: Values, limits: GopherQuality) -> tuple[str, float] | None:
    """(datatrove's reason, value) of the first rule that fails, None to keep."""
    return first_failing(rules(limits), values)
