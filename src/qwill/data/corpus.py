"""Stage `corpus`: raw text in, a clean bilingual corpus and its whole account out.

Steps, in the order of the funnel: read → repair → language → filters → exact duplicates → near duplicates →
decontamination → held-out split. Everything is decided by the documents alone: no order of reading, no clock,
no random number has a say, and the same inputs give the same bytes. Duplicates are removed across all sources
and before the split, so that no text is on both sides of it.

A corpus is held in memory: this is curation for one machine, some hundred megabytes of text at most.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwill.base.artifact import recipe_id, seal
from qwill.base.config import parse, to_dict
from qwill.base.device import CURATION, numeric_libraries
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import new_folder, write_json, write_jsonl
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.data.decontaminate import Overlap, build_index, leak, read_questions
from qwill.data.dedup import Duplicate, NearDuplicates, exact_duplicates, near_duplicates
from qwill.data.documents import CorpusArtifact, Document, Reject, write_parquet
from qwill.data.filters import ChineseLimits, Limits
from qwill.data.funnel import Funnel
from qwill.data.judge import Criteria, judged, sample
from qwill.data.sources import TEXT_SOURCES, Loaded, Package, SourceChoice, find_source, load, merge_origins
from qwill.data.split import Choice, HeldOut, choose
from qwill.data.units import hashes, split, text_key

STAGE_VERSION = 1
NAMES = {"en": "English", "zh": "Chinese"}

Hashes = NDArray[np.uint64]


def _every_source() -> list[SourceChoice]:
    return [SourceChoice(source.name) for source in TEXT_SOURCES]


@dataclass(frozen=True)
class CurateConfig:
    """Section `corpus` of a recipe.

    languages: those to keep; each must have documents in the end. language_score: least posterior (0..1).
    english, chinese: thresholds of the filters. near: near duplicates. questions: JSON-lines files of
    evaluation questions, beside those of the input `tasks`. rejects: how many to show of each source,
    language, step and reason."""

    sources: list[SourceChoice] = field(default_factory=_every_source)
    languages: list[Literal["en", "zh"]] = field(default_factory=lambda: ["en", "zh"])
    language_score: float = 0.65
    english: Limits = field(default_factory=Limits)
    chinese: ChineseLimits = field(default_factory=ChineseLimits)
    near: NearDuplicates = field(default_factory=NearDuplicates)
    questions: list[str] = field(default_factory=list)
    overlap: Overlap = field(default_factory=Overlap)
    heldout: HeldOut = field(default_factory=HeldOut)
    rejects: int = 5

    def packages(self) -> list[Package]:
        """The packages that the named sources come from."""
        return [find_source(choice.name).package for choice in self.sources if choice.path is None]


@dataclass
class _Corpus:
    """What is still in, documents and their unit hashes side by side; what goes is told to the funnel."""

    documents: list[Document]
    units: list[Hashes]
    funnel: Funnel

    def drop(self, rejects: Mapping[int, Reject]) -> None:
        for index, reject in sorted(rejects.items()):
            self.funnel.drop(replace(self.documents[index], reject=reject))
        stay = [i for i in range(len(self.documents)) if i not in rejects]
        self.documents = [self.documents[i] for i in stay]
        self.units = [self.units[i] for i in stay]

    def ids(self) -> list[str]:
        return [document.id for document in self.documents]

    def keys(self) -> list[bytes]:
        return [text_key(document.text, own) for document, own in zip(self.documents, self.units, strict=True)]

    def drop_duplicates(self, step: str, reason: str, duplicates: Sequence[Duplicate]) -> None:
        kept = {d.index: self.documents[d.kept].id for d in duplicates}
        self.drop({d.index: Reject(step, reason, f"{d.similarity:.2f} like {kept[d.index]}") for d in duplicates})


def run(config: CurateConfig, ctx: StageContext) -> dict[str, Any]:
    """Fill `ctx.out` with train.parquet, heldout.parquet, funnel.json, rejects.jsonl and sources.json.

    Reads heldout.jsonl of the input `tasks` where there is one. Returns documents and bytes by language.
    Raises DataError when a language that was asked for has no documents in the end, ConfigError for a list of
    sources that makes no sense."""
    _check(config)
    tasks = [ctx.inputs["tasks"] / "heldout.jsonl"] if "tasks" in ctx.inputs else []
    index = build_index(read_questions([*tasks, *map(Path, config.questions)]), config.overlap)
    corpus, origins = _read(config, ctx)
    with ctx.display.stage("deduplicate", 4, "steps", ctx.budget_s) as bar:
        corpus.drop_duplicates("exact_duplicates", "same text", exact_duplicates(corpus.keys(), corpus.ids()))
        bar.update(1, documents=len(corpus.documents))
        near = near_duplicates(corpus.units, corpus.ids(), config.near)
        corpus.drop_duplicates("near_duplicates", "nearly the same", near)
        bar.update(2, documents=len(corpus.documents))
        leaks = {i: leak(index, d.text) for i, d in enumerate(corpus.documents)}
        corpus.drop(
            {
                i: Reject("decontamination", "holds an evaluation question", f"{match.question}: {match.span}")
                for i, match in leaks.items()
                if match is not None
            }
        )
        bar.update(3, documents=len(corpus.documents))
        _check_languages(config, corpus.documents)
        choices = _choose(config, corpus)
        bar.update(4, heldout=sum(len(choice.heldout) for choice in choices.values()))
    return _write(config, ctx, corpus, choices, origins, index.unsought)


def _read(config: CurateConfig, ctx: StageContext) -> tuple[_Corpus, list[dict[str, Any]]]:
    """Every source read and judged; the corpus of what passed, in order of id, and where it comes from."""
    criteria = Criteria(tuple(config.languages), config.language_score, config.english, config.chinese)
    sources: list[tuple[Loaded, list[Any]]] = []
    for choice in config.sources:
        loaded = load(choice)
        sources.append((loaded, sample(list(loaded.records()), choice.max_bytes)))
    corpus, done = _Corpus([], [], Funnel()), 0
    with ctx.display.stage("curate", sum(len(r) for _, r in sources), "documents", ctx.budget_s) as bar:
        for loaded, records in sources:

            def advance(count: int, name: str = loaded.name) -> None:
                nonlocal done
                done += count
                bar.update(done, source=name, kept=len(corpus.documents))

            for document in judged(loaded, records, criteria, ctx.work, advance):
                corpus.funnel.read(document)
                if document.reject is None:
                    corpus.documents.append(document)
                elif document.reject.step == "unreadable" and len(corpus.funnel.rejects) <= 3:
                    bar.note(f"{document.id} is not readable: {document.reject.value}")
    corpus.documents.sort(key=lambda document: document.id)
    known: dict[str, Hashes] = {}
    for document in corpus.documents:
        if document.text not in known:
            known[document.text] = hashes(split(document.text))
    corpus.units = [known[document.text] for document in corpus.documents]
    return corpus, [loaded.origin for loaded, _ in sources]


def _choose(config: CurateConfig, corpus: _Corpus) -> dict[str, Choice]:
    """Held-out documents of each language, as indices into the corpus."""
    choices: dict[str, Choice] = {}
    keys = corpus.keys()
    for language in config.languages:
        own = [i for i, document in enumerate(corpus.documents) if document.language == language]
        sizes = [corpus.documents[i].bytes for i in own]
        choice = choose(sizes, [keys[i] for i in own], [corpus.units[i] for i in own], config.heldout)
        choices[language] = replace(choice, heldout=[own[i] for i in choice.heldout])
    return choices


def _write(
    config: CurateConfig,
    ctx: StageContext,
    corpus: _Corpus,
    choices: Mapping[str, Choice],
    origins: list[dict[str, Any]],
    unsought: int,
) -> dict[str, Any]:
    heldout = {i for choice in choices.values() for i in choice.heldout}
    parts = {
        "train": [d for i, d in enumerate(corpus.documents) if i not in heldout],
        "heldout": [d for i, d in enumerate(corpus.documents) if i in heldout],
    }
    account = corpus.funnel.close(corpus.documents)
    account["split"] = {
        language: {part: _size(documents, language) for part, documents in parts.items()}
        | {"cut": choices[language].cut, "returned_to_train": choices[language].returned}
        for language in config.languages
    }
    account["questions_too_short_to_seek"] = unsought
    for part, documents in parts.items():
        write_parquet(ctx.out / f"{part}.parquet", documents)
    write_json(ctx.out / "funnel.json", account)
    write_jsonl(ctx.out / "rejects.jsonl", corpus.funnel.sample(config.rejects))
    write_json(ctx.out / "sources.json", merge_origins(origins))
    return {
        f"{part}_{what}_{language}": account["split"][language][part][what]
        for part in parts
        for language in config.languages
        for what in ("documents", "bytes")
    }


def _size(documents: Sequence[Document], language: str) -> dict[str, int]:
    own = [document.bytes for document in documents if document.language == language]
    return {"documents": len(own), "bytes": sum(own)}


def _check(config: CurateConfig) -> None:
    names = [choice.name for choice in config.sources]
    if not names:
        raise ConfigError("corpus.sources is empty; name at least one source, or leave it out to take all.")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"corpus.sources names {name!r} twice; give each entry its own name.")
    if not config.languages:
        raise ConfigError("corpus.languages is empty; expected en, zh or both.")


def _check_languages(config: CurateConfig, documents: Sequence[Document]) -> None:
    found = {document.language for document in documents}
    missing = [language for language in config.languages if language not in found]
    if not missing:
        return
    names = " and no ".join(NAMES[language] for language in missing)
    rest = [language for language in config.languages if language in found]
    advice = f"add a source of it, or set corpus.languages to [{', '.join(rest)}]" if rest else "see to its sources"
    raise DataError(f"the corpus has no {names} document left after curation; {advice}.")


def curate(
    config: CurateConfig | Mapping[str, Any] | None = None,
    folder: str | Path = "runs/corpus",
    display: Display | None = None,
) -> CorpusArtifact:
    """Curate text into a corpus artifact in `folder`, which is replaced whole.

    `config`: a CurateConfig, or a mapping as in a recipe's section `corpus`; nothing takes every source.
    Raises ConfigError, DataError or SourceError, each one sentence, and then leaves `folder` as it was.
    """
    settings = config if isinstance(config, CurateConfig) else parse(CurateConfig, config or {}, "corpus")
    final = Path(folder)
    identity: dict[str, Any] = {
        "stage": "corpus",
        "stage_version": STAGE_VERSION,
        "inputs": {},
        "config": to_dict(settings),
        "seed": 0,
        "libraries": numeric_libraries(CURATION),
        "threads": 1,
        "dtype": "float32",
    }
    with new_folder(final) as out, tempfile.TemporaryDirectory() as work:
        context = StageContext(
            out=out,
            work=Path(work),
            inputs={},
            seed=0,
            threads=1,
            display=display or Display(),
            budget_s=None,
            metrics_path=Path(work) / "metrics.jsonl",
        )
        metrics = run(settings, context)
        seal(out, kind="corpus", recipe=recipe_id(**identity), metrics=metrics, **identity)
    return CorpusArtifact(final)
