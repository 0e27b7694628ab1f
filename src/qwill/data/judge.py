"""Read, repair, identify, filter: everything that is decided about a document by itself, one source after the
other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qwill.base.files import canonical_json, read_jsonl, write_jsonl
from qwill.data.documents import Document, Reject
from qwill.data.filters import ChineseLimits, Limits, View, decide
from qwill.data.language import identify
from qwill.data.readers import Bad, Raw
from qwill.data.repair import repair
from qwill.data.sources import Loaded

CHUNK = 512  # documents between two updates of the display


@dataclass(frozen=True)
class Criteria:
    """What a document must be: one of `languages` with at least `score`, and within the limits of its
    language."""

    languages: tuple[str, ...]
    score: float
    english: Limits
    chinese: ChineseLimits


def sample(records: Sequence[Raw | Bad], max_bytes: int | None) -> list[Raw | Bad]:
    """Records whose hashes are lowest, up to `max_bytes` of text, in their old order. Bad records are all
    kept.

    A sample for a smaller budget is part of that for a larger one, and each is as mixed as the whole.
    """
    if max_bytes is None:
        return list(records)
    chosen, left = set[int](), max_bytes
    raw = [(i, record.text) for i, record in enumerate(records) if isinstance(record, Raw)]
    for i, text in sorted(raw, key=lambda item: (_digest(item[1]), item[0])):
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > left:
            break
        chosen.add(i)
        left -= size
    return [record for i, record in enumerate(records) if i in chosen or isinstance(record, Bad)]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def judged(
    loaded: Loaded, records: Sequence[Raw | Bad], criteria: Criteria, work: Path, advance: Callable[[int], None]
) -> list[Document]:
    """Every record as a Document, with a reject where it fails by itself.

    What is found is kept in `work`, so that a run that was killed does not judge a finished source again.
    `advance` is called with the number of documents done since its last call."""
    asked = [loaded.data_sha256, len(records), _digest(str(records)).hex(), repr(criteria), loaded.language]
    kept = work / f"judged-{loaded.name}-{hashlib.sha256(canonical_json(asked)).hexdigest()[:16]}.jsonl"
    if kept.exists():
        advance(len(records))
        return [Document.from_row(row) for _, row in read_jsonl(kept)]
    documents = list[Document]()
    for document in _documents(loaded, records, criteria):
        documents.append(document)
        if len(documents) % CHUNK == 0:
            advance(CHUNK)
    advance(len(documents) % CHUNK)
    write_jsonl(kept, (document.to_row() for document in documents))
    return documents


def _documents(loaded: Loaded, records: Sequence[Raw | Bad], criteria: Criteria) -> Iterator[Document]:
    known: dict[str, Document] = {}  # BoolQ and the reviews hold many texts twice or more; judge each once
    for record in records:
        name = f"{loaded.name}/{record.record:07d}"
        column = loaded.language or "other"
        if isinstance(record, Bad):
            text = record.content.encode("utf-8", "replace").decode()
            reject = Reject("unreadable", "record not readable", record.reason)
            yield Document(name, loaded.name, loaded.register, column, text, len(text.encode()), reject=reject)
            continue
        if record.text not in known:
            known[record.text] = _judge(
                record.text, Document("", loaded.name, loaded.register, column, "", 0), criteria
            )
        yield replace(known[record.text], id=name)


def _judge(raw: str, blank: Document, criteria: Criteria) -> Document:
    text = repair(raw)
    document = replace(blank, text=text, raw_bytes=len(raw.encode("utf-8", "surrogatepass")), repaired=text != raw)
    if not text:
        return replace(document, reject=Reject("repair", "empty", 0.0))
    language = identify(text, minimum=criteria.score)
    if language.code == "other":
        return replace(document, reject=Reject("language", "neither English nor Chinese", language.detail))
    document = replace(document, language=language.code)
    if language.code not in criteria.languages:
        return replace(document, reject=Reject("language", f"{language.code} not asked for", language.score))
    view = View(text)
    limits = criteria.chinese if language.code == "zh" else criteria.english
    drop = decide(view, limits)
    if drop is not None:
        return replace(document, reject=Reject("quality", *drop))
    scores = {
        "language_score": language.score,
        "units": float(len(view.units)),
        "mean_length": view.mean_length,
        "alphanumeric": view.alphanumeric,
        "duplicated": view.duplicated(limits.max_duplicates[0][0]),
    }
    return replace(document, scores=scores)
