"""A document on its way through curation, and the corpus as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from qwill.data.split_texts import Words

SPLITS = ("train", "heldout")
ROW_GROUP = 8192  # documents of a finished corpus that are written, and read, at once


@dataclass(frozen=True)
class Reject:
    """Why a document went: the step, the reason that the step counts under, a number or a text that explains
    it."""

    step: str
    reason: str
    value: float | str


@dataclass
class Document:
    """One document. `language` is the column of the funnel that counts it: the identified language, or where
    none was identified that of its source. `raw_bytes` are those read, before extraction and repair, and `repaired`
    says whether that changed anything. `scores` holds every measured value by the name `family.rule`, `labels` what
    is known besides (url, encoding, …), `changed` the bytes that each step added (less than 0: took away).
    `words` are those of the text where a step has split it and another may want them; no file holds them."""

    id: str
    source: str
    register: str
    language: str
    text: str
    raw_bytes: int
    repaired: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    reject: Reject | None = None
    words: Words | None = None

    def change(self, step: str, text: str) -> None:
        """Take `text`, and note under `step` how many bytes that adds."""
        if text != self.text:
            before = self.bytes
            self.text, self.words = text, None
            self.changed[step] = self.changed.get(step, 0) + self.bytes - before

    def drop(self, step: str, reason: str, value: float | str) -> None:
        self.reject = Reject(step, reason, value)

    @property
    def bytes(self) -> int:
        return len(self.text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Record:
    """One document of a finished corpus; `copies` is how often the mixture wants it read."""

    id: str
    text: str
    source: str
    language: str
    register: str
    scores: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)
    copies: int = 1


@dataclass(frozen=True)
class CorpusArtifact:
    """A folder with train.parquet, heldout.parquet, funnel.json and rejects.jsonl; iterates over all
    records."""

    path: Path

    def records(self, split: str) -> Iterator[Record]:
        """The documents of `train` or `heldout`, in order of id."""
        import pyarrow.parquet as pq

        if split not in SPLITS:
            raise DataError(f"{split!r} is not a part of a corpus; expected train or heldout.")
        with pq.ParquetFile(self.path / f"{split}.parquet") as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    scores = {name: value for name, value in row.pop("scores").items() if value is not None}
                    yield Record(**{**row, "labels": dict(row.get("labels") or ())}, scores=scores)

    def __iter__(self) -> Iterator[Record]:
        for split in SPLITS:
            yield from self.records(split)

    def __len__(self) -> int:
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(self.path / f"{split}.parquet").num_rows for split in SPLITS)

    @property
    def funnel(self) -> dict[str, Any]:
        from qwill.base.files import read_json

        result: dict[str, Any] = read_json(self.path / "funnel.json")
        return result


def corpus_schema(scores: Sequence[str]) -> pa.Schema:
    """Columns id, text, source, language, register, scores (struct of doubles), labels (map), copies."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("id", "text", "source", "language", "register")]
    return pa.schema(
        [
            *texts,
            ("scores", pa.struct([(name, pa.float64()) for name in scores])),
            ("labels", pa.map_(pa.string(), pa.string())),
            ("copies", pa.int32()),
        ]
    )
