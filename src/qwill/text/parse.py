"""Replies taken apart: thinking, content, tool calls (the Hermes JSON form that Qwen3 writes).

A model's reply is not under our control, so nothing here raises: what is not a tool call stays content.
"""

import ast
import json
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

THINK, OPEN, CLOSE = "<think>", "<tool_call>", "</tool_call>"
_SPACE = re.compile(r"\s*")
_FENCE = re.compile(r"^```[a-z]*\s*|\s*```$")
_TRAILING_COMMA = re.compile(r",\s*([}\]])")


@dataclass(frozen=True)
class Reply:
    """One reply. `reasoning_content` is None when there was no thinking block, "" when it was empty;
    `tool_calls` have the form that messages carry: {"type": "function", "function": {"name": ...,
    "arguments": {...}}}."""

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


def parse_reply(text: str) -> Reply:
    """Thinking, content and tool calls of a reply, given as the text behind the generation prompt.

    Tolerated: a thinking block that is cut off (all of it is thinking) or whose opening mark stood in the
    prompt, a tool call without its closing mark, in a code fence, in Python's notation, with trailing
    commas, with arguments as a JSON text or under "parameters", several calls in one block. A block that
    can't be read stays in the content.
    """
    for end in ("<|im_end|>", "<|endoftext|>"):
        text = text.removesuffix(end)
    reasoning, rest = _split_thinking(text)
    content, calls = _split_calls(rest)
    return Reply(content.strip("\n"), reasoning, calls)


def _split_thinking(text: str) -> tuple[str | None, str]:
    opened = text.lstrip().startswith(THINK)
    before, closed, after = text.partition("</think>")
    if not opened and not closed:
        return None, text
    reasoning = before.lstrip().removeprefix(THINK) if opened else before
    return reasoning.strip("\n"), after


def _split_calls(text: str) -> tuple[str, list[dict[str, Any]]]:
    content: list[str] = []
    calls: list[dict[str, Any]] = []
    position = 0
    while (opened := text.find(OPEN, position)) >= 0:
        content.append(text[position:opened])
        values, end = _read_block(text, opened + len(OPEN))
        found = [call for call in map(_as_call, values) if call is not None]
        if values and len(found) == len(values):
            calls += found
            # The line break in front of a call is the template's, not the reply's.
            content[-1] = content[-1].removesuffix("\n")
            position = end
        else:
            content.append(OPEN)
            position = opened + len(OPEN)
    return "".join([*content, text[position:]]), calls


def _read_block(text: str, start: int) -> tuple[list[Any], int]:
    """Values of the block whose opening mark ends at `start`, and where the block ends with its closing mark."""
    try:
        # The end is where the JSON value ends, so an argument may spell the closing mark.
        value, end = json.JSONDecoder(strict=False).raw_decode(text, _skip_space(text, start))
    except (ValueError, RecursionError):
        return _read_loose_block(text, start)
    end = _skip_space(text, end)
    if end < len(text) and not text.startswith(CLOSE, end):
        return _read_loose_block(text, start)
    return value if isinstance(value, list) else [value], min(end + len(CLOSE), len(text))


def _read_loose_block(text: str, start: int) -> tuple[list[Any], int]:
    next_open = text.find(OPEN, start)
    limit = next_open if next_open >= 0 else len(text)
    closed = text.find(CLOSE, start, limit)
    end = closed + len(CLOSE) if closed >= 0 else limit
    body = _FENCE.sub("", text[start : closed if closed >= 0 else limit].strip())
    for attempt in (body, _TRAILING_COMMA.sub(r"\1", body), body + "}", body.removesuffix("}")):
        values = _json_values([attempt])
        if values:
            return values, end
    return _json_values([line for line in body.splitlines() if line.strip()]) or _python_values(body), end


def _json_values(texts: list[str]) -> list[Any]:
    """The values of JSON texts, lists opened; nothing when one of them is no JSON."""
    values: list[Any] = []
    for text in texts:
        try:
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return []
        values += value if isinstance(value, list) else [value]
    return values


def _python_values(text: str) -> list[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape in a model's text is no concern of the user's
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return []
    return value if isinstance(value, list) else [value]


def _skip_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _as_call(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return {"type": "function", "function": {"name": name, "arguments": arguments}}
