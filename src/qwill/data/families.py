"""The filter families together: their limits by language and register, and what they say about a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from qwill.base.config import convert, nearest
from qwill.base.errors import ConfigError
from qwill.data import c4, filters, fineweb, gopher_quality, gopher_repetition
from qwill.data.filters import STOP_WORDS, Limits
from qwill.data.rules import Rule
from qwill.data.units import normalise

if TYPE_CHECKING:
    from qwill.data.languages import Language
    from qwill.data.split_texts import Words

SETTINGS: dict[str, type[Any]] = {
    "gopher_repetition": gopher_repetition.GopherRepetition,
    "gopher_quality": gopher_quality.GopherQuality,
    "c4": c4.C4,
    "fineweb": fineweb.FineWeb,
    "units": Limits,
}
FAMILIES = tuple(SETTINGS)
EVERY_REGISTER = "all"

Overrides = Mapping[str, Mapping[str, Mapping[str, object]]]  # register or "all" → family → setting → value


@dataclass(frozen=True)
class Verdict:
    """`text`: as the families left it (C4 rewrites), or as it was when it was dropped. `values`: "family.rule" → value,
    of every family asked for, also after one has dropped the document; a family measures the text that the families
    before it leave when they keep it. `drop`: (family, reason, value) of the first rule that fails. `words`: those of
    a text that is kept, where they were asked for and a family has split it."""

    text: str
    values: dict[str, float]
    drop: tuple[str, str, float] | None
    words: Words | None = None


def resolve_limits(language: Language, register: str = "", overrides: Overrides | None = None) -> dict[str, object]:
    """The settings of every family for documents of a language and register.

    The published English limits, then the language's stop words and limits, then `overrides["all"]`, then
    `overrides[register]`. Raises ConfigError naming the family, setting and what is allowed there.
    """
    layers: list[tuple[str, Mapping[str, Mapping[str, object]]]] = [
        (f"language {language.code}", language.limits),
        (f"limits.{language.code}", (overrides or {}).get(EVERY_REGISTER, {})),
        (f"registers.{register}.limits.{language.code}", (overrides or {}).get(register, {}) if register else {}),
    ]
    resolved: dict[str, object] = {name: settings() for name, settings in SETTINGS.items()}
    resolved["gopher_quality"] = gopher_quality.GopherQuality(stop_words=language.stop_words)
    # English has more stop words there.
    known = STOP_WORDS if language.code == "en" else frozenset(map(normalise, language.stop_words))
    resolved["units"] = Limits(stop_words=known, sentence_end=language.sentence_end)
    for where, families in layers:
        for family, settings in families.items():
            if family not in resolved:
                raise ConfigError(f"{where}: {nearest(family, list(FAMILIES))}")
            resolved[family] = _changed(resolved[family], settings, f"{where}.{family}")
    return resolved


def _changed(limits: object, settings: Mapping[str, object], where: str) -> object:
    hints = get_type_hints(type(limits))
    for name in settings:
        if name not in hints:
            raise ConfigError(f"{where}.{name} is not a setting; {nearest(name, list(hints))}")
    changed = {name: convert(hints[name], value, f"{where}.{name}") for name, value in settings.items()}
    return dataclasses.replace(limits, **changed)  # type: ignore[type-var]


def rules(limits: Mapping[str, object], families: Sequence[str]) -> dict[str, tuple[Rule, ...]]:
    """The rules that are on, a family: what a report or a threshold sweep goes through."""
    modules: dict[str, Any] = {
        "gopher_repetition": gopher_repetition,
        "gopher_quality": gopher_quality,
        "c4": c4,
        "fineweb": fineweb,
        "units": filters,
    }
    return {name: modules[name].rules(limits[name]) for name in families}


def judge(
    text: str,
    families: Sequence[str],
    limits: Mapping[str, object],
    split: Callable[[str], list[str]],
    count_sentences: Callable[[str], int],
    keep_words: bool = False,
) -> Verdict:
    """What the families say about a text, in their order. `split` gives its words, `count_sentences` counts."""
    from qwill.data.split_texts import from_strings

    values: dict[str, float] = {}
    drop: tuple[str, str, float] | None = None
    current, left, words = text, text, None
    for family in families:
        settings = limits[family]
        if family == "c4":
            assert isinstance(settings, c4.C4)
            measured, rewritten = c4.measure(current, count_sentences, settings)
            found = c4.decide(measured, settings)
            if found is None and rewritten != current:
                current, words = rewritten, None
        elif family == "units":
            assert isinstance(settings, Limits)
            measured = filters.measure(current, settings)
            found = filters.decide(measured, settings)
        else:
            words = split(current) if words is None else words
            measured, found = _on_words(family, settings, current, words)
        values |= {f"{family}.{name}": value for name, value in measured.items()}
        if drop is None and found is not None:
            drop, left = (family, *found), current
    if drop is not None:
        return Verdict(left, values, drop)
    return Verdict(current, values, None, from_strings(words) if keep_words and words is not None else None)


def _on_words(
    family: str, settings: object, text: str, words: list[str]
) -> tuple[dict[str, float], tuple[str, float] | None]:
    if isinstance(settings, gopher_repetition.GopherRepetition):
        values = gopher_repetition.measure(text, words, settings)
        return values, gopher_repetition.decide(values, settings)
    if isinstance(settings, gopher_quality.GopherQuality):
        values = gopher_quality.measure(text, words, settings)
        return values, gopher_quality.decide(values, settings)
    assert isinstance(settings, fineweb.FineWeb), family
    values = fineweb.measure(text, words, settings)
    return values, fineweb.decide(values, settings)


def judge_batch(
    texts: Sequence[str],
    language: Language,
    families: Sequence[str],
    limits: Mapping[str, object],
    keep_words: bool = False,
) -> list[Verdict]:
    """What the families say about each text of a language. `limits` is from `resolve_limits`; `keep_words` asks for the
    words of what is kept."""
    from qwill.data import native_filters
    from qwill.data.words import count_sentences, split_words

    if native_filters.suits(language.words, families, limits):
        return [native_filters.judge(text, families, limits, language.words, keep_words) for text in texts]
    return [
        judge(
            text,
            families,
            limits,
            lambda part: split_words(part, language.words),
            lambda part: count_sentences(part, language.words),
            keep_words,
        )
        for text in texts
    ]
