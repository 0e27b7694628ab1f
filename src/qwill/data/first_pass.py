"""Everything that is decided about a document by itself: extract, repair, language, filter, redact, score; and the keys
by which others recognise it. One chunk in, one file out, by a worker process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.data.blocks import Block, parse
from qwill.data.chunks import Chunk, write_chunk
from qwill.data.documents import Document
from qwill.data.families import judge_batch
from qwill.data.filter_rules import filter_rules
from qwill.data.fold import chinese_script, convert
from qwill.data.labels import domain, quality_bucket
from qwill.data.language import Identified, identify_all
from qwill.data.languages import OTHER
from qwill.data.minhash import MinHash, band_keys
from qwill.data.paragraphs import pieces
from qwill.data.quality import load_quality, score_batch
from qwill.data.records import Bad
from qwill.data.redact import redact_batch
from qwill.data.repair import repair
from qwill.data.sampling import Lowest, by_hash, excerpt
from qwill.data.settings import CurateConfig, spoken
from qwill.data.sources import SourceChoice
from qwill.data.toxicity import LISTS, score_toxicity
from qwill.data.units import text_key

PAGES = 3  # shown of each source and encoding
BEFORE, AFTER = 3000, 1500  # characters of the page and of its text


@dataclass(frozen=True)
class Job:
    """A chunk to be done: its place in the order of reading, what was read, and the hash of that."""

    number: int
    block: Block
    choice: SourceChoice
    digest: str


def first_pass(config: CurateConfig, folder: Path, job: Job) -> int:
    """Write the chunk's file to `folder`; returns its number. Pure in (config, job): a repeated job writes the same."""
    pages = dict[str, str]()
    *_, (_, documents) = judged(config, job.block, job.choice, pages)
    live = [d for d in documents if d.reject is None]
    meta = {"digest": job.digest, "source": job.choice.name, "redacted": _redacted(live)}
    meta |= _extraction(documents, pages)
    write_chunk(chunk_path(folder, job.number), Chunk(documents, _keys(documents, config), meta))
    return job.number


def judged(
    config: CurateConfig, block: Block, choice: SourceChoice, pages: dict[str, str]
) -> Iterator[tuple[str, list[Document]]]:
    """The block's documents after each step that looks at them one by one, with its name. They are the same objects
    each time, changed where they are, but for a mixed page that became several. `pages` gets, by id, the beginnings of
    the pages that text was extracted from."""
    documents = _read(block, choice, pages)
    yield "extract", documents
    _repair(documents)
    yield "repair", documents
    documents = _identify(documents, config)
    yield "language", documents
    _filter(documents, config)
    yield "filter", documents
    live = [d for d in documents if d.reject is None]
    if config.redact is not None:
        redact_batch(live, config.redact)
    _score(live, config)
    yield "redact", documents


def chunk_path(folder: Path, number: int) -> Path:
    return folder / f"{number:07d}.arrow"


def _read(block: Block, choice: SourceChoice, pages: dict[str, str]) -> list[Document]:
    """The block's records as documents."""
    documents = list[Document]()
    name, column = choice.name, choice.language or "other"
    for record in parse(block, choice):
        identity = f"{name}/{record.record}"
        if isinstance(record, Bad):
            text = record.content.encode("utf-8", "replace").decode()
            document = Document(identity, name, choice.register, column, text, record.raw_bytes)
            document.drop("unreadable", "record not readable", record.reason)
        else:
            text = record.text.encode("utf-8", "replace").decode()
            document = Document(identity, name, choice.register, column, text, record.raw_bytes)
            document.labels = dict(record.labels)
            if host := domain(record.labels.get("url", "")):
                document.labels["domain"] = host
            if document.bytes != record.raw_bytes:
                document.changed["extract"] = document.bytes - record.raw_bytes
            if record.html is not None:
                pages[identity] = excerpt(record.html, BEFORE)
        documents.append(document)
    return documents


def _extraction(documents: Sequence[Document], pages: Mapping[str, str]) -> dict[str, Any]:
    """For the report: some pages before and after (by hash of id), and how many documents came in which encoding."""
    shown, encodings = Lowest(PAGES), Counter[tuple[str, str]]()
    for document in documents:
        used, declared = document.labels.get("encoding", ""), document.labels.get("declared", "")
        if used:
            encodings[declared, used] += 1
        group, rank = (document.source, used), by_hash(document.id)
        if document.id in pages and shown.wants(group, rank):
            row: dict[str, Any] = {"id": document.id, "source": document.source, "language": document.language}
            row |= {"encoding": used, "declared": declared, "raw_bytes": document.raw_bytes, "bytes": document.bytes}
            shown.add(group, rank, row | {"before": pages[document.id], "after": excerpt(document.text, AFTER)})
    counted = [[declared, used, count] for (declared, used), count in sorted(encodings.items())]
    return {"extraction": shown.to_json(), "encodings": counted}


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
    if config.mixed == "keep":
        found = identify_all([d.text for d in live], config.languages, config.language_score)
        parts = {id(d): [(d.text, one)] for d, one in zip(live, found, strict=True)}
    else:
        parts = {id(d): pieces(d.text, config.languages, config.mixed, config.language_score) for d in live}
    result = list[Document]()
    for document in documents:
        if document.reject is not None:
            result.append(document)
            continue
        own = _parted(document, parts[id(document)])
        for part, (_, told) in zip(own, parts[id(document)], strict=True):
            if told.code == OTHER:
                part.drop("language", "not a language asked for", told.detail)
                continue
            part.language = told.code
            part.scores["language_score"] = told.score
            if told.code == "zh":
                if script := chinese_script(part.text):
                    part.labels["script"] = script
                if config.script != "as_is":
                    part.change("language", convert(part.text, config.script))
        result += own
    return result


