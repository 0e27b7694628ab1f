"""A document on its way through curation, and the corpus as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError

SPLITS = ("train", "heldout")
SCORES = ("language_score", "units", "mean_length", "alphanumeric", "duplicated")


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
    none was identified that of its source. `raw_bytes` are those read, before repair, and `repaired` says
    whether that changed anything; `scores` has the keys SCORES."""

    id: str
    source: str
    register: str
    language: str
    text: str
    raw_bytes: int
    repaired: bool = False
    scores: dict[str, float] = field(default_factory=dict)
    reject: Reject | None = None

    @property
    def bytes(self) -> int:
        return len(self.text.encode("utf-8", "surrogatepass"))

    def to_row(self) -> dict[str, Any]:
        return vars(self) | {"reject": vars(self.reject) if self.reject else None}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Document:
        reject = Reject(**row["reject"]) if row["reject"] else None
        return cls(**{**row, "reject": reject})


@dataclass(frozen=True)
class Record:
    """One document of a finished corpus."""

    id: str
    text: str
    source: str
    language: str
    register: str
    scores: dict[str, float]


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
                    yield Record(**row)

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


def write_parquet(path: Path, documents: Sequence[Document]) -> None:
    """Columns id, text, source, language, register, scores (struct of doubles). Equal documents give equal
    bytes: fixed codec, level, row groups and version; nothing of the writing machine or time goes in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = pa.struct([(name, pa.float64()) for name in SCORES])
    names = ("id", "text", "source", "language", "register")
    columns = {name: pa.array([getattr(d, name) for d in documents], pa.string()) for name in names}
    columns["scores"] = pa.array([d.scores for d in documents], scores)
    pq.write_table(
        pa.table(columns),
        path,
        row_group_size=8192,
        version="2.6",
        compression="zstd",
        compression_level=3,
        use_dictionary=["source", "language", "register"],
        store_schema=False,
    )
