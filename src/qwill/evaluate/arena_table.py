"""Votes in a file of JSON lines, as the columns that `arena.fit_ratings` takes."""

from __future__ import annotations

import json
import math
import operator
from collections import Counter
from itertools import islice

from qwill.base.errors import DataError

TYPE_CHECKING = False  # `typing` would take longer to import than the rest
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike
    from typing import Any

    Row = dict[str, Any]

OUTCOMES: dict[object, float] = {
    "a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5,
    "model_a": 1.0, "model_b": 0.0, "tie (bothbad)": 0.5,  # as LMArena's published votes say it
    1: 1.0, 0: 0.0, 0.5: 0.5,
}  # fmt: skip
# More than ratings themselves is imported only where it is needed: it would take longer than they do.
LINES = 1024  # read at once: enough to be fast, few enough that replies don't fill the memory


class VoteTable:
    """One entry a vote. `features` has a row of numbers a vote, `feature_names` one name for each of them."""

    def __init__(self, feature_names: list[str]) -> None:
        self.model_a: list[str] = []
        self.model_b: list[str] = []
        self.outcome: list[float] = []
        self.features: list[list[float]] = []
        self.feature_names = feature_names
        self.clusters: list[object] = []


def read_votes(
    path: str | PathLike[str],
    *,
    style: bool = False,
    features: Sequence[str] = (),
    cluster: str | None = None,
    category: str | None = None,
) -> VoteTable:
    """The votes of `path`, of one category if it is named.

    A line has `model_a`, `model_b` and `outcome` ("a", "b", "tie", "both_bad", or a number from 0 to 1) or LMArena's
    `winner`. `style` counts its `reply_a` and `reply_b`; `features` are names of its numbers, each the difference of
    the two sides or a fact about the battle; `cluster` the name of what makes votes depend on one another (`voter`,
    `prompt_id`); `category` is told from `prompt` or `messages`, the replies and `language`, as far as they are there.

    Raises DataError naming file and line.
    """
    names = [*features]
    if style:
        from qwill.evaluate.arena_style import STYLE

        names = [*STYLE, *features]
    if category is not None:
        from qwill.evaluate.arena_categories import CATEGORIES

        if category not in CATEGORIES:
            raise DataError(f"there is no category '{category}'; choose from {', '.join(CATEGORIES)}.")
    table, seen = VoteTable(names), Counter[str]()
    simple = not names and cluster is None and category is None
    for numbers, rows in _blocks(path):
        if simple and _add_plain(table, rows):
            continue
        for number, row in zip(numbers, rows, strict=True):
            where = f"{path}: line {number}"
            won = _outcome(row, where)
            if category is not None:
                found = _categories(row)
                seen.update(found)
                if category not in found:
                    continue
            table.model_a.append(row["model_a"])
            table.model_b.append(row["model_b"])
            table.outcome.append(won)
            if names:
                own = [_number(row, name, where) for name in features]
                table.features.append((_style(row, where) if style else []) + own)
            if cluster is not None:
                table.clusters.append(_cluster(row, cluster, where))
    if not table.outcome:
        if category is None:
            raise DataError(f"{path}: there are no votes in it; expected a JSON object on each line.")
        there = ", ".join(f"{count} {name}" for name, count in sorted(seen.items())) or "none at all"
        raise DataError(f"{path}: no vote is in the category '{category}'; its votes are {there}.")
    return table


def _blocks(path: str | PathLike[str]) -> Iterator[tuple[Sequence[int], list[Row]]]:
    """The line numbers and rows of many lines at once.

    They are parsed as one JSON list, which takes half as long as line by line; whatever is wrong with one of them is
    said by reading the file again in that way.
    """
    try:
        with open(path, encoding="utf-8") as file:
            first = 1
            while lines := list(islice(file, LINES)):
                numbers: Sequence[int] = range(first, first + len(lines))
                first += len(lines)
                try:
                    rows = json.loads("[" + ",".join(lines) + "]")
                except ValueError:
                    numbers = [n for n, line in zip(numbers, lines, strict=True) if line.strip()]
                    lines = [line for line in lines if line.strip()]
                    rows = json.loads("[" + ",".join(lines) + "]")
                if len(rows) != len(lines) or set(map(type, rows)) - {dict}:
                    raise ValueError
                yield numbers, rows
    except (OSError, ValueError, RecursionError):
        from pathlib import Path

        from qwill.base.files import read_jsonl

        for _ in read_jsonl(Path(path)):
            pass
        raise DataError(f"{path}: a line holds more than one JSON object; write one vote a line.") from None


def _add_plain(table: VoteTable, rows: list[Row]) -> bool:
    """Whether all rows were plain votes, which are then in the table; if not, none is."""
    key = "outcome" if rows and "outcome" in rows[0] else "winner"
    try:
        a, b = [row["model_a"] for row in rows], [row["model_b"] for row in rows]
        values = [row[key] for row in rows]
        outcome = [OUTCOMES[value] for value in values]
    except (KeyError, TypeError):
        return False
    if (
        set(map(type, a)) | set(map(type, b)) != {str}
        or bool in set(map(type, values))
        or "" in a
        or "" in b
        or any(map(operator.eq, a, b))
    ):
        return False
    table.model_a.extend(a)
    table.model_b.extend(b)
    table.outcome.extend(outcome)
    return True


def _outcome(row: Row, where: str) -> float:
    for side in ("model_a", "model_b"):
        if not (isinstance(row.get(side), str) and row[side]):
            raise DataError(f"{where}: '{side}' is {_shown(row, side)}, expected a model's name.")
    if row["model_a"] == row["model_b"]:
        raise DataError(f"{where}: {row['model_a']!r} meets itself; drop that vote.")
    key = "outcome" if "outcome" in row else "winner"
    value = row.get(key)
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    if isinstance(value, str | int | float) and not isinstance(value, bool) and value in OUTCOMES:
        return OUTCOMES[value]
    raise DataError(
        f'{where}: \'{key}\' is {_shown(row, key)}, expected "a", "b", "tie", "both_bad" or a number from 0 to 1.'
    )


def _style(row: Row, where: str) -> list[float]:
    from qwill.evaluate.arena_style import style_counts

    for side in ("reply_a", "reply_b"):
        if not isinstance(row.get(side), str):
            raise DataError(
                f"{where}: '{side}' is {_shown(row, side)}; style is counted from the texts of both replies."
            )
    pairs = zip(style_counts(row["reply_a"]), style_counts(row["reply_b"]), strict=True)
    return [(a - b) / (a + b) if a + b else 0.0 for a, b in pairs]


def _number(row: Row, name: str, where: str) -> float:
    value = row.get(name)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise DataError(f"{where}: the feature '{name}' is {_shown(row, name)}, expected a finite number.")


def _cluster(row: Row, name: str, where: str) -> object:
    value = row.get(name)
    if isinstance(value, str | int):
        return value
    raise DataError(f"{where}: '{name}', which is to group the votes, is {_shown(row, name)}, expected a name.")


def _categories(row: Row) -> list[str]:
    from qwill.evaluate.arena_categories import categories_of, text_of

    reply_a, reply_b = (row[side] if isinstance(row.get(side), str) else "" for side in ("reply_a", "reply_b"))
    language = row.get("language")
    return categories_of(text_of(row), reply_a, reply_b, language if isinstance(language, str) else None)


def _shown(row: Row, name: str) -> str:
    """The value of a field, short, as a message quotes it."""
    if name not in row:
        return "missing"
    text = json.dumps(row[name], ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
