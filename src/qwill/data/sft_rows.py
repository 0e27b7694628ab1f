"""What a model is to say: rows to fine-tune on, in TRL's forms.

    {"messages": [messages], "tools": [...]}             every turn of the assistant is trained
    {"prompt": [messages], "completion": [messages]}     only the turns in `completion` are
    {"prompt": "text", "completion": "text"}             plain text, without a chat around it: only `completion` is
    {"text": "text"}                                     plain text: all of it is, and the end token behind it
    {"prompt": …, "chosen": …, "rejected": …}            what was chosen is the completion
    {"prompt": …, "completion": …, "label": true}        a completion where the label is true; others are left out

`conversations` with `from` and `value` are read as `messages`. `tools` is a list of functions, or that list as JSON
text. Step labels (`completions`, `labels`) are no text to learn from; `step_labels.py` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.data.preferences import Said, preference_problem, with_prompt
from qwill.data.row_files import read_rows

SPEAKERS = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}


@dataclass(frozen=True)
class SftRow:
    """`said` goes on from `prompt` (an empty list where a whole conversation is trained, an empty text where a whole
    text is). `where` names file, line and fields; `wanted` is False for what people did not like."""

    id: str
    prompt: Said
    said: Said
    tools: list[dict[str, Any]] = field(default_factory=list)
    where: str = ""
    wanted: bool = True

    @property
    def asked(self) -> Said:
        """What decides whether a row is held out: all that stands before the first thing to be said, or the text."""
        if isinstance(self.prompt, str) or isinstance(self.said, str):
            return self.prompt or self.said
        return self.prompt or list(takewhile(lambda message: message.get("role") != "assistant", self.said))


def read_sft_rows(file: Path) -> Iterator[SftRow]:
    """The rows of a `.jsonl` or `.parquet` file. Raises DataError naming file, line and field."""
    for number, row in read_rows(file):
        yield _row(row, number, f"{file}: line {number}")


def _row(row: Mapping[str, Any], number: int, where: str) -> SftRow:
    tools = _tools(row.get("tools"), where)
    identity = str(row.get("id", number))
    if "completions" in row:
        raise DataError(
            f"{where} has step labels (completions, labels), which say how good steps are and not what to say; "
            "`qwill reward` learns from them, or give the field messages, or prompt with completion."
        )
    if "chosen" in row or "rejected" in row:
        pair = dict(with_prompt(row)) | {"tools": tools}
        if wrong := preference_problem(pair):
            raise DataError(f"{where}: {wrong}.")
        return SftRow(identity, pair["prompt"], pair["chosen"], tools, f"{where}, prompt with chosen")
    if "completion" in row:
        prompt, said = row.get("prompt"), row["completion"]
        _check_pair(prompt, said, where)
        label = row.get("label", True)
        if not isinstance(label, bool):
            raise DataError(f"{where}: label: expected true or false, found {_kind(label)}.")
        assert isinstance(prompt, str | list)
        return SftRow(identity, prompt, said, tools, f"{where}, prompt with completion", label)
    if "messages" in row or "conversations" in row:
        name = "messages" if "messages" in row else "conversations"
        return SftRow(identity, [], _messages(row[name], where, name), tools, f"{where}, {name}")
    if "text" in row:
        if not isinstance(row["text"], str) or not row["text"].strip():
            raise DataError(f"{where}: text: expected text, found {_kind(row['text'])}.")
        return SftRow(identity, "", row["text"], tools, f"{where}, text")
    fields = ", ".join(row) or "none"
    raise DataError(
        f"{where}: expected the field messages, text, prompt with completion, or chosen with rejected; found {fields}."
    )


def _check_pair(prompt: Any, said: Any, where: str) -> None:
    if isinstance(prompt, str) and isinstance(said, str):
        for name, text in (("prompt", prompt), ("completion", said)):
            if not text.strip():
                raise DataError(f"{where}: {name}: the text is empty.")
        return
    # One of the two decides what the other should have been.
    plain = isinstance(prompt, str) and not isinstance(said, list)
    for name, value in (("prompt", prompt), ("completion", said)):
        if plain and not isinstance(value, str):
            raise DataError(f"{where}: {name}: expected text, found {_kind(value)}.")
        if not plain:
            _messages(value, where, name)


def _messages(value: Any, where: str, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: {name}: expected a list of at least one message, found {_kind(value)}.")
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            found = type(message).__name__
            raise DataError(f"{where}, {name}: message {number} is {found}; expected an object with role and content.")
    return [_renamed(message) for message in value]


def _renamed(message: dict[str, Any]) -> dict[str, Any]:
    if "from" not in message or "role" in message:
        return message
    named = {"role": SPEAKERS.get(message["from"], message["from"]), "content": message.get("value")}
    return named | {name: value for name, value in message.items() if name not in ("from", "value")}


def _tools(tools: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: tools: text that is not JSON ({str(error)[:80]}).") from None
    if not tools:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{where}: tools: expected a list of functions, found {_kind(tools)}.")
    return tools


def _kind(value: Any) -> str:
    if isinstance(value, str) and not value.strip():
        return "an empty one"
    return "nothing" if value is None else "an empty one" if value == [] else type(value).__name__
