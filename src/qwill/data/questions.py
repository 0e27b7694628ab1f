"""Evaluation sets as they lie in files: what a model is asked, whatever the file calls it.

JSON lines (also .gz and .zst), JSON lists, Parquet, plain text (a question a line), or a folder of such files.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.base.files import read_jsonl

FIELDS = ("prompt", "question", "text", "problem", "query", "instruction", "input", "ctx")
CHOICES = ("choices", "options", "answers", "answer", "endings")
SUFFIXES = (".jsonl", ".json", ".parquet", ".txt", ".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True)
class Question:
    """`id` names a row, or file and line; `text` is what a model is asked; `key` what makes two of them one problem;
    `set` the evaluation set. `part` is `question`, or what else of the row this text is: such a text counts by its runs
    alone, since a whole answer may be anyone's words."""

    id: str
    text: str
    key: str | None = None
    set: str = ""
    part: str = "question"


def read_questions(paths: Sequence[Path]) -> list[Question]:
    """The questions of every file, of a folder all files of the kinds above, in order of their names.

    A row's question is the first of FIELDS that it has, or what the user says in its `messages`; its answers to choose
    from (CHOICES) are parts of it. The set is named by its file.
    Raises DataError naming file and line for a row without a question, or a file of another kind.
    """
    questions = list[Question]()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file() and _suffix(p)) if path.is_dir() else [path]
        if not files:
            raise DataError(
                f"{path}: no evaluation set in this folder; expected files ending in {', '.join(SUFFIXES)}."
            )
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            for number, row in _rows(file):
                questions += _questions(row, file, name, number)
    return questions


def _suffix(path: Path) -> str | None:
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), None)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = _suffix(path)
    if suffix is None:
        raise DataError(f"{path}: not a kind of file that holds evaluation sets; expected {', '.join(SUFFIXES)}.")
    if suffix == ".jsonl":
        yield from read_jsonl(path)
    elif suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        text = _text(path, suffix)
        if suffix == ".txt":
            yield from ((n, {"text": line}) for n, line in enumerate(text.split("\n"), 1) if line.strip())
        elif suffix == ".json":
            yield from _json_rows(text, path)
        else:
            yield from ((n, _object(line, path, n)) for n, line in enumerate(text.split("\n"), 1) if line.strip())


def _text(path: Path, suffix: str) -> str:
    try:
        data = path.read_bytes()
        if suffix.endswith(".gz"):
            data = gzip.decompress(data)
        elif suffix.endswith(".zst"):
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
                data = stream.read()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; convert the file to UTF-8.") from None
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file.") from None


def _object(text: str, path: Path, line: int) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {line} is not valid JSON ({error.msg}); mend it.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: line {line} holds {type(value).__name__}; expected a JSON object.")
    return value


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno} is not valid JSON ({error.msg}); mend it.") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a JSON list of objects, one a question.")
    yield from enumerate(rows, 1)


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path}: not a sound Parquet file ({first}).") from None


def _questions(row: dict[str, Any], path: Path, name: str, number: int) -> Iterator[Question]:
    identity, key = str(row.get("id", f"{name}:{number}")), row.get("key")
    key = key if isinstance(key, str) else None
    asked = next((row[field] for field in FIELDS if isinstance(row.get(field), str)), None)
    said = _said(row["messages"]) if isinstance(row.get("messages"), list) else []
    if asked is None and not said:
        raise DataError(
            f"{path}: line {number} has no text under {', '.join(FIELDS)} or messages; name the question so."
        )
    for text in [asked] if asked is not None else said:
        yield Question(identity, text, key, name)
    for field in CHOICES:
        for place, text in enumerate(_texts(row.get(field)), start=1):
            yield Question(identity, text, key, name, f"{field} {place}")


def _said(messages: list[Any]) -> list[str]:
    return [
        m["content"]
        for m in messages
        if isinstance(m, dict) and m.get("role", "user") == "user" and isinstance(m.get("content"), str)
    ]


def _texts(value: Any) -> Iterator[str]:
    """The strings of a list, or of lists and objects inside it, as sets have them: {"text": [...], "label": [...]}."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
