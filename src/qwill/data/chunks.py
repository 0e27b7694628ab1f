"""A chunk's documents between two passes, as one file: written whole or not at all, so that a killed run goes on.

A chunk is what `blocks` made of up to some hundred records of one source. Its file holds every document of it, those
that go too, with what the global steps need beside them (keys, band keys, sizes), so that these read a few columns of
all chunks and never all text at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qwill.base.files import new_file
from qwill.data.documents import Document, Reject

_META = b"qwill"
_TEXTS = ("id", "source", "register", "language", "text")


@dataclass
class Chunk:
    """documents: in order of reading, rejects among them. arrays: one row a document, by name. meta: JSON values."""

    documents: list[Document]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def write_chunk(path: Path, chunk: Chunk) -> None:
    """An Arrow file, zstd, by a temporary name and a rename."""
    documents = chunk.documents
    scores = sorted({name for d in documents for name in d.scores})
    columns: dict[str, Any] = {name: pa.array([getattr(d, name) for d in documents], pa.string()) for name in _TEXTS}
    columns["raw_bytes"] = pa.array([d.raw_bytes for d in documents], pa.int64())
    columns["repaired"] = pa.array([d.repaired for d in documents], pa.bool_())
    columns["labels"] = pa.array([sorted(d.labels.items()) for d in documents], pa.map_(pa.string(), pa.string()))
    columns["changed"] = pa.array([json.dumps(d.changed) for d in documents], pa.string())
    columns["reject"] = pa.array(
        [d.reject and json.dumps([d.reject.step, d.reject.reason, d.reject.value]) for d in documents], pa.string()
    )
    for name in scores:
        columns[f"score:{name}"] = pa.array([d.scores.get(name) for d in documents], pa.float64())
    for name, values in chunk.arrays.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        wide = values.ndim == 2
        columns[f"array:{name}"] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if wide else flat
    table = pa.table(columns).replace_schema_metadata({_META: json.dumps(chunk.meta, ensure_ascii=False).encode()})
    with new_file(path) as file, pa.ipc.new_file(file, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table)


_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def read_table(path: Path) -> pa.Table:
    """The chunk as columns: the fields of a document, `score:NAME` and `array:NAME`."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        return file.read_all()


def read_chunk(path: Path) -> Chunk:
    """The chunk as it was written."""
    table = read_table(path)
    columns = {name: table[name] for name in table.column_names}
    plain = {n: c.to_pylist() for n, c in columns.items() if not n.startswith(("score:", "array:"))}
    scores = {n.removeprefix("score:"): c.to_pylist() for n, c in columns.items() if n.startswith("score:")}
    documents = list[Document]()
    for row in range(table.num_rows):
        reject = plain["reject"][row]
        documents.append(
            Document(
                id=plain["id"][row],
                source=plain["source"][row],
                register=plain["register"][row],
                language=plain["language"][row],
                text=plain["text"][row],
                raw_bytes=plain["raw_bytes"][row],
                repaired=plain["repaired"][row],
                scores={name: values[row] for name, values in scores.items() if values[row] is not None},
                labels=dict(plain["labels"][row]),
                changed=json.loads(plain["changed"][row]) if plain["changed"][row] != "{}" else {},
                reject=Reject(*json.loads(reject)) if reject else None,
            )
        )
    arrays = {n.removeprefix("array:"): _array(c) for n, c in columns.items() if n.startswith("array:")}
    return Chunk(documents, arrays, _meta(table.schema))


def read_meta(path: Path) -> dict[str, Any]:
    """The meta of a chunk, without its documents."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        return _meta(file.schema)


def read_texts(path: Path) -> pa.ChunkedArray:
    """The texts of a chunk's documents as Arrow strings."""
    return _some(path, ["text"])["text"]


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some arrays of a chunk, without its documents."""
    table = _some(path, [f"array:{name}" for name in names])
    return {name: _array(table[f"array:{name}"]) for name in names}


def _some(path: Path, names: Sequence[str]) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        options = pa.ipc.IpcReadOptions()
        with pa.ipc.open_file(source, options=options) as whole:
            options.included_fields = [whole.schema.get_field_index(name) for name in names]
        with pa.ipc.open_file(source, options=options) as file:
            return file.read_all()


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    joined = column.combine_chunks()
    if pa.types.is_fixed_size_list(joined.type):
        return np.array(joined.flatten().to_numpy()).reshape(len(joined), joined.type.list_size)
    return np.array(joined.to_numpy(zero_copy_only=False))


def _meta(schema: pa.Schema) -> dict[str, Any]:
    found: Mapping[bytes, bytes] = schema.metadata or {}
    meta: dict[str, Any] = json.loads(found[_META])
    return meta
