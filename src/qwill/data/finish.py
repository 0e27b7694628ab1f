"""The last steps: the held-out part, the mixture, and the files of the corpus.

Reads columns of all chunks of the third pass and streams their rows into Parquet; no text is held but that of the
candidates for the held-out part, which `heldout.max_bytes` bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qwill.base.files import new_file
from qwill.data.chunks import read_arrays, read_table, read_texts
from qwill.data.documents import ROW_GROUP, corpus_schema
from qwill.data.mix import mix
from qwill.data.settings import CurateConfig, spoken
from qwill.data.split import HeldOut, candidates, present, runs, settle
from qwill.data.unit_hashes import text_hashes
from qwill.data.units import distinct
from qwill.data.workers import spread

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Choice:
    """Of one language: `cut`, the first hash (hexadecimal) that is not below; `returned`, candidates that training
    got."""

    cut: str
    returned: int


@dataclass(frozen=True)
class Columns:
    """One row a document that was read, in order: live, bytes, key, language (index into the languages, -1: none)."""

    first: NDArray[np.int64]
    live: NDArray[np.bool_]
    size: NDArray[np.int64]
    key: NDArray[np.uint8]
    language: NDArray[np.int16]

    def parts(self, mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
        """A mask over all rows as one of each chunk."""
        return np.split(mask, self.first[1:-1])


def columns(chunks: Sequence[Path]) -> Columns:
    """What the last steps know of every document, from the chunks of the third pass."""
    parts = [read_arrays(path, ("live", "bytes", "key", "language")) for path in chunks]
    first = np.cumsum([0, *(len(part["live"]) for part in parts)], dtype=np.int64)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in ("live", "bytes", "key", "language")}
    return Columns(first, joined["live"], joined["bytes"], joined["key"], joined["language"])


def hold_out(
    config: CurateConfig, chunks: Sequence[Path], rows: Columns, work: Path, workers: int
) -> tuple[NDArray[np.bool_], dict[str, Choice]]:
    """Which rows are held out, and for each language how that came about."""
    held = np.zeros(len(rows.live), dtype=bool)
    cuts: dict[str, str] = {}
    for number, code in enumerate(spoken(config)):
        own = np.flatnonzero(rows.live & (rows.language == number))
        chosen, cuts[code] = candidates(rows.size[own], rows.key[own], config.heldout)
        held[own[chosen]] = True
    wanted = np.flatnonzero(held)
    if len(wanted):
        kept = _without_overlap(config, chunks, rows, wanted, work, workers)
        held[:] = False
        held[kept] = True
    returned = {code: int(np.count_nonzero(rows.language[wanted] == n)) for n, code in enumerate(spoken(config))}
    for n, code in enumerate(spoken(config)):
        returned[code] -= int(np.count_nonzero(held & (rows.language == n)))
    return held, {code: Choice(cuts[code], returned[code]) for code in spoken(config)}


def _without_overlap(
    config: CurateConfig, chunks: Sequence[Path], rows: Columns, wanted: NDArray[np.int64], work: Path, workers: int
) -> NDArray[np.int64]:
    """Those candidates that share little with all other documents."""
    found = list[Hashes]()
    for number, path in enumerate(chunks):
        base = int(rows.first[number])
        own = wanted[(wanted >= base) & (wanted < rows.first[number + 1])] - base
        if len(own):
            texts = read_texts(path)
            found += [runs(text_hashes(texts[row].as_py()), config.heldout) for row in own.tolist()]
    with new_file(work / "candidates.npz") as file:
        np.savez(file, rows=wanted, runs=distinct(np.concatenate(found)), first=rows.first)
    seen = [np.empty(0, dtype=np.uint64)]
    function = partial(_runs_seen, config.heldout, work / "candidates.npz")
    seen += spread(function, list(enumerate(chunks)), workers, config.engine)
    return wanted[settle(found, distinct(np.concatenate(seen)), config.heldout)]


@lru_cache(maxsize=1)
def _candidates(path: Path, _changed: float) -> dict[str, NDArray[Any]]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _runs_seen(config: HeldOut, file: Path, job: tuple[int, Path]) -> Hashes:
    """Which of the candidates' runs stand in the other documents of a chunk."""
    number, path = job
    known = _candidates(file, file.stat().st_mtime)
    base, wanted = int(known["first"][number]), set(known["rows"].tolist())
    found, texts = [np.empty(0, dtype=np.uint64)], read_texts(path)
    for row in np.flatnonzero(read_arrays(path, ("live",))["live"]).tolist():
        if base + row not in wanted:
            grams = runs(text_hashes(texts[row].as_py()), config)
            found.append(grams[present(grams, known["runs"])])
    return distinct(np.concatenate(found))