def _parted(document: Document, parts: Sequence[tuple[str, Identified]]) -> list[Document]:
    """The document with its first part's text, and one for each other part, which takes its bytes along."""
    others = list[Document]()
    for text, told in parts[1:]:
        size = len(text.encode("utf-8", "surrogatepass"))
        name, labels = f"{document.id}.{told.code}", dict(document.labels)
        others.append(Document(name, document.source, document.register, document.language, text, size, labels=labels))
    moved = sum(other.raw_bytes for other in others)
    document.raw_bytes -= moved
    before = document.bytes - moved
    if parts[0][0] != document.text:
        document.text = parts[0][0]
        document.changed["language"] = document.bytes - before
    return [document, *others]


def _filter(documents: Sequence[Document], config: CurateConfig) -> None:
    groups: dict[tuple[str, str], list[Document]] = {}
    for document in documents:
        if document.reject is None:
            groups.setdefault((document.register, document.language), []).append(document)
    for (register, code), group in groups.items():
        rules = spoken(config)[code]
        families, limits = filter_rules(config, register, rules)
        # In parity mode MinHash wants the words of another text, the simplified one.
        shared = config.near is not None and config.near.mode == "fast"
        verdicts = judge_batch([d.text for d in group], rules, families, limits, shared)
        for document, verdict in zip(group, verdicts, strict=True):
            document.scores.update(verdict.values)
            document.change("c4", verdict.text)  # the one family that takes lines out
            document.words = verdict.words
            if verdict.drop is not None:
                document.drop(*verdict.drop)
            elif not document.text.strip():
                document.drop("c4", "nothing left", 0.0)


def _redacted(documents: Sequence[Document]) -> list[tuple[str, str, int, int]]:
    """(language, kind, documents, occurrences) of what was taken out."""
    found: dict[tuple[str, str], list[int]] = {}
    for document in documents:
        for name, count in document.scores.items():
            if name.startswith("redact."):
                one = found.setdefault((document.language, name.removeprefix("redact.")), [0, 0])
                one[0] += count > 0
                one[1] += int(count)
    return [(*key, documents, occurrences) for key, (documents, occurrences) in sorted(found.items())]


def _score(documents: Sequence[Document], config: CurateConfig) -> None:
    if config.score.toxicity:
        for document in documents:
            if document.language in LISTS:
                document.scores["toxicity"] = score_toxicity(document.text, document.language)
    if config.score.quality is not None:
        model = load_quality(Path(config.score.quality))
        # Texts of a language that the classifier was not trained on have no score, and no threshold drops them.
        for code in sorted({d.language for d in documents} & set(model.languages)):
            own = [d for d in documents if d.language == code]
            for document, value in zip(own, score_batch(model, [d.text for d in own], code), strict=True):
                document.scores["quality"] = float(value)
                document.labels["quality"] = quality_bucket(float(value))


def as_bytes(key: bytes) -> NDArray[np.uint8]:
    """A key as a row of an array."""
    return np.frombuffer(key, dtype=np.uint8)


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
        arrays["key"][row] = as_bytes(text_key(documents[row].text))
    if config.near is not None:
        near, own = config.near, MinHash().ngram
        arrays["bands"] = np.zeros((count, near.bands), dtype=np.uint64)
        arrays["sketches"] = np.zeros((count, near.bands * near.rows), dtype=np.uint8)
        arrays["banded"] = np.zeros(count, dtype=bool)
        for code in sorted({d.language for d in documents if d.reject is None}):
            rows = [i for i in np.flatnonzero(live).tolist() if documents[i].language == code]
            told = spoken(config)[code]
            # The default stands for what each language's file says; another number is meant for all of them.
            settings = replace(near, ngram=told.minhash_n_grams) if near.ngram == own else near
            own_words = [documents[i].words for i in rows]
            found = band_keys([documents[i].text for i in rows], own_words, settings, told.words)
            arrays["bands"][rows], arrays["sketches"][rows] = found.keys, found.sketches
            arrays["banded"][rows] = found.has
    return arrays
