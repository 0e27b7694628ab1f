"""Rows that are kept as they are made, so that a killed run goes on where it was: one JSON object a line, appended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.base.files import read_jsonl

Row = dict[str, Any]


def read_kept(path: Path) -> dict[str, Row]:
    """The rows by their `key`, the last of each; none if there is no file.

    What a kill left of a line at the end is cut off. Raises DataError, naming the line, for anything else that is not
    a row with a key.
    """
    if not path.exists():
        return {}
    with open(path, "r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)
    rows = {}
    for number, row in read_jsonl(path):
        if not isinstance(row.get("key"), str):
            raise DataError(f"{path}: line {number} has no key, so it is none of ours; give another folder.")
        rows[row["key"]] = row
    return rows


def keep(path: Path, rows: Iterable[Row]) -> None:
    """Append the rows, each with its `key`, and have them on the disk before returning."""
    lines = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n" for row in rows)
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())
