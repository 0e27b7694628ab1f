"""Quality filters: pure functions of one measured document, each answering None (keep) or `(reason, value)`.

English follows Gopher (Rae et al. 2021, table A1 and section A1.1) on words, Chinese follows FineWeb-2
(Penedo et al. 2025) translated from words to characters, because segmenting Chinese costs more than
everything else here and its errors would be filtered along with the text. Where these differ from the papers
the reason stands beside the number in `Limits`. Three mistakes of other implementations are avoided:
punctuation is not a word (it would sink Markdown in the alphabetic rule), Han is not judged by rules about
the Latin alphabet, and a document without words is dropped, not divided by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from qwill.data.units import split

Drop = tuple[str, float]


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


# Gopher's eight, and twice as many more of the commonest words: a definition of 20 words passes by being
# English.
_GOPHER_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_MORE_WORDS = ("a", "an", "in", "is", "are", "was", "for", "it", "on", "as", "by", "at", "or", "from", "he", "his")
STOP_WORDS = frozenset((*_GOPHER_WORDS, *_MORE_WORDS))

FEW_UNITS = 100  # below, the shares that Gopher allows are reached by one phrase that occurs twice
FEW_LINES = 4  # below, one line without a full stop would decide

_SPACE = re.compile(r"\s+")
_RUN = re.compile(r"(\S)\1{3,}")
_SYMBOL = re.compile(r"#|\.{3,}|。{3,}|…+")
_BULLETS = ("•", "‣", "▪", "●", "-", "*", "·")
_ENDINGS = tuple(".!?…。！？；;:：”\"'’」』）)~～]】")


class View:
    """What the filters ask about one document, each thing measured once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.units = split(text)
        self._duplicated: dict[int, float] = {}

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


def length(view: View, limits: Limits) -> Drop | None:
    """Too few or too many words (English) or characters (Chinese)."""
    count = len(view.units)
    if count < limits.min_units:
        return "too short", float(count)
    return ("too long", float(count)) if count > limits.max_units else None


def lost_characters(view: View, limits: Limits) -> Drop | None:
    """U+FFFD stands where an earlier decoding lost a character."""
    share = view.text.count("\ufffd") / max(len(view.text), 1)
    return ("lost characters", share) if share > limits.max_lost else None


def mean_length(view: View, limits: Limits) -> Drop | None:
    """Words so short or long that they are codes, tables, or text without spaces."""
    mean = view.mean_length
    if limits.min_mean_length <= mean <= limits.max_mean_length:
        return None
    return "mean word length", mean


def alphabetic(view: View, limits: Limits) -> Drop | None:
    """Share of the units that hold a letter; Han characters are letters."""
    share = sum(unit.isalpha() or _has_letter(unit) for unit in view.units) / max(len(view.units), 1)
    return ("not alphabetic", share) if share < limits.min_alphabetic else None


def _has_letter(unit: str) -> bool:
    return any(map(str.isalpha, unit))


def alphanumeric(view: View, limits: Limits) -> Drop | None:
    """Share of the visible characters that are letters or digits: the rest is punctuation, emoticons,
    markup."""
    return ("punctuation", view.alphanumeric) if view.alphanumeric < limits.min_alphanumeric else None


def stop_words(view: View, limits: Limits) -> Drop | None:
    """Running English has some of the commonest words; a list of keywords has none."""
    found = len(STOP_WORDS.intersection(view.units))
    return ("stop words", float(found)) if found < limits.min_stop_words else None


def symbols(view: View, limits: Limits) -> Drop | None:
    """Hash signs and ellipses a unit."""
    ratio = len(_SYMBOL.findall(view.text)) / max(len(view.units), 1)
    return ("symbols", ratio) if ratio > limits.max_symbols else None


def bullets(view: View, limits: Limits) -> Drop | None:
    """Share of lines that start with a bullet."""
    share = sum(line.startswith(_BULLETS) for line in view.lines) / max(len(view.lines), 1)
    return ("bullets", share) if share > limits.max_bullets and len(view.lines) >= FEW_LINES else None


def ellipsis_lines(view: View, limits: Limits) -> Drop | None:
    """Share of lines that end in an ellipsis: a page of teasers."""
    share = sum(line.endswith(("...", "…")) for line in view.lines) / max(len(view.lines), 1)
    return ("ellipsis lines", share) if share > limits.max_ellipsis_lines and len(view.lines) >= FEW_LINES else None


def ended_lines(view: View, limits: Limits) -> Drop | None:
    """Share of lines that end in punctuation: a menu or a table has few."""
    share = sum(line.endswith(_ENDINGS) for line in view.lines) / max(len(view.lines), 1)
    return ("unended lines", share) if share < limits.min_ended_lines and len(view.lines) >= FEW_LINES else None


def runs(view: View, limits: Limits) -> Drop | None:
    """Share of the visible characters in runs of four or more of the same: `！！！！`, `hahaaaaa`, `-----`."""
    share = sum(len(run.group()) for run in _RUN.finditer(view.text)) / max(view.visible, 1)
    return ("character runs", share) if share > limits.max_run else None


def duplicate_lines(view: View, limits: Limits) -> Drop | None:
    """Share of lines, and of the characters in them, that repeat an earlier line."""
    counts = Counter(view.lines)
    total = max(len(view.lines), 1)
    share = (total - len(counts)) / total
    if share > limits.max_duplicate_lines:
        return "duplicate lines", share
    characters = sum(len(line) * (count - 1) for line, count in counts.items()) / max(sum(map(len, view.lines)), 1)
    return ("duplicate line characters", characters) if characters > limits.max_duplicate_line_characters else None


def repetition(view: View, limits: Limits) -> Drop | None:
    """Gopher's most frequent and duplicated n-grams, for texts long enough that a share means something.

    A text of fewer than FEW_UNITS is judged only by its shortest duplicated n-grams and a laxer limit, and a
    most frequent n-gram counts from its third occurrence: without both, one of twelve encyclopaedia
    paragraphs here is dropped because it opens with its title."""
    smallest = limits.max_duplicates[0][0]
    shortest = view.duplicated(smallest)
    if len(view.units) < FEW_UNITS:
        return (f"duplicate {smallest}-grams", shortest) if shortest > limits.max_duplicates_short else None
    for n, limit in limits.max_top:
        share = view.top(n)
        if share == 0.0:
            break  # a longer n-gram occurs no more often than a shorter one
        if share > limit:
            return f"top {n}-gram", share
    for n, limit in limits.max_duplicates:
        if shortest <= limits.max_duplicates[-1][1]:
            break  # a longer n-gram repeats no more characters than a shorter one
        if (share := shortest if n == smallest else view.duplicated(n)) > limit:
            return f"duplicate {n}-grams", share
    return None


Filter = Callable[[View, Limits], Drop | None]

# In order of cost: the first that answers decides, so that the expensive ones see fewer documents.
FILTERS: tuple[Filter, ...] = (
    length,
    lost_characters,
    mean_length,
    stop_words,
    alphanumeric,
    symbols,
    bullets,
    ellipsis_lines,
    ended_lines,
    runs,
    duplicate_lines,
    alphabetic,
    repetition,
)


def judge(view: View, limits: Limits, filters: Sequence[Filter] = FILTERS) -> Drop | None:
    """The first filter's reason to drop the document, or None."""
    return next((drop for test in filters if (drop := test(view, limits)) is not None), None)
