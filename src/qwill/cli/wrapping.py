"""Breaking lines between words while a text is still coming."""

from __future__ import annotations

import re

from rich.cells import cell_len

# What stays together: a word, a run of spaces, a line break. A character two cells wide (Chinese) stands alone.
WORD = re.compile(r"[^\s\u2e80-\uffef]+")
PIECES = re.compile(r"\n|[^\S\n]+|[\u2e80-\uffef]|[^\s\u2e80-\uffef]+")


class Wrapper:
    """Text goes in piece by piece and comes out with line breaks, so that no word is cut at the terminal's edge.

    The end of what came in is held back while it may be the beginning of a longer word.
    """

    def __init__(self, width: int) -> None:
        self.width, self.column, self.held = width, 0, ""
        self.open = False  # the last word that went out was longer than a line, and may go on

    def push(self, text: str) -> str:
        pieces, out = PIECES.findall(self.held + text), []
        self.held = ""
        if self.open and pieces:
            if WORD.fullmatch(pieces[0]):
                out.append(self._placed(pieces.pop(0), goes_on=True))
            self.open = not pieces
        if pieces:
            if not pieces[-1].isspace() and cell_len(pieces[-1]) < self.width:
                self.held = pieces.pop()
            else:
                self.open = WORD.fullmatch(pieces[-1]) is not None
        return "".join([*out, *map(self._placed, pieces)])

    def finish(self) -> str:
        held, self.held = self.held, ""
        return self._placed(held) if held else ""

    def _placed(self, piece: str, goes_on: bool = False) -> str:
        if piece == "\n":
            self.column = 0
            return piece
        cells = cell_len(piece)
        if piece.isspace():
            # Spaces that would hang over the edge are what the line break stands for.
            if self.column + cells > self.width:
                self.column = 0
                return "\n"
        elif self.column and self.column + cells > self.width and not goes_on:
            self.column = cells % self.width
            return "\n" + piece
        self.column = (self.column + cells - 1) % self.width + 1
        return piece