def mixture(
    config: CurateConfig, chunks: Sequence[Path], rows: Columns, held: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], dict[str, Any] | None]:
    """How often each row goes into the training part, and what was asked for and given; once where nothing is asked."""
    copies = np.ones(len(rows.live), dtype=np.int32)
    if config.mixture is None:
        return copies, None
    chosen = np.flatnonzero(rows.live & ~held)
    names = list(dict.fromkeys((*config.mixture.weights, *config.mixture.caps)))
    labels: dict[str, list[str]] = {name: [] for name in names}
    for path, mask in zip(chunks, rows.parts(rows.live & ~held), strict=True):
        if mask.any():
            table = read_table(path).filter(pa.array(mask))
            for name in names:
                labels[name] += _label(table, name)
    keys = np.ascontiguousarray(rows.key[chosen]).view(">u8")[:, 0].astype(np.uint64)
    found = mix(rows.size[chosen], labels, keys, config.mixture)
    copies[chosen] = found.copies
    return copies, found.report


def _label(table: pa.Table, name: str) -> list[str]:
    if name in ("language", "register", "source"):
        return [str(value) for value in table[name].to_pylist()]
    return [dict(row).get(name, "") for row in table["labels"].to_pylist()]


def write_parts(
    chunks: Sequence[Path], rows: Columns, held: NDArray[np.bool_], copies: NDArray[np.int32], out: Path
) -> None:
    """train.parquet and heldout.parquet: the live rows in order, with their copies (held-out ones once)."""
    names = sorted({name for path in chunks for name in _scores(path)})
    for part, mask in (("train", rows.live & ~held & (copies > 0)), ("heldout", rows.live & held)):
        tables = (
            _final(read_table(path), mask[first:last], copies[first:last] if part == "train" else None, names)
            for path, first, last in zip(chunks, rows.first[:-1].tolist(), rows.first[1:].tolist(), strict=True)
            if mask[first:last].any()
        )
        write_corpus_file(out / f"{part}.parquet", tables, names)


def _scores(path: Path) -> list[str]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        return [name.removeprefix("score:") for name in file.schema.names if name.startswith("score:")]


def _final(
    table: pa.Table, mask: NDArray[np.bool_], copies: NDArray[np.int32] | None, names: Sequence[str]
) -> pa.Table:
    count = int(np.count_nonzero(mask))
    kept = table.filter(pa.array(mask)).combine_chunks()
    empty = pa.nulls(count, pa.float64())
    scores = [kept[f"score:{n}"].combine_chunks() if f"score:{n}" in kept.column_names else empty for n in names]
    fields = [pa.field(name, pa.float64()) for name in names]
    schema = corpus_schema(names)
    columns: Mapping[str, Any] = {
        **{name: kept[name] for name in ("id", "text", "source", "language", "register")},
        "scores": pa.StructArray.from_arrays([pc.cast(s, pa.float64()) for s in scores], fields=fields),
        "labels": kept["labels"],
        "copies": pa.array(copies[mask] if copies is not None else np.ones(count, dtype=np.int32), pa.int32()),
    }
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def write_corpus_file(path: Path, tables: Iterator[pa.Table], scores: Sequence[str]) -> None:
    """Tables of `corpus_schema` as one Parquet file in row groups of ROW_GROUP, however they are cut into tables.

    Equal rows give equal bytes: fixed codec, level, row groups and version; nothing of the machine or time goes in."""
    with pq.ParquetWriter(
        path,
        corpus_schema(scores),
        version="2.6",
        compression="zstd",
        compression_level=3,
        use_dictionary=["source", "language", "register"],
        store_schema=False,
    ) as file:
        held, count = list[pa.Table](), 0
        for table in tables:
            held.append(table)
            count += table.num_rows
            while count >= ROW_GROUP:
                joined = pa.concat_tables(held)
                file.write_table(joined.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                held, count = [joined.slice(ROW_GROUP)], count - ROW_GROUP
        if count:
            file.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=ROW_GROUP)
