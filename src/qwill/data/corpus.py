"""Stage `corpus`: raw text in, a clean corpus and its whole account out.

Read → extract → repair → language → filter → redact → score (first pass, a chunk at a time) → duplicates (all at once,
a few columns) → decontaminate, thresholds (third pass, a chunk at a time) → hold out → mix → write. Everything is
decided by the documents alone: no order of work, no clock, no random number has a say, and the same inputs give the
same bytes for any number of workers. Duplicates are removed across all sources and before the split, so that no text
is on both sides of it. Each pass keeps what it has done in the work folder, a file a chunk, so that a killed run goes
on.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qwill.base.artifact import recipe_id, seal
from qwill.base.config import identity_of, parse
from qwill.base.device import CURATION, numeric_libraries
from qwill.base.errors import DataError
from qwill.base.files import new_folder, write_json
from qwill.base.lock import LOCK, folder_lock
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.data.account_files import write_account
from qwill.data.blocks import Source, open_source
from qwill.data.chunks import read_meta
from qwill.data.curation_report import write_report
from qwill.data.decontaminate import Index, build_index, read_questions
from qwill.data.documents import CorpusArtifact
from qwill.data.filter_rules import score_limits
from qwill.data.finish import Columns, columns, hold_out, mixture, write_parts
from qwill.data.first_pass import Job, chunk_path, first_pass
from qwill.data.languages import OTHER
from qwill.data.second_pass import read_decisions, second_pass
from qwill.data.settings import CurateConfig, check, registers, spoken
from qwill.data.sources import merge_origins
from qwill.data.third_pass import Shared, third_pass, write_ids
from qwill.data.workers import available_cores, dismiss, spread

STAGE_VERSION = 2

__all__ = ["CurateConfig", "curate", "run"]


def run(config: CurateConfig, ctx: StageContext) -> dict[str, Any]:
    """Fill `ctx.out` with train.parquet, heldout.parquet, funnel.json, rejects.jsonl, report.html, sources.json and
    what the report is made from.

    Reads heldout.jsonl of the input `tasks` where there is one. Returns documents and bytes by language.
    Raises DataError when a language that was asked for has no documents in the end, ConfigError for settings that make
    no sense."""
    try:
        return _run(config, ctx)
    finally:
        dismiss()


def _run(config: CurateConfig, ctx: StageContext) -> dict[str, Any]:
    check(config)
    score_limits(config, registers(config))  # a mistake in a limit is told before anything is read
    workers = config.workers or ctx.threads
    tasks = [ctx.inputs["tasks"] / "heldout.jsonl"] if "tasks" in ctx.inputs else []
    questions = read_questions([*tasks, *map(Path, config.questions)])
    first, third = ctx.work / "first", ctx.work / "third"
    for folder in (first, third):
        folder.mkdir(exist_ok=True)
    chunks, digests, origins = _first(config, ctx, first, workers)
    if not chunks:
        raise DataError("the corpus's sources hold no document; see to their paths and formats.")
    with ctx.display.stage("duplicates", 4, "steps", ctx.budget_s) as bar:
        steps = iter(range(1, 5))
        decisions, fingerprint = second_pass(
            config, chunks, digests, ctx.work, lambda step, left: bar.update(next(steps), step=step, documents=left)
        )
        bar.update(4)
    index = build_index(questions, config.overlap)
    index.save(ctx.work / "questions")
    shared = Shared(decisions, ctx.work / "questions", write_ids(chunks, ctx.work / "ids.arrow"))
    done = _third(config, ctx, first, third, shared, f"{fingerprint}-{_read_as(index)}", len(chunks), workers)
    rows = columns(done)
    _check_languages(config, rows, done)
    held, choices = hold_out(config, done, rows, ctx.work, workers)
    copies, mixed = mixture(config, done, rows, held)
    with ctx.display.stage("write", 2, "files", ctx.budget_s) as bar:
        write_parts(done, rows, held, copies, ctx.out)
        bar.update(2)
    account = write_account(config, chunks, done, rows, held, copies, index, read_decisions(decisions), ctx.out)
    account["split"] = {code: _sizes(config, rows, held, copies, code) | asdict(choices[code]) for code in choices}
    account["questions_too_short_to_seek"] = index.unsought
    account["mixture"] = mixed
    write_json(ctx.out / "funnel.json", account)
    write_json(ctx.out / "sources.json", merge_origins(origins))
    write_report(ctx.out, "Corpus")
    return {
        f"{part}_{what}_{code}": account["split"][code][part][what]
        for part in ("train", "heldout")
        for code in spoken(config)
        for what in ("documents", "bytes")
    }


def _first(
    config: CurateConfig, ctx: StageContext, folder: Path, workers: int
) -> tuple[list[Path], list[str], list[dict[str, Any]]]:
    """Every source read and each document judged by itself: the chunks' files in order, their digests, the origins."""
    digests, sources = list[str](), list[Source]()
    with ctx.display.stage("read and judge", 0, "records", ctx.budget_s) as bar:

        def jobs() -> Iterator[Job]:
            for choice in sorted(config.sources, key=lambda choice: choice.name):
                source = open_source(choice)
                sources.append(source)
                bar.total += source.records or 0
                for block in source.blocks():
                    digests.append(f"{block.digest()}-{source.choice.register}")
                    job = Job(len(digests) - 1, block, source.choice, digests[-1])
                    if _done(chunk_path(folder, job.number), "digest", job.digest):
                        bar.update(bar.done + len(block.items) + len(block.bad), source=choice.name)
                    else:
                        sizes[job.number] = len(block.items) + len(block.bad)
                        yield job

        sizes: dict[int, int] = {}
        for number in spread(partial(first_pass, config, folder), jobs(), workers, config.engine):
            bar.update(bar.done + sizes.pop(number), source=sources[-1].choice.name)
        bar.total = max(bar.total, bar.done)
    return [chunk_path(folder, i) for i in range(len(digests))], digests, [source.origin() for source in sources]


