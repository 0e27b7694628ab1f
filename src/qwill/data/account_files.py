"""The account of a corpus as files beside its documents: what `report.html` and `qwill curate inspect` read.

funnel.json, rejects.jsonl (a sample; rejects.parquet has all where they are kept), scores.json, clusters.jsonl,
extraction.jsonl, redaction.json, leaks.jsonl, decontamination.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qwill.base.files import write_json, write_jsonl
from qwill.data.chunks import read_chunk, read_meta
from qwill.data.decontaminate import Index
from qwill.data.documents import Document
from qwill.data.finish import Columns
from qwill.data.first_pass import PAGES
from qwill.data.funnel import Account
from qwill.data.sampling import Lowest, excerpt
from qwill.data.scores import Scores, write_scores
from qwill.data.second_pass import Decisions
from qwill.data.settings import CurateConfig, steps

CLUSTERS = 40  # shown, the largest
SHOWN_OF_CLUSTER = 3
CLUSTER_EXCERPT = 1200
LEAKS = 2000  # shown


def write_account(
    config: CurateConfig, first: Sequence[Path], chunks: Sequence[Path], rows: Columns, held: NDArray[np.bool_],
    copies: NDArray[np.int32], index: Index, decisions: Decisions, out: Path,
) -> dict[str, Any]:  # fmt: skip
    """Write all files but funnel.json, whose beginning is returned: the counts, which add up or raise.

    first, chunks: of the first and the third pass."""
    account, scores = Account(steps(config), config.shown), None
    redacted, leaks = Counter[tuple[str, str, str]](), list[dict[str, Any]]()
    extraction, encodings = Lowest(PAGES), Counter[tuple[str, str, str]]()
    found_by = Counter[str]()
    for path in chunks:
        meta = read_meta(path)
        account.merge(Account.from_json(meta["account"]))
        own = Scores.from_json(meta["scores"])
        if scores is None:
            scores = own
        else:
            scores.merge(own)
        for language, kind, documents, occurrences in meta["redacted"]:
            redacted[language, kind, "documents"] += documents
            redacted[language, kind, "occurrences"] += occurrences
        found_by.update(name for _, name in sorted({(leak["id"], leak["set"]) for leak in meta["leaks"]}))
        leaks += meta["leaks"][: LEAKS - len(leaks)]
        extraction.merge(Lowest.from_json(meta["extraction"]))
        for declared, used, count in meta["encodings"]:
            encodings[meta["source"], declared, used] += count
    left_out = rows.live & ~held & (copies == 0)
    for path, own_rows in zip(chunks, rows.parts(left_out), strict=True):
        if own_rows.any():
            documents = _marked(path, own_rows)
            for row in np.flatnonzero(own_rows).tolist():
                account.withdraw(documents[row])
    funnel = account.close()
    if config.rejects != "drop":
        write_jsonl(out / "rejects.jsonl", account.sample())
    if config.rejects == "keep":
        _write_rejects(chunks, rows, left_out, out / "rejects.parquet")
    write_scores(out / "scores.json", [scores] if scores is not None else [])
    write_jsonl(out / "extraction.jsonl", extraction.rows())
    write_json(out / "encodings.json", [[*key, count] for key, count in sorted(encodings.items())])
    write_jsonl(out / "leaks.jsonl", leaks)
    write_json(out / "decontamination.json", _sets(index, found_by))
    kinds = sorted({(language, kind) for language, kind, _ in redacted})
    counts = [[*key, redacted[*key, "documents"], redacted[*key, "occurrences"]] for key in kinds]
    write_json(out / "redaction.json", {"counts": counts})
    write_jsonl(out / "clusters.jsonl", _clusters(first, rows, decisions))
    return funnel


def _sets(index: Index, found_by: Mapping[str, int]) -> dict[str, Any]:
    """Each set of questions: how many, how many too short to be sought, and documents in which some were found."""
    short = np.diff(index.bounds) < index.overlap.whole
    total = Counter(index.sets)
    few = Counter(name for name, is_short in zip(index.sets, short, strict=True) if is_short)
    sets = [
        {"name": name, "questions": count, "too_short": few[name], "documents": found_by.get(name, 0)}
        for name, count in sorted(total.items())
    ]
    return {"sets": sets, "n": index.overlap.english, "n_han": index.overlap.chinese}


def _marked(path: Path, left_out: NDArray[np.bool_]) -> list[Document]:
    """The documents of a chunk; those that the mixture does not take have that as their reject."""
    documents = read_chunk(path).documents
    for row in np.flatnonzero(left_out).tolist():
        documents[row].drop("mixture", "more than the mixture takes", 0.0)
    return documents


def _write_rejects(chunks: Sequence[Path], rows: Columns, left_out: NDArray[np.bool_], path: Path) -> None:
    schema = pa.schema(
        [(name, pa.string()) for name in ("id", "source", "language", "register", "step", "reason", "value", "text")]
        + [("bytes", pa.int64()), ("scores", pa.map_(pa.string(), pa.float64()))]
    )
    with pq.ParquetWriter(path, schema, version="2.6", compression="zstd", store_schema=False) as file:
        for chunk, own in zip(chunks, rows.parts(left_out), strict=True):
            gone = [d for d in _marked(chunk, own) if d.reject is not None]
            if gone:
                file.write_table(pa.Table.from_pylist([_reject_row(d) for d in gone], schema=schema))


def _reject_row(document: Document) -> dict[str, Any]:
    assert document.reject is not None
    row = {name: getattr(document, name) for name in ("id", "source", "language", "register", "text")}
    reject = document.reject
    row |= {"step": reject.step, "reason": reject.reason, "value": str(reject.value), "bytes": document.bytes}
    return row | {"scores": sorted(document.scores.items())}


def _clusters(chunks: Sequence[Path], rows: Columns, decisions: Decisions) -> Iterator[dict[str, Any]]:
    """The largest clusters of near duplicates: what stays and some of what goes, with excerpts."""
    gone = np.flatnonzero(decisions.near != np.arange(len(decisions.near)))
    kept, place, counts = np.unique(decisions.near[gone], return_inverse=True, return_counts=True)
    order = np.lexsort((kept, -counts))[:CLUSTERS]
    members = {int(kept[i]): gone[place == i] for i in order.tolist()}
    wanted = sorted({*members, *(int(row) for own in members.values() for row in own[:SHOWN_OF_CLUSTER])})
    texts = _documents(chunks, rows, wanted)
    for row, own in members.items():
        stays = texts[row]
        dropped = [
            _shown(texts[other]) | {"similarity": round(float(decisions.likeness[other]), 4)}
            for other in own[:SHOWN_OF_CLUSTER].tolist()
        ]
        yield {
            "step": "near_duplicates",
            "size": len(own) + 1,
            "bytes": stays.bytes,
            "language": stays.language,
            "register": stays.register,
            "kept": _shown(stays),
            "dropped": dropped,
        }


def _documents(chunks: Sequence[Path], rows: Columns, wanted: Sequence[int]) -> dict[int, Document]:
    found: dict[int, Document] = {}
    for number, path in enumerate(chunks):
        first, last = rows.first[number : number + 2].tolist()
        own = [row for row in wanted if first <= row < last]
        if own:
            documents = read_chunk(path).documents
            found |= {row: documents[row - first] for row in own}
    return found


def _shown(document: Document) -> dict[str, Any]:
    return {"id": document.id, "source": document.source, "text": excerpt(document.text, CLUSTER_EXCERPT)}
