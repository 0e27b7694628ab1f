"""The settings of curation: section `corpus` of a recipe, or the file given to `qwill curate`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from qwill.base.config import SPREAD, nearest
from qwill.base.errors import ConfigError
from qwill.data.decontaminate import Overlap
from qwill.data.languages import Language, file_of, languages, shipped
from qwill.data.lines import LineDuplicates
from qwill.data.minhash import MinHash
from qwill.data.mix import MixSettings
from qwill.data.redact import RedactSettings
from qwill.data.registry_sources import TEXT_SOURCES, Package, find_source
from qwill.data.sources import SourceChoice
from qwill.data.split import HeldOut
from qwill.data.substrings import Substrings

Family = Literal["units", "gopher_repetition", "gopher_quality", "c4", "fineweb"]
Limits = dict[str, dict[str, Any]]  # family → setting → value


def _every_source() -> list[SourceChoice]:
    return [SourceChoice(source.name) for source in TEXT_SOURCES]


@dataclass(frozen=True)
class RegisterRules:
    """What is different for one register. filters: families in order, none for no filter at all; nothing for those of
    `corpus.filters`. limits: as `corpus.limits`, laid over them."""

    filters: list[Family] | None = None
    limits: dict[str, Limits] = field(default_factory=dict)


@dataclass(frozen=True)
class Scoring:
    """What is measured beside the filters, for the record. toxicity: hits of the word lists. quality: folder of a
    classifier (`train_quality`); documents below `min_quality` go. perplexity: folder of a model of ours, bits per byte
    of each document; above `max_bits_per_byte` it goes. Choose the thresholds after a look at the report's sweep."""

    toxicity: bool = True
    quality: str | None = None
    min_quality: float | None = None
    perplexity: str | None = None
    max_bits_per_byte: float | None = None


@dataclass(frozen=True)
class CurateConfig:
    """Section `corpus` of a recipe.

    languages: those to keep. need_every_language: each of them must have documents in the end. language_score: least
    posterior (0..1), nothing for what each language's file says. mixed: pages with paragraphs in other languages are
    kept whole, cut to their main language, or split into a document a language. filters: families of rules in order,
    nothing for those of the language's file. limits: language → family → setting → value, laid over the language's
    file. registers: what is different for a register. exact, near, lines, substrings: duplicates. questions: files or
    folders of evaluation questions, beside those of the input `tasks`. leaks: whether a document that holds one goes,
    or the lines that do. rejects: whether what goes is kept whole (rejects.parquet), as `shown` examples of each
    source, language, step and reason, or only counted.
    workers: processes, 0 for one a core; engine, memory_mb: these three change no byte of the corpus."""

    sources: list[SourceChoice] = field(default_factory=_every_source)
    languages: list[str] = field(default_factory=lambda: ["en", "zh"])
    need_every_language: bool = True
    language_score: float | None = None
    mixed: Literal["keep", "main", "split"] = "keep"
    filters: list[Family] | None = None
    limits: dict[str, Limits] = field(default_factory=dict)
    registers: dict[str, RegisterRules] = field(default_factory=dict)
    script: Literal["as_is", "simplified", "traditional"] = "as_is"
    redact: RedactSettings | None = field(default_factory=RedactSettings)
    exact: bool = True
    near: MinHash | None = field(default_factory=MinHash)
    lines: LineDuplicates | None = None
    substrings: Substrings | None = None
    questions: list[str] = field(default_factory=list)
    overlap: Overlap = field(default_factory=Overlap)
    leaks: Literal["drop", "cut"] = "drop"
    score: Scoring = field(default_factory=Scoring)
    mixture: MixSettings | None = None
    heldout: HeldOut = field(default_factory=HeldOut)
    rejects: Literal["keep", "sample", "drop"] = "sample"
    shown: int = 5
    workers: int = field(default=0, metadata=SPREAD)
    engine: Literal["processes", "ray"] = field(default="processes", metadata=SPREAD)
    memory_mb: int = field(default=2048, metadata=SPREAD)

    def outside(self) -> str:
        """A digest of what decides the corpus and stands in other files: languages and questions by content; sources,
        classifier and model by names and sizes, since there may be much of them."""
        digest = hashlib.blake2b(digest_size=16)
        for code in self.languages:
            digest.update(file_of(code))
        for name in self.questions:
            digest.update(_content(name))
        folders = [self.score.quality, self.score.perplexity, *(choice.path for choice in self.sources)]
        for folder in folders:
            digest.update(_listing(folder) if folder is not None else b"-")
        return digest.hexdigest()

    def packages(self) -> list[Package]:
        """The packages that the named sources come from."""
        return [find_source(choice.name).package for choice in self.sources if choice.path is None]


def spoken(config: CurateConfig) -> dict[str, Language]:
    """The languages to keep, by code: `config.languages` may name files of the user's own."""
    return {one.code: one for one in languages(config.languages)}


def _files(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    return [path] if path.is_file() else []


def _content(name: str) -> bytes:
    return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in _files(name))


def _listing(name: str) -> bytes:
    """Relative names and sizes of local files; nothing for a glob or a URL."""
    found = [(str(path.relative_to(name)), path.stat().st_size) for path in _files(name)]
    return repr(found).encode("utf-8", "surrogateescape")


def registers(config: CurateConfig) -> list[str]:
    """The registers of the sources, sorted."""
    found = {choice.register for choice in config.sources if choice.path is not None}
    return sorted(found | {find_source(choice.name).register for choice in config.sources if choice.path is None})


def steps(config: CurateConfig) -> tuple[str, ...]:
    """The steps of the funnel, in order: those that this configuration has."""
    given = [config.filters, *(rules.filters for rules in config.registers.values())]
    named: set[str] = {family for families in given if families is not None for family in families}
    if None in given:
        named |= {family for one in spoken(config).values() for family in one.families}
    optional = {
        "redact": config.redact is not None,
        "exact_duplicates": config.exact,
        "near_duplicates": config.near is not None,
        "line_duplicates": config.lines is not None,
        "substring_duplicates": config.substrings is not None,
        "decontamination": True,
        "quality": config.score.min_quality is not None,
        "bits_per_byte": config.score.max_bits_per_byte is not None,
        "mixture": config.mixture is not None,
    }
    own = [family for family in get_args(Family) if family in named]
    return ("unreadable", "extract", "repair", "language", *own, *(name for name, there in optional.items() if there))


def check(config: CurateConfig) -> None:
    """Raises ConfigError for settings that make no sense together."""
    names = [choice.name for choice in config.sources]
    if not names:
        raise ConfigError("corpus.sources is empty; name at least one source, or leave it out to take all.")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"corpus.sources names {name!r} twice; give each entry its own name.")
    if not config.languages:
        raise ConfigError(f"corpus.languages is empty; expected some of {', '.join(shipped())}.")
    spoken(config)
    known = registers(config)
    for register in config.registers:
        if register not in known:
            raise ConfigError(f"corpus.registers.{register} is no register of a source; {nearest(register, known)}")
    if config.shown < 0 or config.workers < 0 or config.memory_mb < 64:
        raise ConfigError("corpus: shown and workers can't be negative, and memory_mb is at least 64.")
