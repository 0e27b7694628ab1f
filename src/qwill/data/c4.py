"""C4's rules (Raffel et al. 2020, section 2.2) as datatrove 0.10.1 reads them: they drop lines, rewrite and drop texts.

Splitting by sentences instead of lines (datatrove's `split_paragraph=False`) is not offered: no published recipe does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from qwill.data.rules import Rule, Values, first_failing

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_ENDINGS = (".", "?", "!", '"', "'")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")

# Accounts of lines, in the order of the tests: a line counts under the first that drops it.
LINES = ("too_long_word", "no_terminal_punct", "too_few_words", "javascript", "policy")


@dataclass(frozen=True)
class C4:
    """Limits as FineWeb uses them, names as in datatrove. -1 switches a number off.

    FineWeb keeps lines without a full stop (`filter_no_terminal_punct`, which datatrove itself turns on).
    """

    remove_citations: bool = True
    filter_no_terminal_punct: bool = False
    min_num_sentences: int = 5
    min_words_per_line: int = 3
    max_word_length: int = 1000
    filter_lorem_ipsum: bool = True
    filter_javascript: bool = True
    filter_curly_bracket: bool = True
    filter_policy: bool = True


def dropped_line(line: str, limits: C4) -> tuple[str, str]:
    """(which of LINES drops the line or "", the line as it is kept): the tests that look at one line alone.

    Words are what `str.split` gives, citations included, while the test for the full stop comes after them.
    """
    line = line.strip()
    words = line.split()
    if limits.max_word_length != -1 and max(map(len, words), default=0) > limits.max_word_length:
        return "too_long_word", line
    if limits.remove_citations:
        line = _CITATION.sub("", line)
    if limits.filter_no_terminal_punct and (not line.endswith(_ENDINGS) or line.endswith("...")):
        return "no_terminal_punct", line
    if len(words) < limits.min_words_per_line:
        return "too_few_words", line
    lower = line.lower()
    if limits.filter_javascript and "javascript" in lower:
        return "javascript", line
    if limits.filter_policy and any(phrase in lower for phrase in POLICY):
        return "policy", line
    return "", line


def measure(text: str, count_sentences: Callable[[str], int], limits: C4) -> tuple[dict[str, float], str]:
    """(every rule's value, the text that is kept if the document is).

    lorem_ipsum_line, curly_bracket_line: number of the first line (from 1) that has one and would drop the document, 0
    for none; a line that is dropped earlier, like one with "javascript" and a bracket, has none. sentences: of the
    lines kept. lines, lines_kept and lines_<each of LINES>: accounts of lines. All of them are as if no rule had
    dropped the document before.
    """
    counts = dict.fromkeys(LINES, 0)
    first = {"lorem_ipsum_line": 0, "curly_bracket_line": 0}
    kept: list[str] = []
    lines = text.splitlines()
    for number, raw in enumerate(lines, 1):
        dropped, line = dropped_line(raw, limits)
        # "lorem ipsum" is looked for before the tests for javascript and policy, the bracket between them.
        if dropped in ("", "javascript", "policy") and "lorem ipsum" in line.lower():
            first["lorem_ipsum_line"] = first["lorem_ipsum_line"] or number
        if dropped in ("", "policy") and "{" in line:
            first["curly_bracket_line"] = first["curly_bracket_line"] or number
        if dropped:
            counts[dropped] += 1
        else:
            kept.append(line)
    values = {name: float(number) for name, number in first.items()}
    values["sentences"] = float(sum(map(count_sentences, kept)))
    values |= {"lines": float(len(lines)), "lines_kept": float(len(kept))}
    values |= {f"lines_{name}": float(count) for name, count in counts.items()}
    return values, "\n".join(kept).strip()


@lru_cache(maxsize=64)
def rules(limits: C4) -> tuple[Rule, ...]:
    """The rules that are on. Of the first two, the one whose line comes first decides."""
    found = []
    if limits.filter_lorem_ipsum:
        found.append(Rule("lorem_ipsum", "lorem_ipsum_line", False, 0.0, "filter_lorem_ipsum"))
    if limits.filter_curly_bracket:
        found.append(Rule("curly_bracket", "curly_bracket_line", False, 0.0, "filter_curly_bracket"))
    if limits.min_num_sentences != -1:
        found.append(Rule("too_few_sentences", "sentences", True, limits.min_num_sentences, "min_num_sentences"))
    return tuple(found)


def decide(values: Values, limits: C4) -> tuple[str, float] | None:
    """(datatrove's reason, value) of the first rule that fails, None to keep; of the first two the value is a line."""
    on = rules(limits)
    lines = [rule for rule in on if rule.value.endswith("_line")]
    lines.sort(key=lambda rule: values[rule.value])  # stable: on one line "lorem ipsum" is seen first
    return first_failing((*lines, *(rule for rule in on if rule not in lines)), values)
