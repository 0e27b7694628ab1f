"""Where the examples of a task come from: JSON lines, the Hub, and what Qwill itself reads and generates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from qwill.base.errors import ConfigError
from qwill.base.files import read_jsonl
from qwill.evaluate.hub_rows import hub_rows

Row = tuple[str, dict[str, Any]]


def read_rows(source: Mapping[str, Any], folder: Path, name: str) -> Iterator[Row]:
    """(where it stands, its fields) of each example of a task's `source`; paths are relative to `folder`.

    Raises DataError for lines that are not JSON objects, SourceError for what can't be reached.
    """
    if "jsonl" in source:
        _only(source, {"jsonl"}, name)
        path = folder / str(source["jsonl"])
        return ((f"{path}: line {line}", fields) for line, fields in read_jsonl(path))
    if "hub" in source:
        _only(source, {"hub", "config", "split", "revision"}, name)
        rows = hub_rows(source, name)
    else:
        rows = import_module("qwill.evaluate.task_sources").rows_of(source, folder)
    return ((f"task {name}: example {number}", fields) for number, fields in enumerate(rows))


def _only(source: Mapping[str, Any], known: set[str], name: str) -> None:
    if unknown := sorted(source.keys() - known):
        raise ConfigError(
            f"task {name}: source.{unknown[0]} is not a setting here; expected {', '.join(sorted(known))}."
        )
