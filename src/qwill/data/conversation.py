"""Conversations in the messages form: what makes one well formed, and its text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwill.text.content import content_text

Message = dict[str, Any]

# Which roles may follow; "start" is before the first message, "call" an assistant that called a tool.
_FOLLOWING = {
    "start": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}


@dataclass(frozen=True)
class Conversation:
    """`record` is the line, or the place (from 1) in a JSON list; `key` what makes two tasks one problem."""

    record: int
    language: str
    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    key: str | None = None


def problem(messages: Sequence[Any], tools: Sequence[Any] = ()) -> str | None:
    """What is wrong, naming the message (from 1) and its field; None for a conversation that can be trained on.

    A system message may open it, then users and the assistant alternate, a tool's results follow a call and an answer
    follows them; the assistant has the last word and never an empty one; a call names a function and gives its
    arguments as an object.
    """
    before = "start"
    for number, message in enumerate(messages, start=1):
        where = f"message {number}"
        if not isinstance(message, Mapping):
            return f"{where} is a {type(message).__name__}, expected an object with role and content"
        role = message.get("role")
        if role not in _FOLLOWING[before]:
            return f"{where}, role: {role!r} where {' or '.join(_FOLLOWING[before])} is expected"
        calls = message.get("tool_calls") or []
        content = content_text(message.get("content"))
        if content is None:
            return f"{where}, content: neither text nor a list of text parts"
        if calls and role != "assistant":
            return f"{where}, tool_calls: only the assistant calls tools"
        if not content.strip() and not calls:
            return f"{where}, content: empty"
        for call in calls:
            if wrong := _call_problem(call):
                return f"{where}, tool_calls: {wrong}"
        before = "call" if calls else str(role)
    if before != "assistant":
        return f"message {len(messages)}, role: the conversation does not end with the assistant's answer"
    for number, tool in enumerate(tools, start=1):
        if not isinstance(tool, Mapping) or not isinstance((tool.get("function") or {}).get("name"), str):
            return f"tools: entry {number} has no function.name"
    return None


def _call_problem(call: Any) -> str | None:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        return "a call has no function.name"
    if not isinstance(function.get("arguments"), Mapping):
        return f"arguments of {function['name']} are a {type(function.get('arguments')).__name__}, expected an object"
    return None


def user_texts(conversation: Conversation) -> list[str]:
    return [content_text(m["content"]) or "" for m in conversation.messages if m["role"] == "user"]


def whole_text(conversation: Conversation) -> str:
    """Everything that stands in a conversation, a line a part: what its length and its likeness to others mean."""
    parts = [json.dumps(conversation.tools, ensure_ascii=False)] if conversation.tools else []
    for message in conversation.messages:
        parts.append(message.get("reasoning_content") or "")
        parts.append(content_text(message.get("content")) or "")
        parts += [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls") or []]
    return "\n".join(part for part in parts if part)
