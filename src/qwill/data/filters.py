"""The family "units": our own quality rules for short and for Chinese texts, on words and on characters.

English follows Gopher (Rae et al. 2021, table A1 and section A1.1) on words, Chinese follows FineWeb-2
(Penedo et al. 2025) translated from words to characters, because segmenting Chinese costs more than
everything else here and its errors would be filtered along with the text. Where these differ from the papers
the reason stands beside the number in `Limits`. Three mistakes of other implementations are avoided:
punctuation is not a word (it would sink Markdown in the alphabetic rule), Han is not judged by rules about
the Latin alphabet, and a document without words is dropped, not divided by."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from qwill.data.rules import Rule, Values, first_failing
from qwill.data.units import split

# Gopher's eight, and twice as many more of the commonest words: a definition of 20 words passes by being
# English.
_GOPHER_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_MORE_WORDS = ("a", "an", "in", "is", "are", "was", "for", "it", "on", "as", "by", "at", "or", "from", "he", "his")
STOP_WORDS = frozenset((*_GOPHER_WORDS, *_MORE_WORDS))
SENTENCE_END = ".!?…。！？；;:："


@dataclass(frozen=True)
class Limits:
    """Thresholds, as for English. Lengths are in units (words or characters), shares 0..1 of what each filter
    says.

    They are Gopher's numbers, but for three. Its 50 words are meant for web pages: an encyclopaedia's entry
    of 15 words is a whole text. Its share of words with a letter (0.8) drops good passages full of dates and
    populations: 0.65. And a phrase that a text of 60 words says twice, its title for instance, is not
    boilerplate: see `repetition`. `max_top` and `max_duplicates` are (n, share) pairs, n growing."""

    min_units: int = 15
    max_units: int = 100_000
    min_mean_length: float = 3.0
    max_mean_length: float = 10.0
    min_alphabetic: float = 0.65
    min_alphanumeric: float = 0.7
    min_stop_words: int = 2
    max_symbols: float = 0.1
    max_bullets: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_ended_lines: float = 0.12
    max_run: float = 0.25
    max_lost: float = 0.002
    max_duplicate_lines: float = 0.30
    max_duplicate_line_characters: float = 0.20
    max_top: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    max_duplicates: tuple[tuple[int, float], ...] = (
        (5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10),
    )  # fmt: skip
    max_duplicates_short: float = 0.35
    stop_words: frozenset[str] = STOP_WORDS
    sentence_end: str = SENTENCE_END


@dataclass(frozen=True)
class ChineseLimits(Limits):
    """FineWeb-2's numbers for cmn_Hani, on characters.

    A Chinese word is about 1.6 characters in running text and 2 where it is a noun, so its most frequent 2,
    3, 4 words are 4, 6, 8 characters here, and its duplicated 5 .. 10 words 8 .. 16. The share of letters and
    digits among visible characters is ours: a dictionary, where every line has brackets, has 0.57 and more
    but for one page in a thousand, `！！！！` and `~~~~` less."""

    min_units: int = 10
    min_mean_length: float = 1.0
    max_mean_length: float = 5.0
    min_alphabetic: float = 0.735
    min_alphanumeric: float = 0.55
    min_stop_words: int = 0
    max_symbols: float = 0.15
    min_ended_lines: float = 0.106
    max_duplicate_lines: float = 0.287
    max_top: tuple[tuple[int, float], ...] = ((4, 0.256), (6, 0.201), (8, 0.171))
    max_duplicates: tuple[tuple[int, float], ...] = (
        (8, 0.198), (10, 0.180), (11, 0.166), (13, 0.152), (14, 0.139), (16, 0.127),
    )  # fmt: skip


FEW_UNITS = 100  # below, the shares that Gopher allows are reached by one phrase that occurs twice
FEW_LINES = 4  # below, one line without a full stop would decide

_SPACE = re.compile(r"\s+")
_RUN = re.compile(r"(\S)\1{3,}")
_SYMBOL = re.compile(r"#|\.{3,}|。{3,}|…+")
_BULLETS = ("•", "‣", "▪", "●", "-", "*", "·")
_CLOSING = "”\"'’」』）)~～]】"  # may follow the end of a sentence


class View:
    """What the rules ask about one document, each thing measured once, and none that no rule asks for:
    `view["bullets"]`, `view["top_2"]`."""

    def __init__(self, text: str, stop_words: frozenset[str] = STOP_WORDS, sentence_end: str = SENTENCE_END) -> None:
        self.text, self.known, self.endings = text, stop_words, tuple(sentence_end + _CLOSING)
        self.units = split(text)
        self._duplicated: dict[int, float] = {}
        self._values: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        if name not in self._values:
            if name in _MEASURES:
                self._values[name] = float(_MEASURES[name](self))
            else:
                kind, n = name.split("_")
                self._values[name] = self.top(int(n)) if kind == "top" else self.duplicated(int(n))
        return self._values[name]

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @cached_property
    def visible(self) -> int:
        """Characters that are not space."""
        return len(_SPACE.sub("", self.text))

    @cached_property
    def unit_characters(self) -> int:
        return sum(map(len, self.units))

    @cached_property
    def alphanumeric(self) -> float:
        """Share of the visible characters that belong to a unit."""
        return min(self.unit_characters / self.visible, 1.0) if self.visible else 0.0

    @cached_property
    def mean_length(self) -> float:
        """Characters a unit."""
        return self.unit_characters / len(self.units) if self.units else 0.0

    def duplicated(self, n: int) -> float:
        """Share of the units' characters inside a run of `n` units that has occurred before in the
        document."""
        if n not in self._duplicated:
            self._duplicated[n] = self._count_duplicated(n)
        return self._duplicated[n]

    def _count_duplicated(self, n: int) -> float:
        units = self.units
        seen: set[tuple[str, ...]] = set()
        end, characters = 0, 0  # units before `end` are already counted
        for start, gram in enumerate(zip(*(units[i:] for i in range(n)), strict=False)):
            if gram in seen:
                characters += sum(map(len, units[max(start, end) : start + n]))
                end = start + n
            else:
                seen.add(gram)
        return characters / self.unit_characters if characters else 0.0

    def top(self, n: int) -> float:
        """Share of the units' characters in the most frequent run of `n` units, when that occurs at least
        three times."""
        counts = Counter(zip(*(self.units[i:] for i in range(n)), strict=False))
        most = max(counts.values(), default=0)
        if most < 3:
            return 0.0
        longest = max(sum(map(len, gram)) for gram, count in counts.items() if count == most)
        return min(most * longest / self.unit_characters, 1.0)


def _of_lines(view: View, told: Callable[[str], bool]) -> float:
    return sum(map(told, view.lines)) / max(len(view.lines), 1)


def _has_letter(unit: str) -> bool:
    return unit.isalpha() or any(map(str.isalpha, unit))


def _duplicate_line_characters(view: View) -> float:
    repeats = sum(len(line) * (count - 1) for line, count in Counter(view.lines).items())
    return repeats / max(sum(map(len, view.lines)), 1)


_MEASURES: dict[str, Callable[[View], float]] = {
    "units": lambda view: len(view.units),
    "lines": lambda view: len(view.lines),
    "lost_characters": lambda view: view.text.count("\ufffd") / max(len(view.text), 1),
    "mean_length": lambda view: view.mean_length,
    "stop_words": lambda view: len(view.known.intersection(view.units)),
    "alphanumeric": lambda view: view.alphanumeric,
    "symbols": lambda view: len(_SYMBOL.findall(view.text)) / max(len(view.units), 1),
    "bullets": lambda view: _of_lines(view, lambda line: line.startswith(_BULLETS)),
    "ellipsis_lines": lambda view: _of_lines(view, lambda line: line.endswith(("...", "…"))),
    "ended_lines": lambda view: _of_lines(view, lambda line: line.endswith(view.endings)),
    "runs": lambda view: sum(len(run.group()) for run in _RUN.finditer(view.text)) / max(view.visible, 1),
    "duplicate_lines": lambda view: (len(view.lines) - len(set(view.lines))) / max(len(view.lines), 1),
    "duplicate_line_characters": _duplicate_line_characters,
    "alphabetic": lambda view: sum(map(_has_letter, view.units)) / max(len(view.units), 1),
}


@lru_cache(maxsize=64)
def rules(limits: Limits) -> tuple[Rule, ...]:
    """The rules in order of cost: the first that fails decides, so that the expensive ones see fewer documents.

    Gopher's most frequent and duplicated n-grams are for texts long enough that a share means something. A text of
    fewer than FEW_UNITS is judged only by its shortest duplicated n-grams and a laxer limit, and a most frequent n-gram
    counts from its third occurrence: without both, one of twelve encyclopaedia paragraphs here is dropped because it
    opens with its title.
    """
    lines = ("lines", FEW_LINES, math.inf)
    long = ("units", FEW_UNITS, math.inf)
    smallest = limits.max_duplicates[0][0]
    repetition = [Rule(f"top {n}-gram", f"top_{n}", False, most, "max_top", long) for n, most in limits.max_top]
    for n, most in limits.max_duplicates:
        repetition.append(Rule(f"duplicate {n}-grams", f"duplicated_{n}", False, most, "max_duplicates", long))
    return (
        Rule("too short", "units", True, limits.min_units, "min_units"),
        Rule("too long", "units", False, limits.max_units, "max_units"),
        # U+FFFD stands where an earlier decoding lost a character.
        Rule("lost characters", "lost_characters", False, limits.max_lost, "max_lost"),
        # Words so short or long that they are codes, tables, or text without spaces.
        Rule("mean word length", "mean_length", True, limits.min_mean_length, "min_mean_length"),
        Rule("mean word length", "mean_length", False, limits.max_mean_length, "max_mean_length"),
        # Running English has some of the commonest words; a list of keywords has none.
        Rule("stop words", "stop_words", True, limits.min_stop_words, "min_stop_words"),
        # What is neither letter nor digit is punctuation, emoticons, markup.
        Rule("punctuation", "alphanumeric", True, limits.min_alphanumeric, "min_alphanumeric"),
        Rule("symbols", "symbols", False, limits.max_symbols, "max_symbols"),
        Rule("bullets", "bullets", False, limits.max_bullets, "max_bullets", lines),
        # A page of teasers; a menu or a table.
        Rule("ellipsis lines", "ellipsis_lines", False, limits.max_ellipsis_lines, "max_ellipsis_lines", lines),
        Rule("unended lines", "ended_lines", True, limits.min_ended_lines, "min_ended_lines", lines),
        Rule("character runs", "runs", False, limits.max_run, "max_run"),
        Rule("duplicate lines", "duplicate_lines", False, limits.max_duplicate_lines, "max_duplicate_lines"),
        Rule(
            "duplicate line characters", "duplicate_line_characters", False,
            limits.max_duplicate_line_characters, "max_duplicate_line_characters",
        ),
        Rule("not alphabetic", "alphabetic", True, limits.min_alphabetic, "min_alphabetic"),
        Rule(
            f"duplicate {smallest}-grams", f"duplicated_{smallest}", False,
            limits.max_duplicates_short, "max_duplicates_short", ("units", 0, FEW_UNITS),
        ),
        *repetition,
    )  # fmt: skip


def measure(text: str, limits: Limits) -> dict[str, float]:
    """Every rule's value, and the number of `lines`. Shares are 0 of a text without units, lines or visible characters.

    units: words or characters; mean_length: characters a unit; alphanumeric: visible characters that belong to a unit;
    runs: visible characters in runs of four or more of the same (`~~~~`, `hahaaaaa`, `-----`); symbols: hash signs and
    ellipses a unit; top_n, duplicated_n: see View.
    """
    view = View(text, limits.stop_words, limits.sentence_end)
    return {name: view[name] for name in (*_MEASURES, *dict.fromkeys(r.value for r in rules(limits)))}


def decide(values: Values, limits: Limits) -> tuple[str, float] | None:
    """(reason, value) of the first rule that fails, None to keep. A View measures only what that takes."""
    return first_failing(rules(limits), values)
