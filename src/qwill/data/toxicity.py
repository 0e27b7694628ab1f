"""How much abuse, hate and pornography a text holds, by lists of words: a score, never a verdict.

The lists are ours (`toxicity_words/LANGUAGE.yaml`): short, so that a hit means something. They know words and no
meaning: a novel, a court report or a dictionary may score high, and a polite threat scores nothing. Sought in folded
text, so that case, width and Chinese script make no difference; in Latin letters whole words only (Scunthorpe), in Han
anything but the words of `allowed` that hold one by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from qwill.base.errors import ConfigError
from qwill.data.documents import Document
from qwill.data.fold import fold
from qwill.data.unit_hashes import unit_hashes

LISTS = ("en", "zh")
_ALLOWED = "allowed"


@cache
def _automaton(language: str) -> Any:
    """Aho and Corasick's automaton of a list; each word stands for (its length, its category)."""
    import ahocorasick
    import yaml

    if language not in LISTS:
        raise ConfigError(f"there is no list of toxic words for {language!r}, only for {', '.join(LISTS)}.")
    path = files("qwill.data").joinpath(f"toxicity_words/{language}.yaml")
    automaton = ahocorasick.Automaton()
    for category, words in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for word in map(fold, words):
            automaton.add_word(word, (len(word), category))
    automaton.make_automaton()
    return automaton


def toxic_words(text: str, language: str) -> list[tuple[int, int, str]]:
    """(start, end, category) in `fold(text)` of every listed word, the longest of those that overlap.

    Raises ConfigError for a language without a list.
    """
    return _found(fold(text), language)


def _found(folded: str, language: str) -> list[tuple[int, int, str]]:
    matches = [
        (last + 1 - length, last + 1, category)
        for last, (length, category) in _automaton(language).iter(folded)
        if _is_whole(folded, last + 1 - length, last + 1)
    ]
    # What is allowed holds before what is not, and the longer before the shorter.
    matches.sort(key=lambda m: (m[2] != _ALLOWED, m[0] - m[1], m[0]))
    taken = list[tuple[int, int, str]]()
    for start, end, category in matches:
        if not any(start < b and a < end for a, b, _ in taken):
            taken.append((start, end, category))
    return sorted(match for match in taken if match[2] != _ALLOWED)


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether a word of Latin letters ends where the match does, on both sides."""
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    return not (_is_latin(before) and _is_latin(text[start])) and not (_is_latin(text[end - 1]) and _is_latin(after))


def _is_latin(character: str) -> bool:
    return character.isalnum() and character < "\u0250"


def score_toxicity(text: str, language: str) -> float:
    """Listed words for every 1,000 units of the text; 0 for a text without units."""
    folded = fold(text)
    found = len(_found(folded, language))
    return 1000.0 * found / len(unit_hashes(folded)) if found else 0.0


def score_toxicity_batch(documents: Iterable[Document]) -> dict[str, int]:
    """Give each document `scores["toxicity.LIST"]` for each list, whatever its language: abuse is often borrowed.
    Returns hits by list and category, as "en.insult"."""
    total = Counter[str]()
    for document in documents:
        folded = fold(document.text)
        for language in LISTS:
            found = _found(folded, language)
            score = 1000.0 * len(found) / len(unit_hashes(folded)) if found else 0.0
            document.scores[f"toxicity.{language}"] = score
            total.update(f"{language}.{category}" for _, _, category in found)
    return dict(total)
