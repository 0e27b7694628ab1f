"""Rows of a JSON-lines or Parquet file, numbered from 1, as plain objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.base.files import read_jsonl


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of a `.jsonl` or `.parquet` file. Raises DataError naming the file and, in JSON lines, the line."""
    if path.suffix != ".parquet":
        yield from read_jsonl(path)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, without_nulls(row)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not readable as Parquet ({str(error)[:120]}); check that it arrived whole."
        ) from error


def rows_file(path: Path, preferred: str) -> Path:
    """The file of rows that a path means: itself, the file `preferred` in a folder, or the only one there."""
    if not path.is_dir():
        return path
    if (path / preferred).is_file():
        return path / preferred
    found = sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".parquet"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in found) or "none"
    raise DataError(f"{path}: expected {preferred} or one .jsonl or .parquet file, found {names}; name the file.")


def row_files(path: Path) -> list[Path]:
    """The files of rows that a path means: itself, or all of a folder's `.jsonl` and `.parquet`, in the order of their
    names. Raises DataError for a folder without any."""
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".parquet") and not p.name.startswith("."))
    if not found:
        raise DataError(f"{path}: holds no .jsonl or .parquet file; name the file or folder with your rows.")
    return found


def without_nulls(value: Any) -> Any:
    """Parquet gives every message of a column all fields that any has; those that a message didn't have go again."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
