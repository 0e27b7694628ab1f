"""After the duplicates are known: drop and cut them, keep evaluation questions out, score, and give the account.

One chunk of the first pass in, one file out, by a worker process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from qwill.base.files import new_file
from qwill.data.chunks import Chunk, read_chunk, read_table, write_chunk
from qwill.data.decontaminate import DecontaminateSettings, Index, decontaminate_batch
from qwill.data.documents import Document
from qwill.data.filter_rules import score_limits
from qwill.data.first_pass import as_bytes, chunk_path
from qwill.data.funnel import Account
from qwill.data.perplexity import bits_per_byte
from qwill.data.sampling import excerpt
from qwill.data.scores import Scores
from qwill.data.second_pass import Decisions, cut, read_decisions, spans
from qwill.data.settings import CurateConfig, registers, spoken, steps
from qwill.data.units import text_key

CUTTING = {"line_duplicates", "substring_duplicates", "decontamination"}  # the steps here that change a text
AROUND = 150  # characters shown on each side of a leak


@dataclass(frozen=True)
class Shared:
    """What every chunk needs, as files, read once a worker: decisions about duplicates, the index of questions, and the
    ids of all documents in order of reading (to name which one stays)."""

    decisions: Path
    index: Path
    ids: Path


def third_pass(config: CurateConfig, first: Path, third: Path, shared: Shared, job: tuple[int, str]) -> int:
    """`job`: the chunk's number and the fingerprint of all that its answer depends on. Returns the number."""
    number, fingerprint = job
    chunk = read_chunk(chunk_path(first, number))
    decisions = _decisions(shared.decisions, _changed(shared.decisions))
    base = int(decisions.first[number])
    for row, document in enumerate(chunk.documents):
        if document.reject is None:
            _duplicate(document, base + row, decisions, shared)
        if document.reject is None:
            _cut(document, base + row, decisions)
    index = _index(shared.index, _changed(shared.index / "index.json"))
    leaks = _leaks([d for d in chunk.documents if d.reject is None], index, config)
    live = [d for d in chunk.documents if d.reject is None]
    if config.score.perplexity is not None:
        measured = bits_per_byte(Path(config.score.perplexity), [d.text for d in live])
        for document, value in zip(live, measured, strict=True):
            document.scores["bits_per_byte"] = float(value)
    for document in live:
        _thresholds(document, config)
    account, scores = Account(steps(config), config.shown), Scores(score_limits(config, registers(config)))
    for document in chunk.documents:
        account.read(document)
        if document.reject is None:
            account.keep(document)
    scores.add(chunk.documents)
    meta = {"fingerprint": fingerprint, "account": account.to_json(), "scores": scores.to_json(), "leaks": leaks}
    meta |= {name: chunk.meta[name] for name in ("extraction", "encodings", "redacted", "source")}
    arrays = _arrays(chunk, config)
    if config.rejects != "keep":
        for document in chunk.documents:
            if document.reject is not None:
                document.text = ""
    write_chunk(chunk_path(third, number), Chunk(chunk.documents, arrays, meta))
    return number


def _duplicate(document: Document, row: int, decisions: Decisions, shared: Shared) -> None:
    for step, kept in (("exact_duplicates", decisions.exact), ("near_duplicates", decisions.near)):
        if kept[row] != row:
            likeness = 1.0 if step == "exact_duplicates" else float(decisions.likeness[row])
            same = "same text" if step == "exact_duplicates" else "nearly the same"
            document.drop(step, same, f"{likeness:.2f} like {_ids(shared.ids, _changed(shared.ids))[int(kept[row])]}")
            return


def _cut(document: Document, row: int, decisions: Decisions) -> None:
    text = document.text
    for step, cuts in (("line_duplicates", decisions.lines), ("substring_duplicates", decisions.passages)):
        # Passages were found in what is left of the lines, line ends and all.
        text = cut(text, spans(cuts, row))
        document.change(step, text.strip("\n"))
        if not document.text.strip():
            document.drop(step, "nothing left", 0.0)
            return


def _leaks(documents: Sequence[Document], index: Index, config: CurateConfig) -> list[dict[str, Any]]:
    """Drop or cut what holds evaluation questions; each leak with the text around it, for the report."""
    before = {d.id: (d.source, d.language, d.text) for d in documents}
    rows = decontaminate_batch(documents, index, DecontaminateSettings(config.questions, config.overlap, config.leaks))
    for row in rows:
        source, language, text = before[row["id"]]
        first = max(0, row["start"] - AROUND)
        row |= {"source": source, "language": language, "text": excerpt(text[first : row["end"] + AROUND])}
        row |= {"action": {"drop": "dropped", "cut": "cut"}[row["action"]], "span": excerpt(row["span"])}
        row |= {"start": row["start"] - first, "end": min(row["end"] - first, len(row["text"]))}
    return rows


def _thresholds(document: Document, config: CurateConfig) -> None:
    score, limits = document.scores, config.score
    if limits.min_quality is not None and score.get("quality", limits.min_quality) < limits.min_quality:
        document.drop("quality", "low quality", score["quality"])
    elif limits.max_bits_per_byte is not None and score.get("bits_per_byte", 0.0) > limits.max_bits_per_byte:
        document.drop("bits_per_byte", "surprising text", score["bits_per_byte"])


def _arrays(chunk: Chunk, config: CurateConfig) -> dict[str, Any]:
    """For the hold-out and the mixture: live, bytes, key (of equal units), language (index into those asked for)."""
    documents, key = chunk.documents, chunk.arrays["key"].copy()
    numbers = {code: number for number, code in enumerate(spoken(config))}
    for row, document in enumerate(documents):
        if document.reject is None and not CUTTING.isdisjoint(document.changed):
            key[row] = as_bytes(text_key(document.text))
    return {
        "live": np.array([d.reject is None for d in documents], dtype=bool),
        "bytes": np.array([d.bytes if d.reject is None else 0 for d in documents], dtype=np.int64),
        "key": key,
        "language": np.array([numbers.get(d.language, -1) for d in documents], dtype=np.int16),
    }


def write_ids(chunks: Sequence[Path], path: Path) -> Path:
    """The ids of all documents in order of reading as an Arrow file, which workers map and do not hold."""
    import pyarrow as pa

    with new_file(path) as file, pa.ipc.new_file(file, pa.schema([("id", pa.string())])) as writer:
        for chunk in chunks:
            writer.write_table(read_table(chunk).select(["id"]))
    return path


def _changed(path: Path) -> int:
    """When a file was written last: what was read of an older one under its name does not count."""
    return path.stat().st_mtime_ns


@lru_cache(maxsize=2)
def _decisions(path: Path, _: int) -> Decisions:
    return read_decisions(path)


@lru_cache(maxsize=2)
def _index(path: Path, _: int) -> Index:
    return Index.load(path)


@lru_cache(maxsize=2)
def _ids(path: Path, _: int) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        return _Ids(file.read_all()["id"])


@dataclass(frozen=True)
class _Ids:
    column: Any

    def __getitem__(self, row: int) -> str:
        return str(self.column[row].as_py())
