"""Parquet as a source: a column of texts, and what others say about them. A broken row group is passed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from qwill.data.records import Bad, excerpt, number_name
from qwill.data.source_reading import Item
from qwill.data.sources import LABELS, SourceChoice, known_labels

BATCH = 256  # rows in memory at once, beside what the file's own pages take


def parquet_items(path: str, choice: SourceChoice) -> Iterator[Item | Bad]:
    """The rows' texts, numbered from 1 through the whole file. A fault of the file as a whole is a Bad without name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Bad("", f"not readable as Parquet ({_short(error)}); check that it arrived whole")
        return
    with file:
        names = file.schema_arrow.names
        if choice.field not in names:
            yield Bad("", f"no column {choice.field!r}; expected one of {', '.join(map(str, names))}")
            return
        wanted = [name for name in dict.fromkeys((choice.field, choice.id_field, *LABELS)) if name in names]
        number = 0
        for group in range(file.num_row_groups):
            rows, done = file.metadata.row_group(group).num_rows, 0
            try:
                for batch in file.iter_batches(BATCH, row_groups=[group], columns=wanted):
                    yield from _batch(batch, number, choice)
                    number += batch.num_rows
                    done += batch.num_rows
            except (pa.ArrowException, OSError, ValueError, OverflowError, NotImplementedError) as error:
                left = max(1, rows - done)
                reason = f"row group {group} is broken ({_short(error)}); {left} rows are lost"
                yield Bad(number_name(number + 1), reason)
                number += left


def _batch(batch: Any, number: int, choice: SourceChoice) -> Iterator[Item | Bad]:
    import pyarrow as pa

    column = batch.column(batch.schema.names.index(choice.field))
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # As bytes: that a file calls something a string does not make it UTF-8.
        column = column.cast(kind).cast(pa.large_binary())
    rest: list[dict[str, Any]] = [{} for _ in range(batch.num_rows)]
    others = [name for name in batch.schema.names if name != choice.field]
    if others:
        with suppress(UnicodeDecodeError, ValueError):  # a label that is no text is no loss
            rest = batch.select(others).to_pylist()
    for at, (value, row) in enumerate(zip(column.to_pylist(), rest, strict=True), start=number + 1):
        name = number_name(at)
        if not isinstance(value, bytes):
            reason = f"column {choice.field!r} is a {type(value).__name__}, not text"
            yield Bad(name, reason, str(value)[:300], len(str(value)))
        elif len(value) > choice.max_record_bytes:
            reason = f"{len(value)} bytes long, and a record may have {choice.max_record_bytes}"
            yield Bad(name, reason, excerpt(value), len(value))
        else:
            yield Item(name, value, "value", None, known_labels(row, choice))


def _short(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200].rstrip(".")