def _read_as(index: Index) -> str:
    """A digest of all questions."""
    digest = hashlib.blake2b(index.units.tobytes(), digest_size=16)
    digest.update(index.bounds.tobytes() + "\0".join((*index.ids, *index.sets)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _done(path: Path, key: str, value: str) -> bool:
    return path.exists() and read_meta(path)[key] == value


def _third(
    config: CurateConfig, ctx: StageContext, first: Path, third: Path, shared: Shared, key: str, count: int,
    workers: int,
) -> list[Path]:  # fmt: skip
    with ctx.display.stage("decide", count, "chunks", ctx.budget_s) as bar:
        jobs = [(number, key) for number in range(count) if not _done(chunk_path(third, number), "fingerprint", key)]
        bar.update(count - len(jobs))
        for _ in spread(partial(third_pass, config, first, third, shared), jobs, workers, config.engine):
            bar.update(bar.done + 1)
    return [chunk_path(third, number) for number in range(count)]


def _sizes(config: CurateConfig, rows: Columns, held: Any, copies: Any, code: str) -> dict[str, dict[str, int]]:
    own = rows.live & (rows.language == list(spoken(config)).index(code))
    masks = {"train": own & ~held & (copies > 0), "heldout": own & held}
    return {
        part: {"documents": int(np.count_nonzero(mask)), "bytes": int(rows.size[mask].sum())}
        for part, mask in masks.items()
    }


def _check_languages(config: CurateConfig, rows: Columns, chunks: Sequence[Path]) -> None:
    found = [code for n, code in enumerate(spoken(config)) if (rows.live & (rows.language == n)).any()]
    missing = [code for code in spoken(config) if code not in found]
    if not missing or (found and not config.need_every_language):
        return
    names = " and no ".join(spoken(config)[code].name for code in missing)
    advice = f"add a source of it, or set corpus.languages to [{', '.join(found)}]" if found else "see to its sources"
    raise DataError(f"the corpus has no {names} document left after curation{_most_went(chunks, missing)}; {advice}.")


def _most_went(chunks: Sequence[Path], codes: Sequence[str]) -> str:
    """Why most documents of these languages, or of none, went."""
    reasons: Counter[tuple[str, str]] = Counter()
    for path in chunks:
        for _, code, _, what, step, reason, documents, _ in read_meta(path)["account"]["counts"]:
            if what == "dropped" and code in (*codes, OTHER):
                reasons[step, reason] += documents
    if not reasons:
        return ""
    (step, reason), count = min(reasons.items(), key=lambda item: (-item[1], item[0]))
    return f" ({count} of the {reasons.total()} that went: {step.replace('_', ' ')}, {reason.replace('_', ' ')})"


def curate(
    config: CurateConfig | Mapping[str, Any] | None = None,
    folder: str | Path = "runs/corpus",
    display: Display | None = None,
) -> CorpusArtifact:
    """Curate text into a corpus artifact in `folder`, which is replaced whole.

    `config`: a CurateConfig, or a mapping as in a recipe's section `corpus`; nothing takes every source. What a killed
    run had done is kept beside `folder` (`.NAME.work`), used by the next call with the same settings, and removed by
    the next that succeeds, whatever its settings.
    Raises ConfigError, DataError or SourceError, each one sentence, or ArtifactError when another process curates into
    `folder`, and then leaves `folder` as it was.
    """
    settings = config if isinstance(config, CurateConfig) else parse(CurateConfig, config or {}, "corpus")
    final = Path(folder)
    identity: dict[str, Any] = {
        "stage": "corpus",
        "stage_version": STAGE_VERSION,
        "inputs": {},
        "config": identity_of(settings),
        "seed": 0,
        "libraries": numeric_libraries(CURATION),
        "threads": 1,
        "dtype": "float32",
    }
    name = recipe_id(**identity)
    place = final.parent / f".{final.name}.work"
    with folder_lock(place, of=final):
        # Half-made corpora of killed runs are of no use, what those had judged is.
        _clear(place, f".{final.name}.")
        work = place / name[-12:]
        work.mkdir(exist_ok=True)
        with new_folder(final, inside=place) as out:
            context = StageContext(
                out=out,
                work=work,
                inputs={},
                seed=0,
                threads=available_cores(),
                display=display or Display(),
                budget_s=None,
                metrics_path=work / "metrics.jsonl",
            )
            metrics = run(settings, context)
            seal(out, kind="corpus", recipe=name, metrics=metrics, **identity)
        _clear(place)
        with suppress(OSError):  # the next one may be in there already
            (place / LOCK).unlink()
            place.rmdir()
    return CorpusArtifact(final)


def _clear(place: Path, prefix: str = "") -> None:
    """Remove the folders in there that begin so. The lock, a file, stays: without it another process would come in."""
    for path in place.iterdir():
        if path.is_dir() and path.name.startswith(prefix):
            shutil.rmtree(path, ignore_errors=True)
