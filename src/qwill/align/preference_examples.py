"""Preferences as a trainer sees them: rendered replies, those left out counted, some prompts held out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from qwill.align.replies import Reply, render_reply
from qwill.base.errors import DataError
from qwill.data.held_out import held_out
from qwill.data.preferences import Judged, Preference, read_judged, read_preferences
from qwill.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt."""

    id: str
    language: str
    chosen: Reply
    rejected: Reply
    margin: float = 0.0

    @property
    def replies(self) -> tuple[Reply, ...]:
        return self.chosen, self.rejected


@dataclass(frozen=True)
class Verdict:
    """A reply, whether it is wanted, and another row's reply behind this prompt, for KTO's reference point."""

    id: str
    language: str
    reply: Reply
    mismatched: Reply
    desirable: bool

    @property
    def replies(self) -> tuple[Reply, ...]:
        return self.reply, self.mismatched


@dataclass(frozen=True)
class JudgedSteps:
    """A reply, marked at the end of each step, and whether each is right."""

    id: str
    reply: Reply
    right: tuple[bool, ...]

    @property
    def replies(self) -> tuple[Reply, ...]:
        return (self.reply,)


@dataclass
class PreferenceStep:
    """What one step compares: places in the list of examples."""

    units: list[int]
    source: str
    tokens: int


Unit = TypeVar("Unit", Pair, Verdict, JudgedSteps)


@dataclass
class Examples(Generic[Unit]):
    """What is trained on, what is held out, and how many were too long."""

    train: list[Unit] = field(default_factory=list)
    heldout: list[Unit] = field(default_factory=list)
    too_long: int = 0


def pairs_of(path: Path, tokenizer: Tokenizer, most: int, heldout: float, seed: int) -> Examples[Pair]:
    """Every pair of a file, rendered. Raises DataError naming file and line, or that nothing fits."""

    def pair(row: Preference) -> Pair:
        chosen, rejected = (
            render_reply(row.prompt, said, tokenizer, row.tools, row.where) for said in (row.chosen, row.rejected)
        )
        if [e.ids for e in chosen.examples] == [e.ids for e in rejected.examples]:
            raise DataError(f"{row.where}: chosen and rejected are the same once they are rendered; remove the pair.")
        return Pair(row.id, row.language, chosen, rejected, row.margin)

    return _sorted_out(path, list(read_preferences(path)), pair, most, heldout, seed)


def verdicts_of(path: Path, tokenizer: Tokenizer, most: int, heldout: float, seed: int) -> Examples[Verdict]:
    """Every judged reply of a file (a pair counts as two), each with the reply of another row behind its prompt.

    Which other row is drawn by the seed, among those whose prompt is another and as plain (or not) as this one.
    """
    rows = list(read_judged(path))
    other = _others(rows, seed)

    def verdict(row: Judged) -> Verdict:
        wrong = other[row.id, row.where]
        reply, mismatched = (
            render_reply(row.prompt, said, tokenizer, row.tools, row.where)
            for said in (row.completion, wrong.completion)
        )
        return Verdict(row.id, row.language, reply, mismatched, row.desirable)

    found = _sorted_out(path, rows, verdict, most, heldout, seed)
    for kind in (True, False):
        if found.train and not any(v.desirable == kind for v in found.train):
            name = "desirable" if kind else "undesirable"
            raise DataError(f"{path}: holds no {name} reply to train on, and KTO needs both; add some (label: {kind}).")
    return found


def _others(rows: Sequence[Judged], seed: int) -> dict[tuple[str, str], Judged]:
    order = list(rows)
    random.Random(f"{seed}/kto").shuffle(order)
    found: dict[tuple[str, str], Judged] = {}
    for i, row in enumerate(order):
        plain = isinstance(row.prompt, str)
        for k in range(1, len(order)):
            one = order[(i + k) % len(order)]
            if isinstance(one.prompt, str) == plain and one.prompt != row.prompt:
                found[row.id, row.where] = one
                break
        else:
            raise DataError(f"{row.where}: every reply answers this prompt; KTO needs at least two prompts.")
    return found


def _sorted_out(
    path: Path,
    rows: Sequence[Preference] | Sequence[Judged],
    render: Callable[..., Unit],
    most: int,
    heldout: float,
    seed: int,
) -> Examples[Unit]:
    found: Examples[Unit] = Examples()
    for row in rows:
        unit = render(row)
        if max(reply.length for reply in unit.replies) > most:
            found.too_long += 1
        else:
            (found.heldout if held_out(row.prompt, heldout, seed) else found.train).append(unit)
    if not rows:
        raise DataError(f"{path}: holds no preference; add rows, or name another file.")
    if not found.train and not found.heldout:
        raise DataError(f"{path}: nothing fits into {most} tokens; raise max_tokens.")
    if not found.train:
        raise DataError(f"{path}: all {len(found.heldout)} rows are held out; add more, or lower heldout.")
    return found
