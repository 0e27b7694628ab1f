"""Replies taken apart while they are made: thinking, content, tool calls.

Calls come in two forms, told apart by what stands in the block: Hermes' JSON (`hermes_call.py`) and XML
(`xml_call.py`). What comes out, joined, is the same however the reply was cut, because a piece comes out only when
nothing that may follow can change it: text waits where it may be the beginning of a mark, line breaks wait for what
follows them.

A reply is not under our control, so nothing here raises. A block that doesn't begin as a call is content. A call
that has begun (its name and the first bracket of its arguments are there) is never taken back: where its arguments
break off or can't be mended, they stay as the model wrote them, and are no JSON.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

from qwill.text.hermes_call import hermes_call
from qwill.text.reply_reader import (
    CALL,
    CALL_END,
    FUNCTION,
    ContentPiece,
    Marks,
    Piece,
    Pieces,
    Reader,
    ReasoningPiece,
    ToolArguments,
    ToolStart,
)
from qwill.text.tokenizer import Tokenizer
from qwill.text.xml_call import bare_calls, xml_call

__all__ = [
    "ContentPiece",
    "Piece",
    "ReasoningPiece",
    "ReplyStream",
    "ToolArguments",
    "ToolStart",
    "prompt_opens_thinking",
    "tool_form",
]

THINK, THINK_END = "<think>", "</think>"
STOP_MARKS = ("<|im_end|>", "<|endoftext|>")
_STOP_MARKS, _THINK_END = Marks(STOP_MARKS), Marks([THINK_END])
# Between the calls of a block: space, brackets too many, a list's commas, a code fence.
_FILLER = "}],`"


class ReplyStream:
    """The parser. `push` text as it comes, then `finish`; both give the pieces that have become certain.

    `thinking_open`: the prompt ended inside a thinking block (`prompt_opens_thinking`). `tools`: what the request
    offers, in OpenAI's form, which gives the parameters of XML calls their types (without a schema they are texts);
    None: none are offered, so what looks like a call is content.
    """

    def __init__(self, thinking_open: bool = False, tools: Sequence[Mapping[str, Any]] | None = ()) -> None:
        self._reader, self._pieces = Reader(), Pieces()
        self._tools = tools
        self._stop_marks = ""  # at the end of what has come: dropped if nothing follows
        self._run = self._reply(thinking_open)
        next(self._run)

    def push(self, text: str) -> list[Piece]:
        """More text of the reply."""
        text = self._stop_marks + text
        kept = _without_stop_marks(text, len(text) - _STOP_MARKS.beginning(text))
        self._stop_marks = text[kept:]
        return self._go_on(text[:kept])

    def finish(self) -> list[Piece]:
        """The reply has ended: what was held back. Call it once."""
        self._reader.ended = True
        rest = self._stop_marks
        return self._go_on(rest[: _without_stop_marks(rest, len(rest))])

    def _go_on(self, text: str) -> list[Piece]:
        self._reader.add(text)
        next(self._run, None)
        return self._pieces.take()

    def _reply(self, thinking_open: bool) -> Generator[None, None, None]:
        reader, pieces = self._reader, self._pieces
        place = yield from reader.space(0)
        opened = yield from reader.sees(place, THINK)
        if opened:
            reader.at = place + len(THINK)
        if opened or thinking_open:
            pieces.begin_reasoning()
            if (yield from reader.until(_THINK_END, pieces.reasoning)):
                reader.at += len(THINK_END)
            pieces.end_reasoning()
        yield from self._body()

    def _body(self) -> Generator[None, None, None]:
        reader, pieces = self._reader, self._pieces
        tools = self._tools
        begins = [] if tools is None else [CALL, *bare_calls(tools)]
        outside, inside = Marks(begins), Marks([*begins, CALL_END])
        in_block = False  # behind a call whose block hasn't been closed
        while mark := (yield from reader.until(inside if in_block else outside, pieces.content)):
            if mark == CALL_END:
                reader.at += len(CALL_END)
                in_block = False
            elif (yield from self._call(reader.at + len(CALL) if mark == CALL else reader.at)):
                in_block = not (yield from self._rest_of_block())
            else:
                pieces.content(mark)
                reader.at += len(mark)

    def _call(self, start: int) -> Generator[None, None, bool]:
        """Read one call, or a list of them, behind space and perhaps a code fence."""
        reader = self._reader
        place = yield from reader.space(start)
        if (yield from reader.sees(place, "```")):
            place = yield from reader.space(place, "`abcdefghijklmnopqrstuvwxyz")
        if (yield from reader.sees(place, "{", "[")):
            return (yield from hermes_call(reader, place, self._pieces))
        if (yield from reader.sees(place, FUNCTION)):
            return (yield from xml_call(reader, place, self._tools or (), self._pieces))
        return False

    def _rest_of_block(self) -> Generator[None, None, bool]:
        """Further calls of a block; true when it has been closed."""
        reader = self._reader
        while True:
            place = yield from reader.space(reader.at, _FILLER)
            mark = yield from reader.sees(place, CALL_END, CALL, FUNCTION, "{", "[")
            if mark in (CALL_END, CALL) or place == len(reader.text):
                reader.at = place + len(CALL_END) if mark == CALL_END else place
                return True
            if not mark or not (yield from self._call(place)):
                return False


def prompt_opens_thinking(tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends inside a thinking block, as the templates of Qwen3-Thinking and Qwen3.5 leave it."""
    specials = tokenizer.specials
    begins, closers = specials.get(THINK), (specials.get(THINK_END), specials.get("<|im_start|>"))
    for token in reversed(prompt):
        if token == begins:
            return True
        if token in closers:
            return False
    return False


def tool_form(chat_template: str) -> Literal["hermes", "xml"]:
    """The form of calls that a model was taught, by what its template writes."""
    return "xml" if FUNCTION in chat_template else "hermes"


def _without_stop_marks(text: str, end: int) -> int:
    """The end of `text[:end]` without the stop marks there."""
    while mark := next((mark for mark in STOP_MARKS if text.endswith(mark, 0, end)), None):
        end -= len(mark)
    return end
