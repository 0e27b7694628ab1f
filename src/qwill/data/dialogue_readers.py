"""Readers of conversation sources: the bytes of one file become conversations, or Bad records with what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qwill.base.errors import DataError
from qwill.data.conversation import Conversation, Message, problem
from qwill.data.readers import decode, json_rows
from qwill.data.records import Bad, bad
from qwill.data.repair import repair
from qwill.data.units import HAN

_HAN = re.compile(f"[{HAN}]")


def language_of(text: str) -> str:
    """zh when Han characters stand in it, as they do in any Chinese reply; for sources that mix both languages."""
    return "zh" if _HAN.search(text) else "en"


def _checked(record: int, language: str, messages: list[Message], tools: list[Any], row: Any) -> Conversation | Bad:
    wrong = problem(messages, tools)
    if wrong:
        return bad(record, wrong, json.dumps(row, ensure_ascii=False))
    for message in messages:
        if isinstance(message.get("content"), str):
            message["content"] = repair(message["content"])
    return Conversation(record, language, messages, tools)


def _items(data: bytes, where: str) -> Iterator[tuple[int, Mapping[str, Any]] | Bad]:
    try:
        items = json.loads(decode(data, where))
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: line {error.lineno} is not JSON ({error.msg}); fetch the file again.") from None
    if not isinstance(items, list):
        raise DataError(f"{where} holds a JSON {type(items).__name__}; expected a list of conversations.")
    for number, item in enumerate(items, start=1):
        if isinstance(item, Mapping):
            yield number, item
        else:
            yield bad(number, f"a JSON {type(item).__name__}, not an object", json.dumps(item))


def read_alpaca(
    data: bytes, where: str, language: str | None, names: Mapping[str, Mapping[str, str]]
) -> Iterator[Conversation | Bad]:
    """One question and answer an item: `instruction`, `input` (what it is about, often empty), `output`.

    `names`: language → placeholder → what to write instead, as in LLaMA-Factory's identity.json (`{{name}}`,
    `{{author}}`). `language` None is found for each item by the script of its answer.
    """
    for item in _items(data, where):
        if isinstance(item, Bad):
            yield item
            continue
        number, row = item
        texts = [row.get(name, "") for name in ("instruction", "input", "output")]
        if wrong := [
            n for n, t in zip(("instruction", "input", "output"), texts, strict=True) if not isinstance(t, str)
        ]:
            yield bad(number, f"{wrong[0]}: not text", json.dumps(row, ensure_ascii=False))
            continue
        own = language or language_of(texts[2])
        instruction, about, output = (_filled(text, names.get(own, {})) for text in texts)
        question = f"{instruction}\n{about}" if about.strip() else instruction
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": output}]
        yield _checked(number, own, messages, [], row)


def _filled(text: str, names: Mapping[str, str]) -> str:
    for placeholder, value in names.items():
        text = text.replace("{{" + placeholder + "}}", value)
    return text


def read_glaive(data: bytes, where: str, language: str) -> Iterator[Conversation | Bad]:
    """Glaive's tool calls as LLaMA-Factory packs them: turns from human, gpt, function_call and observation, the calls
    and the list of tools as JSON inside texts."""
    for item in _items(data, where):
        if isinstance(item, Bad):
            yield item
            continue
        number, row = item
        try:
            tools = [{"type": "function", "function": tool} for tool in json.loads(row.get("tools") or "[]")]
            messages = [_glaive_message(turn) for turn in row["conversations"]]
        except (KeyError, TypeError, ValueError) as error:
            reason = f"conversations or tools: {type(error).__name__} ({error})"
            yield bad(number, reason, json.dumps(row, ensure_ascii=False))
            continue
        yield _checked(number, language, messages, tools, row)


def _glaive_message(turn: Mapping[str, Any]) -> Message:
    role, value = turn["from"], turn["value"]
    if role != "function_call":
        return {"role": {"human": "user", "gpt": "assistant", "observation": "tool"}[role], "content": value}
    call = json.loads(value)
    function = {"name": call["name"], "arguments": call["arguments"]}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


# Elsewhere the lines after the second are further replies to the first, not a conversation.
_TURN_BY_TURN = ("conversations", "health")


def read_chatterbot(data: bytes, where: str, language: str) -> Iterator[Conversation | Bad]:
    """A topic of chatterbot-corpus: YAML lists of lines, the first a person's.

    In the topics _TURN_BY_TURN the speakers alternate (a last line without answer is left out); in the others only
    the first two lines belong together. Scalars are read as text: YAML's own reading makes `Yes` a truth value.
    """
    import yaml

    try:
        topic = yaml.load(decode(data, where), Loader=yaml.BaseLoader)
        lists = topic["conversations"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{where} has no list `conversations` ({error}); fetch the package again.") from None
    turns = where.endswith(tuple(f"/{name}.yml" for name in _TURN_BY_TURN))
    for number, lines in enumerate(lists, start=1):
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            yield bad(number, "conversations: an entry is not a list of lines", json.dumps(lines, ensure_ascii=False))
            continue
        spoken = lines[: len(lines) // 2 * 2] if turns else lines[:2]
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": line} for i, line in enumerate(spoken)]
        yield _checked(number, language, messages, [], lines)


def read_messages(data: bytes, where: str, language: str | None) -> Iterator[Conversation | Bad]:
    """JSON lines with `messages` (and `tools`, `language`), the form that Qwill itself writes."""
    for item in json_rows(data, where):
        if isinstance(item, Bad):
            yield item
            continue
        number, row = item
        messages, tools = row.get("messages"), row.get("tools") or []
        if not isinstance(messages, list) or not isinstance(tools, list):
            wrong = "tools" if isinstance(messages, list) else "messages"
            yield bad(number, f"{wrong}: not a list", json.dumps(row, ensure_ascii=False))
            continue
        stated = row.get("language")
        own = stated if stated in ("en", "zh") else language or language_of(json.dumps(messages, ensure_ascii=False))
        yield _checked(number, own, messages, tools, row)


def read_demonstrations(data: bytes, where: str) -> Iterator[Conversation | Bad]:
    """Rows of the stage `tasks`: prompt, answer, and thinking where the answer shows its way.

    Raises DataError naming line and field: these rows are ours, and a wrong one is no matter for statistics.
    """
    for item in json_rows(data, where):
        if isinstance(item, Bad):
            raise DataError(
                f"{where}: line {int(item.record)} is {item.reason}; make the tasks again with `qwill tasks`."
            )
        number, row = item
        for name in ("prompt", "answer", "language"):
            if not isinstance(row.get(name), str) or not str(row[name]).strip():
                raise DataError(
                    f"{where}: line {number} has no text in {name!r}; make the tasks again with `qwill tasks`."
                )
        answer: Message = {"role": "assistant", "content": row["answer"]}
        if row.get("thinking"):
            answer["reasoning_content"] = row["thinking"]
        messages: list[Message] = [{"role": "user", "content": row["prompt"]}, answer]
        key = row.get("key")
        yield Conversation(number, str(row["language"]), messages, key=key if isinstance(key, str) else None)
