"""A language as one YAML file: how its words and sentences are told apart, and the published thresholds of its filters.

Those that Qwill ships lie in the folder `languages` beside this file; one of the user's own is named by the path of its
file wherever a code may stand. A limit that a file does not set is the family's published English one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, get_type_hints

from qwill.base.config import convert, load_yaml, nearest, need_share, parse
from qwill.base.errors import ConfigError
from qwill.data import families, scripts
from qwill.data.words import word_rules

OTHER = "other"  # the language of a document that is in none of those asked for
RIGHT_TO_LEFT = frozenset({"Arab", "Hebr", "Syrc", "Thaa", "Nkoo"})


@dataclass(frozen=True)
class Language:
    """One language file.

    code: its short name everywhere (ISO 639-1 where there is one). name, name_zh: for reports. script: ISO 15924.
    words: the rule by which text is split into words, one of `words.word_rules()`: `spaces` does for most languages,
    `characters` for a script that does not separate words. sentence_end: the characters that end a sentence.
    stop_words: the commonest words, of which running text has a few. language_score: least posterior (0..1) of
    identification. labels: what the classifier py3langid calls the language and its varieties; [] for one that it does
    not know, which then is told by its script alone; left out, it is the code. families: the filters, in order.
    minhash_n_grams: words a shingle of near-duplicate search. limits: by family, what differs from the published
    English thresholds."""

    code: str
    name: str
    name_zh: str
    script: str
    words: str
    sentence_end: str
    stop_words: frozenset[str]
    language_score: float
    families: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    minhash_n_grams: int = 5
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.code or self.code == OTHER or not self.code.replace("-", "").isalnum() or not self.code.isascii():
            raise ConfigError(f"code is {self.code!r}; expected a short name of letters, digits and -, as `fr`.")
        if self.script not in scripts.NAMES:
            raise ConfigError(
                f"script is {self.script!r}, not a script's ISO 15924 code; expected one of {', '.join(scripts.NAMES)}."
            )
        need_share(self, "language_score")
        if self.minhash_n_grams < 1:
            raise ConfigError(f"minhash_n_grams is {self.minhash_n_grams}; expected 1 or more.")
        if not self.sentence_end:
            raise ConfigError("sentence_end is empty; name the characters that end a sentence.")
        if self.words not in word_rules():
            raise ConfigError(f"words is {self.words!r}, not a rule for words; {nearest(self.words, word_rules())}")
        for name in self.families:
            if name not in families.SETTINGS:
                raise ConfigError(f"families names {name!r}; {nearest(name, families.FAMILIES)}")
            if self.families.count(name) > 1:
                raise ConfigError(f"families names {name!r} twice; keep one.")

    @property
    def known_as(self) -> tuple[str, ...]:
        """The classifier's labels that count as this language."""
        return (self.code,) if self.labels is None else self.labels

    @property
    def right_to_left(self) -> bool:
        return self.script in RIGHT_TO_LEFT


@cache
def shipped() -> list[str]:
    """Codes of the languages in this package, sorted."""
    folder = files("qwill.data").joinpath("languages")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@cache
def language(code: str) -> Language:
    """The language with this code, or of the YAML file at this path (text that ends in .yaml or .yml).

    Raises ConfigError, one sentence, for an unknown code and for each mistake in a file.
    """
    if code.endswith((".yaml", ".yml")):
        return read_language(code)
    if code not in shipped():
        raise ConfigError(
            f"{code!r} is not a language that Qwill ships ({', '.join(shipped())}); "
            "take one of these, or give the path of a language's YAML file."
        )
    with as_file(files("qwill.data").joinpath("languages", f"{code}.yaml")) as path:
        return read_language(path)


def in_order(codes: Iterable[str]) -> list[str]:
    """Codes as reports show them: English and Chinese first, the rest in alphabetical order."""
    return sorted(codes, key=lambda code: (code != "en", code != "zh", code))


def name_of(code: str, chinese: bool = False) -> str:
    """A language's name in English (or Chinese); its code where it is one of the user's own."""
    if code not in shipped():
        return code
    return language(code).name_zh if chinese else language(code).name


def file_of(code: str) -> bytes:
    """The bytes of a language's file, of one of those shipped or by path; nothing for a code that there is none of."""
    if code.endswith((".yaml", ".yml")):
        return Path(code).read_bytes() if Path(code).is_file() else b""
    shipped_file = files("qwill.data").joinpath("languages", f"{code}.yaml")
    return shipped_file.read_bytes() if code in shipped() else b""


def languages(codes: Sequence[str]) -> list[Language]:
    """Each of `codes` (or paths), in order. Raises ConfigError for none, and for two of the same code."""
    found = [language(code) for code in codes]
    if not found:
        raise ConfigError(f"no language is named; expected some of {', '.join(shipped())}, or paths of language files.")
    for i, one in enumerate(found):
        if one.code in {other.code for other in found[:i]}:
            raise ConfigError(f"the language {one.code!r} is named twice; keep one.")
    return found


def read_language(path: str | Path) -> Language:
    """The language in a YAML file. Raises ConfigError naming file and setting."""
    settings = load_yaml(path)
    for name in ("stop_words", "labels", "families"):  # a list, or more readable: text with spaces between
        if isinstance(settings.get(name), str):
            settings[name] = settings[name].split()
    limits = settings.get("limits") or {}
    if isinstance(limits, Mapping):
        settings["limits"] = {family: _limits(family, own, f"{path}: limits") for family, own in limits.items()}
    return parse(Language, settings, str(path))


def _limits(family: Any, own: Any, where: str) -> dict[str, Any]:
    """One family's limits, each converted to its type. Raises ConfigError."""
    if family not in families.SETTINGS:
        raise ConfigError(f"{where}.{family} is not a family of filters; {nearest(str(family), families.FAMILIES)}")
    if not isinstance(own, Mapping):
        raise ConfigError(f"{where}.{family} is {own!r}; expected a section of limits.")
    known = get_type_hints(families.SETTINGS[family])
    for name in own:
        if name not in known:
            raise ConfigError(f"{where}.{family}.{name} is not a limit of {family}; {nearest(str(name), list(known))}")
    return {name: convert(known[name], value, f"{where}.{family}.{name}") for name, value in own.items()}
