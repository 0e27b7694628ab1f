"""The filter families together: their limits by language and register, and what they say about a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ConfigError
from qwill.data import c4, filters, fineweb, gopher_quality, gopher_repetition
from qwill.data.filters import ChineseLimits, Limits
from qwill.data.rules import Rule

if TYPE_CHECKING:
    from qwill.data.languages import Language

# As the FineWeb pipeline orders them for English, and FineWeb-2's for every other language.
ENGLISH_ORDER = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
OTHER_ORDER = ("gopher_repetition", "fineweb", "gopher_quality")

_SETTINGS: dict[str, type[Any]] = {
    "gopher_repetition": gopher_repetition.GopherRepetition,
    "gopher_quality": gopher_quality.GopherQuality,
    "c4": c4.C4,
    "fineweb": fineweb.FineWeb,
    "units": Limits,
}
FAMILIES = tuple(_SETTINGS)
EVERY_REGISTER = "all"

Overrides = Mapping[str, Mapping[str, Mapping[str, object]]]  # register or "all" → family → setting → value


@dataclass(frozen=True)
class Verdict:
    """`text`: as the families left it (C4 rewrites), or as it was when it was dropped. `values`: "family.rule" → value,
    of every family asked for, also after one has dropped the document; a family measures the text that the families
    before it leave when they keep it. `drop`: (family, reason, value) of the first rule that fails."""

    text: str
    values: dict[str, float]
    drop: tuple[str, str, float] | None


def default_families(code: str) -> tuple[str, ...]:
    """The published order for a language."""
    return ENGLISH_ORDER if code == "en" else OTHER_ORDER


def resolve_limits(language: Language, register: str = "", overrides: Overrides | None = None) -> dict[str, object]:
    """The settings of every family for documents of a language and register.

    The published English limits, then the language's stop words and limits, then `overrides["all"]`, then
    `overrides[register]`. Raises ConfigError naming the family, setting and what is allowed there.
    """
    layers: list[tuple[str, Mapping[str, Mapping[str, object]]]] = [
        (f"language {language.code}", language.limits),
        *((f"limits.{name}", (overrides or {}).get(name, {})) for name in (EVERY_REGISTER, register) if name),
    ]
    resolved: dict[str, object] = {name: settings() for name, settings in _SETTINGS.items()}
    resolved["gopher_quality"] = gopher_quality.GopherQuality(stop_words=frozenset(language.stop_words))
    if language.words == "chinese":
        resolved["units"] = ChineseLimits()
    for where, families in layers:
        for family, settings in families.items():
            if family not in resolved:
                raise ConfigError(f"{where}: no filter family {family!r}; there are {', '.join(FAMILIES)}.")
            resolved[family] = _changed(resolved[family], settings, f"{where}.{family}")
    return resolved


def _changed(limits: object, settings: Mapping[str, object], where: str) -> object:
    known = {field.name: getattr(limits, field.name) for field in dataclasses.fields(limits)}  # type: ignore[arg-type]
    new = {}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"{where}: no setting {name!r}; there are {', '.join(known)}.")
        new[name] = _as_setting(value, known[name], f"{where}.{name}")
    return dataclasses.replace(limits, **new)  # type: ignore[type-var]


def _as_setting(value: object, like: object, where: str) -> object:
    """`value` of a YAML file as the type of the setting's default `like`."""
    if isinstance(like, tuple):
        if isinstance(value, list | tuple) and all(
            isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], int) and _is_number(pair[1])
            for pair in value
        ):
            return tuple((n, float(most)) for n, most in value)
        raise ConfigError(f"{where}: expected a list of pairs [n, share], got {value!r}.")
    if isinstance(like, frozenset):
        if isinstance(value, list | tuple | set | frozenset) and all(isinstance(word, str) for word in value):
            return frozenset(value)
        raise ConfigError(f"{where}: expected a list of words or characters, got {value!r}.")
    if isinstance(like, bool):
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{where}: expected true or false, got {value!r}.")
    if isinstance(like, str):
        if value in ("datatrove", "letters"):
            return value
        raise ConfigError(f"{where}: expected datatrove or letters, got {value!r}.")
    if value is None or _is_number(value):
        return value
    raise ConfigError(f"{where}: expected a number, got {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
) -> Verdict:
    """What the families say about a text, in their order. `split` gives its words, `count_sentences` counts."""
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
    return Verdict(current if drop is None else left, values, drop)


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
    texts: Sequence[str], language: Language, families: Sequence[str], limits: Mapping[str, object]
) -> list[Verdict]:
    """What the families say about each text of a language. `limits` is from `resolve_limits`."""
    from qwill.data.words import count_sentences, split_words

    return [
        judge(
            text,
            families,
            limits,
            lambda part: split_words(part, language.words),
            lambda part: count_sentences(part, language.words),
        )
        for text in texts
    ]
