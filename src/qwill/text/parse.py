"""Whole replies taken apart: thinking, content, tool calls. `reply_stream.py` is the parser, and says what it
tolerates."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwill.text.reply_stream import (
    THINK,
    THINK_END,
    ContentPiece,
    Piece,
    ReasoningPiece,
    ReplyStream,
    ToolArguments,
    ToolStart,
)


@dataclass(frozen=True)
class Reply:
    """One reply. `reasoning_content` is None when there was no thinking block, "" when it was empty;
    `tool_calls` have the form that messages carry: {"type": "function", "function": {"name": ...,
    "arguments": {...}}}. Arguments that broke off or can't be read are the text that the model wrote."""

    content: str
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)

    def message(self) -> dict[str, Any]:
        """The reply as an assistant message, ready to be put into the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning_content:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


def parse_reply(text: str, thinking_open: bool | None = None, tools: Sequence[Mapping[str, Any]] | None = ()) -> Reply:
    """Thinking, content and tool calls of a reply, given as the text behind the generation prompt.

    `thinking_open` and `tools` as in `ReplyStream`; without `thinking_open` a closing mark that nothing in the
    reply opened says that the opening one stood in the prompt.
    """
    if thinking_open is None:
        thinking_open = THINK_END in text and not text.lstrip().startswith(THINK)
    stream = ReplyStream(thinking_open, tools)
    return gathered([*stream.push(text), *stream.finish()])


def gathered(pieces: Iterable[Piece]) -> Reply:
    """The reply whose pieces these are."""
    content: list[str] = []
    reasoning: list[str] = []
    names: list[str] = []
    arguments: list[list[str]] = []
    thought = False
    for piece in pieces:
        match piece:
            case ContentPiece(text):
                content.append(text)
            case ReasoningPiece(text):
                thought = True
                reasoning.append(text)
            case ToolStart(_, name):
                names.append(name)
                arguments.append([])
            case ToolArguments(index, text):
                arguments[index].append(text)
    calls = [
        {"type": "function", "function": {"name": name, "arguments": _read("".join(texts))}}
        for name, texts in zip(names, arguments, strict=True)
    ]
    return Reply("".join(content), "".join(reasoning) if thought else None, calls)


def _read(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
