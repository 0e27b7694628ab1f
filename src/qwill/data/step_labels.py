"""Replies whose steps were judged one by one, in TRL's form of stepwise supervision.

{"prompt": "text" or [messages], "completions": ["step", "step", …], "labels": [true, false, …], "id": …}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.data.preferences import FILE, Said
from qwill.data.row_files import read_rows, rows_file


@dataclass(frozen=True)
class StepLabels:
    """A prompt, the steps of one reply, and whether each is right. `where` names file and line."""

    id: str
    prompt: Said
    steps: list[str]
    right: list[bool]
    where: str = ""


def holds_step_labels(path: Path) -> bool:
    """Whether a file's first row has judged steps, and not a pair of replies."""
    _, first = next(read_rows(rows_file(path, FILE)), (0, dict[str, Any]()))
    return "completions" in first


def read_step_labels(path: Path) -> Iterator[StepLabels]:
    """Raises DataError naming file, line and field."""
    file = rows_file(path, FILE)
    for number, row in read_rows(file):
        where = f"{file}: line {number}"
        if wrong := step_problem(row):
            raise DataError(f"{where}: {wrong}.")
        yield StepLabels(str(row.get("id", number)), row["prompt"], row["completions"], row["labels"], where)


def step_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row, naming the field; None for one that can be learnt from."""
    prompt, steps, labels = (row.get(name) for name in ("prompt", "completions", "labels"))
    plain = isinstance(prompt, str) and prompt.strip()
    talk = isinstance(prompt, list) and bool(prompt) and all(isinstance(message, Mapping) for message in prompt)
    if not plain and not talk:
        return "prompt: expected text or a list of messages"
    if not isinstance(steps, list) or not steps:
        return "completions: expected a list of at least one step"
    for number, step in enumerate(steps, start=1):
        if not isinstance(step, str) or not step.strip():
            return f"completions: step {number} is {'empty' if isinstance(step, str) else type(step).__name__}"
    if not isinstance(labels, list) or not all(isinstance(label, bool) for label in labels):
        return "labels: expected a list of true and false"
    if len(labels) != len(steps):
        return f"labels: {len(labels)} for {len(steps)} steps; expected one each"
    return None
