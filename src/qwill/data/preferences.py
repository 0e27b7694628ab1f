"""What people preferred: pairs of replies, or single replies with a verdict, in TRL's forms.

    {"prompt": [messages], "chosen": [messages], "rejected": [messages], "id": …, "language": "en", "margin": 1.0, …}
    {"chosen": [messages], "rejected": [messages]}         the prompt is what both begin with
    {"prompt": "text", "chosen": "text", "rejected": "text"}       plain text, without a chat around it
    {"prompt": …, "completion": …, "label": true}          one reply, desirable or not (KTO)

`prompt` ends with the user's words, `chosen` and `rejected` go on from there and end with the assistant's. Whatever
else a row has says where it came from, and is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.data.conversation import Message, problem
from qwill.data.row_files import read_rows, rows_file

FILE = "preferences.jsonl"
Said = list[Message] | str


@dataclass(frozen=True)
class Preference:
    """`origin`: the other fields of the row, such as the battle it came from. `where` names file and line."""

    id: str
    prompt: Said
    chosen: Said
    rejected: Said
    language: str = "other"
    origin: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] = field(default_factory=list)
    margin: float = 0.0
    where: str = ""


@dataclass(frozen=True)
class Judged:
    """One reply and whether people want it."""

    id: str
    prompt: Said
    completion: Said
    desirable: bool
    language: str = "other"
    tools: list[dict[str, Any]] = field(default_factory=list)
    where: str = ""


def read_preferences(path: Path) -> Iterator[Preference]:
    """The pairs of a file, or of an artifact's folder. Raises DataError naming file, line and field."""
    file = rows_file(path, FILE)
    for number, row in read_rows(file):
        where = f"{file}: line {number}"
        row = dict(with_prompt(row))
        wrong = preference_problem(row)
        if wrong:
            raise DataError(f"{where}: {wrong}.")
        yield _preference(row, number, where)


def _preference(row: Mapping[str, Any], number: int, where: str) -> Preference:
    known = {name: row[name] for name in ("prompt", "chosen", "rejected")}
    other = {"id", "language", "tools", "margin", *known}
    origin = {name: value for name, value in row.items() if name not in other}
    return Preference(
        str(row.get("id", number)), **known, language=row.get("language", "other"), origin=origin,
        tools=row.get("tools") or [], margin=float(row.get("margin") or 0.0), where=where,
    )  # fmt: skip


def holds_pairs(path: Path) -> bool:
    """Whether a file's rows are pairs, and not single replies with a verdict."""
    rows = read_rows(rows_file(path, FILE))
    return not any("completion" in row for _, row in rows)


def read_judged(path: Path) -> Iterator[Judged]:
    """Replies with verdicts; a pair counts as two, what was chosen and what was rejected. Raises DataError naming file,
    line and field."""
    file = rows_file(path, FILE)
    for number, row in read_rows(file):
        where = f"{file}: line {number}"
        if "completion" in row:
            wrong = judged_problem(row)
            if wrong:
                raise DataError(f"{where}: {wrong}.")
            yield Judged(
                str(row.get("id", number)), row["prompt"], row["completion"], row["label"],
                row.get("language", "other"), row.get("tools") or [], where,
            )  # fmt: skip
            continue
        row = dict(with_prompt(row))
        if wrong := preference_problem(row):
            raise DataError(f"{where}: {wrong}.")
        pair = _preference(row, number, where)
        for said, desirable in ((pair.chosen, True), (pair.rejected, False)):
            name = f"{pair.id}/{'chosen' if desirable else 'rejected'}"
            yield Judged(name, pair.prompt, said, desirable, pair.language, pair.tools, where)


def with_prompt(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row whose prompt is said: where it has none, that is what both conversations begin with."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if "prompt" in row or not isinstance(chosen, list) or not isinstance(rejected, list):
        return row
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    return {**row, "prompt": chosen[:same], "chosen": chosen[same:], "rejected": rejected[same:]}


def preference_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row, naming the field; None for one that can be learnt from."""
    for name in ("chosen", "rejected"):
        if wrong := _reply_problem(row, name):
            return wrong
    margin = row.get("margin")
    if margin is not None and (isinstance(margin, bool) or not isinstance(margin, int | float)):
        return f"margin: expected a number, found {_kind(margin)}"
    if margin is not None and not math.isfinite(margin):
        return f"margin: expected a number that is finite, found {margin}"
    if row["chosen"] == row["rejected"]:
        return "chosen and rejected are the same, and nothing can be learnt from that; remove the pair"
    return None


def judged_problem(row: Mapping[str, Any]) -> str | None:
    """The same of a single reply with its verdict."""
    if wrong := _reply_problem(row, "completion"):
        return wrong
    return None if isinstance(row.get("label"), bool) else "label: expected true or false"


def _reply_problem(row: Mapping[str, Any], name: str) -> str | None:
    plain = isinstance(row.get("prompt"), str) and isinstance(row.get(name), str)
    for part in () if plain else ("prompt", name):
        said = row.get(part)
        if not isinstance(said, list) or not said:
            return f"{part}: expected a list of messages, found {_kind(said)}"
    if plain and not row[name].strip():
        return f"{name}: the text is empty"
    if not isinstance(row.get("language", ""), str):
        return "language: expected such as en or zh"
    if plain:
        return None
    if wrong := problem([*row["prompt"], *row[name]], _tools(row)):
        return f"prompt with {name}: {wrong}"
    if not any(isinstance(m, Mapping) and m.get("role") == "user" for m in row["prompt"]):
        return "prompt: no message of a user, so there is nothing to reply to"
    return None


def _tools(row: Mapping[str, Any]) -> Sequence[Any]:
    tools = row.get("tools") or []
    return tools if isinstance(tools, list) else [tools]


def _kind(value: Any) -> str:
    return "an empty one" if value in ([], "") else type(value).__name__
