"""What a model is to say: rows to fine-tune on, in TRL's forms.

    {"messages": [messages], "tools": [...]}             every turn of the assistant is trained
    {"prompt": [messages], "completion": [messages]}     only the turns in `completion` are
    {"prompt": "text", "completion": "text"}             plain text, without a chat around it: only `completion` is
    {"text": "text"}                                     plain text: all of it is, and the end token behind it
    {"prompt": …, "chosen": …, "rejected": …}            what was chosen is the completion
    {"prompt": …, "completion": …, "label": true}        a completion where the label is true; others are left out

`conversations` is another name for `messages`, and in every list of messages ShareGPT's `from` and `value` are read as
`role` and `content`: a `function_call` is the assistant's and holds calls as JSON, an `observation` is a tool's. A
`system` beside a conversation is its first message. `tools` is a list of functions, or that list as JSON text. Step
labels (`completions`, `labels`) are no text to learn from; `step_labels.py` reads them.
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

SPEAKERS = {"human": "user", "gpt": "assistant", "observation": "tool"}
LISTS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")  # fields that may hold messages


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
    row = {**row, **{name: _renamed(row[name], where, name) for name in LISTS if isinstance(row.get(name), list)}}
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
        before = _with_system(row, pair["prompt"], pair["chosen"], where)
        return SftRow(identity, before, pair["chosen"], tools, f"{where}, prompt with chosen")
    if "completion" in row:
        prompt, said = row.get("prompt"), row["completion"]
        _check_pair(prompt, said, where)
        label = row.get("label", True)
        if not isinstance(label, bool):
            raise DataError(f"{where}: label: expected true or false, found {_kind(label)}.")
        assert isinstance(prompt, str | list)
        before = _with_system(row, prompt, said, where)
        return SftRow(identity, before, said, tools, f"{where}, prompt with completion", label)
    if "messages" in row or "conversations" in row:
        name = "messages" if "messages" in row else "conversations"
        _check_messages(row[name], where, name)
        return SftRow(identity, [], _with_system(row, row[name], [], where), tools, f"{where}, {name}")
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
            _check_messages(value, where, name)


def _check_messages(value: Any, where: str, name: str) -> None:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: {name}: expected a list of at least one message, found {_kind(value)}.")
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            found = type(message).__name__
            raise DataError(f"{where}, {name}: message {number} is {found}; expected an object with role and content.")


def _with_system(row: Mapping[str, Any], messages: Said, more: Said, where: str) -> Said:
    """The conversation that begins with `messages` and goes on with `more`, behind the row's `system`; text as it is.
    Raises DataError where both say something, and not the same."""
    system = row.get("system")
    if isinstance(messages, str) or isinstance(more, str) or system is None or system == "":
        return messages
    if not isinstance(system, str):
        raise DataError(f"{where}: system: expected text, found {_kind(system)}.")
    own = [message.get("content") for message in [*messages, *more] if message.get("role") == "system"]
    if not own:
        return [{"role": "system", "content": system}, *messages]
    if own[0] != system:
        raise DataError(
            f"{where}: system: it and the conversation's own system message say different things; remove one of them."
        )
    return messages


def _renamed(messages: list[Any], where: str, name: str) -> list[Any]:
    """Messages with ShareGPT's names for fields and speakers as every other has them."""
    return [
        _renamed_one(message, f"{where}, {name}: message {number}")
        if isinstance(message, dict) and "from" in message and "role" not in message
        else message
        for number, message in enumerate(messages, start=1)
    ]


def _renamed_one(message: dict[str, Any], where: str) -> dict[str, Any]:
    speaker, said = message["from"], message.get("value")
    if not isinstance(speaker, str):
        raise DataError(f"{where}: from: expected a speaker such as human or gpt, found {_kind(speaker)}.")
    more = {name: value for name, value in message.items() if name not in ("from", "value")}
    if speaker == "function_call":
        return more | {"role": "assistant", "content": "", "tool_calls": _calls(said, where)}
    return {"role": SPEAKERS.get(speaker, speaker), "content": said} | more


def _calls(said: Any, where: str) -> list[dict[str, Any]]:
    """The call or the calls that a `function_call` spells as JSON."""
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: function_call: text that is not JSON ({str(error)[:80]}).") from None
    calls = said if isinstance(said, list) and said else [said]
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
            found = f"an object with {', '.join(call) or 'nothing'}" if isinstance(call, dict) else _kind(call)
            raise DataError(f"{where}: function_call: expected an object with name and arguments, found {found}.")
    functions = [{"name": call["name"], "arguments": call.get("arguments") or {}} for call in calls]
    return [{"type": "function", "function": function} for function in functions]


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
