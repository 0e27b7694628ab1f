"""Gopher's repetition rules (Rae et al. 2021, table A1) as datatrove 0.10.1 reads them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from qwill.data.rules import Rule, Values, first_failing

_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")


@dataclass(frozen=True)
class GopherRepetition:
    """Limits as FineWeb uses them for English, names as in datatrove. All are shares; `top_n_grams` and `dup_n_grams`
    are (n, share) pairs. None or 0 switches a line or paragraph rule off, leaving its pair out an n-gram rule."""

    dup_line_frac: float | None = 0.3
    dup_para_frac: float | None = 0.3
    dup_line_char_frac: float | None = 0.2
    dup_para_char_frac: float | None = 0.2
    top_n_grams: tuple[tuple[int, float], ...] = ((2, 0.2), (3, 0.18), (4, 0.16))
    dup_n_grams: tuple[tuple[int, float], ...] = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))


def repeated(parts: Sequence[str]) -> tuple[int, int]:
    """(number, characters) of the parts that have occurred before."""
    counts = Counter(parts)
    return len(parts) - len(counts), sum(len(part) * (count - 1) for part, count in counts.items())


def top_n_gram(words: Sequence[str], n: int) -> int:
    """Characters that the most frequent n-gram covers: its length with single spaces between words, times its count.

    Of several equally frequent ones the first in the text counts, so a text that repeats nothing has the length of its
    first n-gram here. 0 for fewer than n words.
    """
    counts = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    if not counts:
        return 0
    top = max(counts, key=lambda gram: counts[gram])
    return len(top) * counts[top]


def repeated_n_grams(words: Sequence[str], n: int) -> int:
    """Characters, without spaces, in n-grams that have occurred before.

    Read from the left: a repeated n-gram is counted and skipped whole, and neither it nor those that overlap it are
    remembered. n-grams are compared as words run together, so "a bc" repeats "ab c".
    """
    seen: set[str] = set()
    characters, i = 0, 0
    while i <= len(words) - n:
        gram = "".join(words[i : i + n])
        if gram in seen:
            characters += len(gram)
            i += n
        else:
            seen.add(gram)
            i += 1
    return characters


def measure(text: str, words: Sequence[str], limits: GopherRepetition) -> dict[str, float]:
    """Every rule's value, named as its reason, and `characters`, the length of the text: 0 is the reason "empty".

    Lines are what stands between line feeds, with all their spaces; an empty first or last line counts. Paragraphs are
    what stands between empty lines of the stripped text. Shares of characters are of the whole text, spaces and line
    feeds included; of an empty text they are 0.
    """
    whole = len(text)
    paragraphs, lines = _PARAGRAPHS.split(text.strip()), _LINES.split(text)
    (para_count, para_characters), (line_count, line_characters) = repeated(paragraphs), repeated(lines)
    values = {
        "characters": float(whole),
        "dup_para_frac": para_count / len(paragraphs),
        "dup_para_char_frac": para_characters / max(whole, 1),
        "dup_line_frac": line_count / len(lines),
        "dup_line_char_frac": line_characters / max(whole, 1),
    }
    for n, _ in limits.top_n_grams:
        values[f"top_{n}_gram"] = top_n_gram(words, n) / max(whole, 1)
    for n, _ in limits.dup_n_grams:
        values[f"duplicated_{n}_n_grams"] = repeated_n_grams(words, n) / max(whole, 1)
    return values


@lru_cache(maxsize=64)
def rules(limits: GopherRepetition) -> tuple[Rule, ...]:
    """The rules that are on, in order."""
    parts = ("dup_para_frac", "dup_para_char_frac", "dup_line_frac", "dup_line_char_frac")
    told = [("empty", "characters", True, 1.0, "")]
    told += [(name, name, False, getattr(limits, name), name) for name in parts if getattr(limits, name)]
    told += [(f"top_{n}_gram", f"top_{n}_gram", False, most, "top_n_grams") for n, most in limits.top_n_grams]
    for n, most in limits.dup_n_grams:
        told.append((f"duplicated_{n}_n_grams", f"duplicated_{n}_n_grams", False, most, "dup_n_grams"))
    return tuple(Rule(*rule) for rule in told)


def decide(values: Values, limits: GopherRepetition) -> tuple[str, float] | None:
    """(datatrove's reason, value) of the first rule that fails, None to keep."""
    return first_failing(rules(limits), values)
