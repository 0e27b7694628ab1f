"""Preference pairs: to one conversation a reply that people preferred and one that they did not, as JSON lines.

    {"id": …, "prompt": [messages], "chosen": [messages], "rejected": [messages], "language": "en", …}

`prompt` ends with the user's words, `chosen` and `rejected` go on from there and end with the assistant's; this is the
conversational form of TRL's preference data, so that its trainers read the files as they are. Whatever else a row has
says where it came from, and is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.base.files import read_jsonl
from qwill.data.conversation import Message, problem

FILE = "preferences.jsonl"


@dataclass(frozen=True)
class Preference:
    """`origin`: the other fields of the row, such as the battle it came from."""

    id: str
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    language: str = "other"
    origin: dict[str, Any] = field(default_factory=dict)


def read_preferences(path: Path) -> Iterator[Preference]:
    """The pairs of a file, or of an artifact's folder. Raises DataError naming file, line and field."""
    file = path / FILE if path.is_dir() else path
    for number, row in read_jsonl(file):
        wrong = preference_problem(row)
        if wrong:
            raise DataError(f"{file}: line {number}: {wrong}.")
        known = {name: row[name] for name in ("prompt", "chosen", "rejected")}
        origin = {name: value for name, value in row.items() if name not in {*known, "id", "language"}}
        yield Preference(str(row.get("id", number)), **known, language=row.get("language", "other"), origin=origin)


def preference_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row, naming the field; None for one that can be learnt from."""
    for name in ("prompt", "chosen", "rejected"):
        if not isinstance(row.get(name), list) or not row[name]:
            return f"{name}: expected a list of messages, found {type(row.get(name)).__name__}"
    if not isinstance(row.get("language", ""), str):
        return "language: expected such as en or zh"
    for name in ("chosen", "rejected"):
        whole: Sequence[Any] = [*row["prompt"], *row[name]]
        if wrong := problem(whole):
            return f"prompt with {name}: {wrong}"
    if row["chosen"] == row["rejected"]:
        return "chosen and rejected are the same"
    return None
