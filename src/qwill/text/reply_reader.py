"""What the parsers of replies share: text that comes in pieces, and the pieces that come out.

A parser is a generator that yields where it needs more text. Every decision depends on the text alone, never on
where it was cut: a decision that needs more text waits for it.
"""

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

CALL, CALL_END, FUNCTION = "<tool_call>", "</tool_call>", "<function="
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class ReasoningPiece:
    """A piece of the thinking; an empty one says that there is a thinking block."""

    text: str


@dataclass(frozen=True)
class ContentPiece:
    """A piece of what is said."""

    text: str


@dataclass(frozen=True)
class ToolStart:
    """A call begins: its number in the reply, from 0, and its function's name."""

    index: int
    name: str


@dataclass(frozen=True)
class ToolArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


Piece = ReasoningPiece | ContentPiece | ToolStart | ToolArguments


class Pieces:
    """Pieces in order. Line breaks around the content and around the thinking are left out, and so is the one in
    front of a call, which is the template's: line breaks wait for what follows them."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._calls = 0
        self._clear()

    def _clear(self) -> None:
        self._said, self._breaks, self._fresh = False, 0, False

    def reasoning(self, text: str) -> None:
        self._pieces += [ReasoningPiece(said) for said in self._stripped(text)]

    def begin_reasoning(self) -> None:
        self._pieces.append(ReasoningPiece(""))

    def end_reasoning(self) -> None:
        self._clear()

    def content(self, text: str) -> None:
        self._pieces += [ContentPiece(said) for said in self._stripped(text)]

    def begin_call(self, name: str) -> None:
        self._breaks -= self._fresh
        self._fresh = False
        self._pieces.append(ToolStart(self._calls, name))
        self._calls += 1

    def arguments(self, text: str) -> None:
        if text:
            self._pieces.append(ToolArguments(self._calls - 1, text))

    def _stripped(self, text: str) -> list[str]:
        text = text if self._said else text.lstrip("\n")
        said = text.rstrip("\n")
        breaks = "\n" * self._breaks
        self._breaks = len(text) - len(said) + (0 if said else self._breaks)
        self._fresh = len(text) > len(said) or (self._fresh and not said)
        self._said = self._said or bool(said)
        return [breaks + said] if said else []

    def take(self) -> list[Piece]:
        """What has gathered, neighbours of one kind joined."""
        taken: list[Piece] = []
        for piece in self._pieces:
            last = taken[-1] if taken else None
            if isinstance(piece, ReasoningPiece) and isinstance(last, ReasoningPiece):
                taken[-1] = ReasoningPiece(last.text + piece.text)
            elif isinstance(piece, ContentPiece) and isinstance(last, ContentPiece):
                taken[-1] = ContentPiece(last.text + piece.text)
            elif isinstance(piece, ToolArguments) and isinstance(last, ToolArguments):
                taken[-1] = ToolArguments(piece.index, last.text + piece.text)
            else:
                taken.append(piece)
        self._pieces = []
        return taken


class Marks:
    """Texts to look for, and how much of a text's end may be the beginning of one."""

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = marks
        self._found = re.compile("|".join(map(re.escape, marks)) or "(?!)")
        self._longest = max([0, *map(len, marks)])

    def find(self, text: str, start: int) -> tuple[int, str]:
        """Where the first one stands, and which; `len(text)` and nothing without one."""
        found = self._found.search(text, start)
        return (found.start(), found.group()) if found else (len(text), "")

    def beginning(self, text: str, start: int = 0) -> int:
        """Length of the longest end of `text[start:]` with which a mark begins."""
        first = max(start, len(text) - self._longest + 1)
        for i in range(first, len(text)):
            if any(mark.startswith(text[i:]) for mark in self._marks):
                return len(text) - i
        return 0


class Reader:
    """Text that has come so far, read up to `at`; `ended` says that no more will come."""

    def __init__(self) -> None:
        self.text, self.at, self.ended = "", 0, False

    def add(self, text: str) -> None:
        self.text += text

    def more(self) -> Generator[None, None, bool]:
        """Wait for more text; false when none will come."""
        if self.ended:
            return False
        yield
        return True

    def until(self, marks: Marks, take: Callable[[str], None]) -> Generator[None, None, str]:
        """Give the text in front of the next mark to `take`, as it comes; stop at the mark and return it, or ""
        at the end of all text."""
        while True:
            place, mark = marks.find(self.text, self.at)
            if not mark and not self.ended:
                place -= marks.beginning(self.text, self.at)
            if place > self.at:
                take(self.text[self.at : place])
            self.at = place
            if place > 4096 and 2 * place > len(self.text):  # let go what was read, seldom enough to cost nothing
                self.text, self.at = self.text[place:], 0
            if mark or not (yield from self.more()):
                return mark

    def space(self, start: int, also: str = "") -> Generator[None, None, int]:
        """The place behind the space (and the characters of `also`) at `start`."""
        pattern = re.compile(rf"[\s{re.escape(also)}]*") if also else _SPACE
        while True:
            found = pattern.match(self.text, start)
            end = found.end() if found else start
            if end < len(self.text) or not (yield from self.more()):
                return end

    def sees(self, start: int, *marks: str) -> Generator[None, None, str]:
        """The mark that stands at `start`, or ""."""
        while True:
            for mark in marks:
                if self.text.startswith(mark, start):
                    return mark
            rest = self.text[start : start + 64]
            if not any(mark.startswith(rest) for mark in marks) or not (yield from self.more()):
                return ""
