"""Everything that is decided about a document by itself: extract, repair, language, filter, redact, score; and the keys by
which others recognise it. One chunk in, one file out, by a worker process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.data.blocks import Block, parse
from qwill.data.chunks import Chunk, write_chunk
from qwill.data.documents import Document
from qwill.data.families import judge_batch
from qwill.data.filter_rules import filter_rules
from qwill.data.fold import convert
from qwill.data.labels import domain
from qwill.data.language import identify_batch, paragraph_languages
from qwill.data.languages import language
from qwill.data.minhash import band_keys
from qwill.data.quality import load_quality, score_batch
from qwill.data.records import Bad
from qwill.data.redact import redact_batch
from qwill.data.repair import repair
from qwill.data.settings import CurateConfig
from qwill.data.sources import SourceChoice
from qwill.data.toxicity import score_toxicity
from qwill.data.units import text_key

BEFORE, AFTER = 6000, 2400  # characters of an extraction shown: of the page, of its text


@dataclass(frozen=True)
class Job:
    """A chunk to be done: its place in the order of reading, what was read, and the hash of that."""

    number: int
    block: Block
    choice: SourceChoice
    digest: str


def first_pass(config: CurateConfig, folder: Path, job: Job) -> int:
    """Write the chunk's file to `folder`; returns its number. Pure in (config, job): a repeated job writes the same."""
    documents, shown = _read(job)
    _repair(documents)
    documents = _identify(documents, config)
    _filter(documents, config)
    live = [d for d in documents if d.reject is None]
    counts = redact_batch(live, config.redact) if config.redact else {}
    _score(live, config)
    for document in live:
        if not document.text.strip():
            document.drop("redact", "nothing left", 0.0)
    meta = {"digest": job.digest, "source": job.choice.name, "redacted": counts, **shown}
    write_chunk(chunk_path(folder, job.number), Chunk(documents, _keys(documents, config), meta))
    return job.number


def chunk_path(folder: Path, number: int) -> Path:
    return folder / f"{number:07d}.arrow"


def _read(job: Job) -> tuple[list[Document], dict[str, Any]]:
    """The block's records as documents, and examples of extraction for the report."""
    documents, extraction = list[Document](), list[dict[str, Any]]()
    name, column = job.choice.name, job.choice.language or "other"
    for record in parse(job.block, job.choice):
        identity = f"{name}/{record.record}"
        if isinstance(record, Bad):
            text = record.content.encode("utf-8", "replace").decode()
            document = Document(identity, name, job.choice.register, column, text, len(text.encode()))
            document.drop("unreadable", "record not readable", record.reason)
        else:
            text = record.text.encode("utf-8", "replace").decode()
            document = Document(identity, name, job.choice.register, column, text, record.raw_bytes, labels=record.labels)
            if host := domain(record.labels.get("url", "")):
                document.labels["domain"] = host
            if document.bytes != record.raw_bytes:
                document.changed["extract"] = document.bytes - record.raw_bytes
            if record.html is not None and len(extraction) < 2:
                before = record.html[:BEFORE]
                extraction.append({"id": identity, "before": before, "after": text[:AFTER], "labels": record.labels})
        documents.append(document)
    return documents, {"extraction": extraction}


def _repair(documents: Sequence[Document]) -> None:
    known: dict[str, str] = {}  # BoolQ and the reviews hold many texts twice or more; repair each once
    for document in documents:
        if document.reject is None:
            raw = document.text
            if raw not in known:
                known[raw] = repair(raw)
            document.repaired = known[raw] != raw
            document.change("repair", known[raw])
            if not document.text:
                document.drop("repair", "empty", 0.0)


def _identify(documents: Sequence[Document], config: CurateConfig) -> list[Document]:
    """Set each document's language; one that is none of those asked for goes. A mixed page may become several."""
    live = [d for d in documents if d.reject is None]
    found = identify_batch([d.text for d in live], config.languages, config.language_score)
    answers = dict(zip(map(id, live), found, strict=True))
    result = list[Document]()
    for document in documents:
        if document.reject is not None:
            result.append(document)
            continue
        answer = answers[id(document)]
        if config.mixed == "keep" or answer.code == "other" or "\n" not in document.text:
            pieces = [document]
        else:
            pieces = list(_pieces(document, config))
        for piece in pieces:
            own = answer if len(pieces) == 1 else identify_batch([piece.text], config.languages, config.language_score)[0]
            if own.code == "other":
                piece.drop("language", "not a language asked for", own.detail)
            else:
                piece.language = own.code
                piece.scores["language_score"] = own.score
                if config.script != "as_is" and own.code == "zh":
                    piece.change("language", convert(piece.text, config.script))
            result.append(piece)
    return result


