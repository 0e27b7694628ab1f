"""Words as spaCy's rule-based tokenizers cut them: the definition, in Python, of what `text.c` does faster.

A text is cut at white space (`str.isspace`) into chunks. Prefixes and suffixes are taken off a chunk's ends one by
one, until what is left is a special case (`don't` → `do`, `n't`); what remains is a special case, an address, or is
cut at infixes. At last special cases are looked for once more, over the words of the whole text, because `:` and `)`
taken off one after the other are one smiley.

Measured against spaCy 3.8.18: see tests/data/test_words.py. Its tables are in word_rules.json.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

# A suffix is searched for among so many last characters: longer than any of the tables' (units with their digit), and
# a run of dots, the one suffix without a bound, is measured apart.
_WINDOW = 24
_LONGEST_CASE = 32  # characters; no special case is longer
_USER = re.compile("@(?!@)")
_RUNS = re.compile(r"\s+|\S+")


@dataclass(frozen=True)
class Affixes:
    """The tables of one rule, compiled. `cases`: special case → its words; `patterns`: the special cases
    as the affixes alone cut them, a tree by word; "" marks an end."""

    prefix: re.Pattern[str]
    suffix: re.Pattern[str]
    infix: re.Pattern[str]
    protocol: re.Pattern[str]
    host: re.Pattern[str]
    cases: dict[str, tuple[str, ...]]
    patterns: dict[str, Any] = field(default_factory=dict)


@cache
def tables() -> dict[str, Any]:
    """word_rules.json, its <<names>> of character classes still unreplaced."""
    return json.loads(files("qwill.data").joinpath("word_rules.json").read_text(encoding="utf-8"))


@cache
def sentence_ends() -> frozenset[str]:
    """The words that end a sentence (spaCy's sentencizer)."""
    return frozenset(tables()["sentence_ends"])


@lru_cache(maxsize=1 << 14)
def kind(word: str) -> int:
    """What a word is to the sentences: 1 ends one, 2 is further punctuation, 0 anything else."""
    if word in sentence_ends():
        return 1
    return 2 if all(unicodedata.category(c)[0] == "P" for c in word) else 0


@cache
def affixes(rule: str) -> Affixes:
    """The compiled tables of `rule` (a key of word_rules.json's `rules`); KeyError for another name."""
    data = tables()
    base, own = data["rules"]["spaces"], data["rules"][rule]

    def whole(pattern: str) -> str:
        return re.sub("<<([a-z]+)>>", lambda m: data["classes"][m[1]], pattern)

    def pieces(kind: str) -> list[str]:
        return [whole(p) for p in own.get(kind, base[kind]) if p.strip()]

    words = {s.replace(" ", ""): tuple(s.split(" ")) for s in base["cases"]}
    for gone in own.get("without", []):
        words.pop(gone.replace(" ", ""), None)
    words.update((s.replace(" ", ""), tuple(s.split(" "))) for s in own["cases"])
    words.update(("".join(s), tuple(s)) for s in own.get("spaced", base["spaced"]))
    found = Affixes(
        prefix=re.compile("|".join(pieces("prefixes"))),
        suffix=re.compile("|".join(p + "$" for p in pieces("suffixes"))),
        infix=re.compile("|".join(pieces("infixes"))),
        protocol=re.compile(data["protocol"]),
        host=re.compile(whole(data["host"])),
        cases=words,
    )
    bare = replace(found, cases={})
    patterns: dict[str, Any] = {}
    for case in words:
        if found.prefix.match(case) or found.infix.search(case) or found.suffix.search(case) or " " in case:
            node = patterns
            for chunk, _ in chunks(case):
                for word in cut_chunk(chunk, bare):
                    node = node.setdefault(word, {})
            node[""] = {}
    return replace(found, patterns=patterns)


def chunks(text: str) -> Iterator[tuple[str, bool]]:
    """The runs of white space and of anything else, in order, each with whether a space follows that separates it:
    that one space belongs to no chunk."""
    runs = _RUNS.findall(text)
    for i, run in enumerate(runs):
        if not run[0].isspace():
            yield run, i + 1 < len(runs) and runs[i + 1][0] == " "
        elif i == 0 or run[0] != " ":
            yield run, False
        elif len(run) > 1:
            yield run[1:], False


def _suffix(chunk: str, low: int, high: int, rules: Affixes) -> int:
    """Length of the suffix of chunk[low:high]: the longest that any expression finds."""
    edge = max(low, high - _WINDOW)
    window = chunk[edge:high]
    found = rules.suffix.search(window)
    if not found:
        return 0
    if found.start() == 0 and window.startswith(".."):
        while edge > low and chunk[edge - 1] == ".":
            edge -= 1
        return high - edge
    return len(window) - found.start()


def cut_chunk(chunk: str, rules: Affixes) -> list[str]:
    """The words of one chunk, before the last search for special cases."""

    def special(low: int, high: int) -> bool:
        return low < high <= low + _LONGEST_CASE and chunk[low:high] in rules.cases

    low, high = 0, len(chunk)
    before: list[str] = []
    after: list[str] = []
    while low < high and not special(low, high):
        found = rules.prefix.match(chunk, low, high)
        start = found.end() if found else low
        if start > low and special(start, high):
            before.append(chunk[low:start])
            low = start
            break
        end = high - _suffix(chunk, start, high, rules)
        if end < high and special(low, end):
            after.append(chunk[end:high])
            high = end
            break
        if start == low and end == high:
            break
        if start > low:
            before.append(chunk[low:start])
        if end < high:
            after.append(chunk[end:high])
        low, high = start, end
    if low < high:
        before += _middle(chunk[low:high], rules)
    return before + after[::-1]


def _is_address(text: str, rules: Affixes) -> bool:
    """Whether `text` is [protocol://] [user@] host [:port] [/path]; a user is anything, other @ included."""
    if "." not in text:
        return False
    starts = [0, *(found.end() for found in _USER.finditer(text, 1))]
    if found := rules.protocol.match(text):
        starts.append(found.end())
    return any(rules.host.match(text, start) for start in starts)


def _middle(rest: str, rules: Affixes) -> list[str]:
    if rest in rules.cases:
        return list(rules.cases[rest])
    if _is_address(rest, rules):
        return [rest]
    words: list[str] = []
    start = 0
    for found in rules.infix.finditer(rest):
        if found.start() == 0:
            continue  # nothing stands before it: no cut, and not a word of its own
        if found.start() != start:
            words.append(rest[start : found.start()])
        if found.end() != found.start():
            words.append(found.group())
        start = found.end()
    if start < len(rest):
        words.append(rest[start:])
    return words


def _spans(words: list[str], patterns: dict[str, Any]) -> list[tuple[int, int]]:
    """(words, start) of every pattern in `words`, longest first, then from the left."""
    spans = []
    for start, word in enumerate(words):
        node = patterns.get(word)
        end = start + 1
        while node is not None:
            if "" in node:
                spans.append((start - end, start))
            node = node.get(words[end]) if end < len(words) else None
            end += 1
    return [(-size, start) for size, start in sorted(spans)]


def put_together(words: list[str], spaced: list[bool], rules: Affixes) -> dict[int, tuple[int, tuple[str, ...]]]:
    """Special cases that were cut up: first word → (words to replace, the words of the special case).

    Of matches that overlap the longest counts, even where the text between its words is not that of the special case
    (`: )`), and then nothing changes there. `spaced`: whether a space follows the word.
    """
    seen: set[int] = set()
    changed: dict[int, tuple[int, tuple[str, ...]]] = {}
    for size, start in _spans(words, rules.patterns):
        if start not in seen and start + size - 1 not in seen:
            inside = range(start, start + size)
            text = "".join(words[i] + " " * spaced[i] for i in inside[:-1]) + words[inside[-1]]
            new = rules.cases.get(text)
            if new and new != tuple(words[start : start + size]):
                changed[start] = size, new
        seen.update(range(start, start + size))
    return changed


def cut_text(text: str, rules: Affixes) -> list[str]:
    """The words of a text, with white space that is not one separating space as words of their own."""
    words: list[str] = []
    spaced: list[bool] = []
    for chunk, space in chunks(text):
        cut = cut_chunk(chunk, rules)
        words += cut
        spaced += [False] * (len(cut) - 1) + [space]
    changed = put_together(words, spaced, rules)
    # From the end, so that the places of earlier ones still hold.
    for start in sorted(changed, reverse=True):
        size, new = changed[start]
        words[start : start + size] = new
    return words
