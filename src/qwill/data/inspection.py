"""What curation saw in one document and decided about it, from the files of the corpus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.base.files import read_json, read_jsonl
from qwill.data.documents import SPLITS
from qwill.data.scores import Limit, Scores, read_scores

Found = dict[str, Any]


def corpus_folder(folder: Path) -> Path:
    """The folder itself, or that of the corpus in the folder of a run."""
    inner = folder / "corpus"
    return inner if not (folder / "funnel.json").is_file() and inner.is_dir() else folder


def inspect(corpus: Path, identity: str) -> Found:
    """Plain data about the document with this id: `fate` (train, heldout or dropped), its fields, `steps` in the order
    of the funnel, each with its decision and the values that it judged, and whatever names it of duplicates, evaluation
    questions and extraction.

    Raises DataError when the folder is no corpus, or nothing is known of the id."""
    funnel = read_json(corpus / "funnel.json")
    record = _kept(corpus, identity) or _dropped(corpus, identity) or _sampled(corpus, identity)
    if record is None:
        raise DataError(f"{corpus} knows nothing of {identity!r}; {_advice(corpus, identity)}")
    steps = [step["step"] for step in next(iter(funnel["languages"].values()), [])][1:]
    limits = _limits(corpus, record["language"], record["register"])
    return record | {
        "steps": [_decision(step, steps, record, limits) for step in steps],
        "other_scores": _unjudged(record, limits),
        "clusters": [row for row in _rows(corpus, "clusters.jsonl") if identity in _members(row)],
        "leaks": [row for row in _rows(corpus, "leaks.jsonl") if row.get("id") == identity],
        "extraction": next((row for row in _rows(corpus, "extraction.jsonl") if row.get("id") == identity), None),
    }


def _rows(corpus: Path, name: str) -> Iterable[dict[str, Any]]:
    path = corpus / name
    return (row for _, row in read_jsonl(path)) if path.is_file() else ()


def _members(cluster: Mapping[str, Any]) -> set[str]:
    return {cluster["kept"]["id"], *(duplicate["id"] for duplicate in cluster["dropped"])}


def _kept(corpus: Path, identity: str) -> Found | None:
    for split in SPLITS:
        row = _in_parquet(corpus / f"{split}.parquet", identity)
        if row is not None:
            return row | {"fate": split, "bytes": len(row["text"].encode()), "step": "", "reason": "", "value": None}
    return None


def _dropped(corpus: Path, identity: str) -> Found | None:
    row = _in_parquet(corpus / "rejects.parquet", identity)
    row = row or next((row for row in _rows(corpus, "rejects.jsonl") if row.get("id") == identity), None)
    return None if row is None else {"labels": {}, **row, "fate": "dropped"}


def _in_parquet(path: Path, identity: str) -> Found | None:
    if not path.is_file():
        return None
    import pyarrow.parquet as pq

    rows = pq.read_table(path, filters=[("id", "=", identity)]).slice(0, 1).to_pylist()
    if not rows:
        return None
    row: Found = rows[0]
    scores = dict(row.get("scores") or {})
    labels = dict(row.get("labels") or {})
    return row | {"scores": {k: v for k, v in scores.items() if v is not None}, "labels": labels}


def _sampled(corpus: Path, identity: str) -> Found | None:
    """What the samples for the report hold of a reject that was not kept."""
    for scores in _scores(corpus):
        for (language, register), row in scores.sample():
            if row["id"] == identity and row["step"]:
                known: Found = {"language": language, "register": register, "labels": {}, "scores": row["values"]}
                return row | known | {"fate": "dropped", "value": None}
    return None


def _scores(corpus: Path) -> list[Scores]:
    path = corpus / "scores.json"
    return read_scores(path) if path.is_file() else []


def _limits(corpus: Path, language: str, register: str) -> dict[str, Limit]:
    found: dict[str, Limit] = {}
    for scores in _scores(corpus):
        found |= scores.limits.get((language, register), {})
    return found


def _decision(step: str, steps: Sequence[str], record: Found, limits: Mapping[str, Limit]) -> Found:
    """`decision` is passed, dropped, or not reached; `values` what the step's limits judged."""
    last = record["step"]
    reached = not last or step not in steps or last not in steps or steps.index(step) <= steps.index(last)
    values = [
        {"name": name, "value": value, "least": limit.least, "most": limit.most, "fails": _fails(value, limit)}
        for name, limit in limits.items()
        if (limit.step or name.partition(".")[0]) == step
        and not math.isnan(value := limit.value(name, record["scores"]))
    ]
    told = {"step": step, "decision": "not reached" if not reached else "passed", "values": values}
    if step == last:
        told |= {"decision": "dropped", "reason": record["reason"], "value": record["value"]}
    return told


def _fails(value: float, limit: Limit) -> bool:
    low = limit.least is not None and value < limit.least
    return low or (limit.most is not None and value > limit.most)


def _unjudged(record: Found, limits: Mapping[str, Limit]) -> dict[str, float]:
    judged = {limit.of or name for name, limit in limits.items()}
    return {name: value for name, value in sorted(record["scores"].items()) if name not in judged and value is not None}


def _advice(corpus: Path, identity: str) -> str:
    if not (corpus / "rejects.parquet").is_file():
        sampled = "only a sample of what was dropped is recorded; set corpus.rejects to keep to have all of it"
    else:
        sampled = "ids are source/record, as in rejects.parquet and train.parquet"
    example = next((row["id"] for row in _rows(corpus, "rejects.jsonl")), None)
    return sampled + (f". An id looks like {example}." if example and "/" not in identity else ".")
