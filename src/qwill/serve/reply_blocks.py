"""A reply as blocks one after the other: thinking, text, calls; for Anthropic's and OpenAI's newer protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qwill.serve.shapes import new_id
from qwill.text.reply_stream import ContentPiece, Piece, ReasoningPiece, ToolStart

Kind = Literal["thinking", "text", "call"]


@dataclass
class Block:
    """`text`: what was thought or said, or a call's arguments as JSON text. `id`: of the call."""

    kind: Kind
    index: int
    text: str = ""
    name: str = ""
    id: str = ""


@dataclass(frozen=True)
class Change:
    """A block has begun, grown by `text`, or ended."""

    what: Literal["begun", "grown", "ended"]
    block: Block
    text: str = ""


class Blocks:
    """The blocks of one reply so far; at most the last one is open."""

    def __init__(self, call_prefix: str) -> None:
        self.blocks: list[Block] = []
        self.call_prefix = call_prefix
        self._open: Block | None = None

    @property
    def calls(self) -> bool:
        return any(block.kind == "call" for block in self.blocks)

    def push(self, pieces: Sequence[Piece]) -> list[Change]:
        changes: list[Change] = []
        for piece in pieces:
            if isinstance(piece, ToolStart):
                changes += self._begin("call", piece.name)
                continue
            kind: Kind = "call"
            if isinstance(piece, ContentPiece):
                kind = "text"
            elif isinstance(piece, ReasoningPiece):
                kind = "thinking"
            if self._open is None or self._open.kind != kind:
                changes += self._begin(kind)
            assert self._open is not None
            self._open.text += piece.text
            changes.append(Change("grown", self._open, piece.text))
        return changes

    def finish(self) -> list[Change]:
        block, self._open = self._open, None
        return [] if block is None else [Change("ended", block)]

    def _begin(self, kind: Kind, name: str = "") -> list[Change]:
        changes = self.finish()
        call_id = new_id(self.call_prefix) if kind == "call" else ""
        self._open = Block(kind, len(self.blocks), name=name, id=call_id)
        self.blocks.append(self._open)
        return [*changes, Change("begun", self._open)]