def _pieces(document: Document, config: CurateConfig) -> Iterator[Document]:
    """A page's paragraphs by language, those of one language together; the main language (most bytes) first."""
    spans = paragraph_languages(document.text, config.languages)
    texts: dict[str, list[str]] = {}
    for start, end, code, _ in spans:
        texts.setdefault(code, []).append(document.text[start:end].strip("\n"))
    joined = {code: "\n".join(parts) for code, parts in texts.items()}
    order = sorted(joined, key=lambda code: (-len(joined[code].encode()), code))
    if len(order) <= 1:
        yield document
        return
    if config.mixed == "main":
        document.change("language", joined[order[0]])
        yield document
        return
    others = [
        Document(
            f"{document.id}.{code}",
            document.source,
            document.register,
            document.language,
            joined[code],
            len(joined[code].encode()),
            labels=dict(document.labels),
        )
        for code in order[1:]
    ]
    document.raw_bytes -= sum(other.raw_bytes for other in others)
    before = document.bytes - sum(other.raw_bytes for other in others)
    document.text = joined[order[0]]
    document.changed["language"] = document.changed.get("language", 0) + document.bytes - before
    yield document
    yield from others


def _filter(documents: Sequence[Document], config: CurateConfig) -> None:
    groups: dict[tuple[str, str], list[Document]] = {}
    for document in documents:
        if document.reject is None:
            groups.setdefault((document.register, document.language), []).append(document)
    for (register, code), group in groups.items():
        rules = language(code)
        families, limits = filter_rules(config, register, rules)
        verdicts = judge_batch([d.text for d in group], rules, families, limits)
        for document, verdict in zip(group, verdicts, strict=True):
            document.scores.update(verdict.values)
            document.change("c4", verdict.text)  # the one family that takes lines out
            if verdict.drop is not None:
                document.drop(*verdict.drop)


def _score(documents: Sequence[Document], config: CurateConfig) -> None:
    if config.score.toxicity:
        for document in documents:
            document.scores["toxicity"] = score_toxicity(document.text, document.language)
    if config.score.quality is not None:
        model = load_quality(Path(config.score.quality))
        codes = sorted({d.language for d in documents})
        for code in codes:
            own = [d for d in documents if d.language == code]
            for document, value in zip(own, score_batch(model, [d.text for d in own], code), strict=True):
                document.scores["quality"] = float(value)


def _keys(documents: Sequence[Document], config: CurateConfig) -> dict[str, NDArray[Any]]:
    """One row a document for the global steps: live, bytes, key (of equal units), bands and sketches (of MinHash),
    banded (whether there are any), quality."""
    count = len(documents)
    live = np.array([d.reject is None for d in documents], dtype=bool)
    arrays: dict[str, NDArray[Any]] = {
        "live": live,
        "bytes": np.array([d.bytes for d in documents], dtype=np.int64),
        "quality": np.array([d.scores.get("quality", 0.0) for d in documents], dtype=np.float32),
        "key": np.zeros((count, 16), dtype=np.uint8),
    }
    for row in np.flatnonzero(live).tolist():
        arrays["key"][row] = np.frombuffer(text_key(documents[row].text), dtype=np.uint8)
    if config.near is not None:
        near = config.near
        arrays["bands"] = np.zeros((count, near.bands), dtype=np.uint64)
        arrays["sketches"] = np.zeros((count, near.bands * near.rows), dtype=np.uint8)
        arrays["banded"] = np.zeros(count, dtype=bool)
        for code in sorted({d.language for d in documents if d.reject is None}):
            rows = [i for i in np.flatnonzero(live).tolist() if documents[i].language == code]
            found = band_keys([documents[i].text for i in rows], None, near, language(code).words)
            arrays["bands"][rows], arrays["sketches"][rows], arrays["banded"][rows] = found.keys, found.sketches, found.has
    return arrays
