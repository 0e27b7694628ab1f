"""What the corpus report's threshold sweep works on, small enough for a page whatever the corpus: exact counts by bin,
the documents nearest to each threshold, and a sample of documents with all their values.

The page holds JSON; infinities, which it has no number for, are the texts "Infinity" and "-Infinity".
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from qwill.data.report_examples import masked, visible
from qwill.data.scores import Cell, Part, Scores, bounds

MOST_CELLS = 80  # of one score, over all languages and registers
NEAR_TEXT, SAMPLE_TEXT = 240, 150  # characters
SAMPLE = 1200  # documents, over all languages and registers


def scores_data(stages: Sequence[Scores], scale: float = 1.0) -> dict[str, Any]:
    """Plain data from the scores of a corpus; `scale` below 1 makes it that much smaller, in examples and bins.

    scores: {name, edges, joined, only, parts: [{language, register, least, most, step, cells}]}, a cell being [index
    into edges, documents that passed, that this alone drops, that others drop too, the same three in bytes]; near: the
    documents about each threshold; sample: {language, register, names, rows}."""
    data: dict[str, Any] = {"scores": [], "near": [], "sample": []}
    for number, counted in enumerate(stages):
        by_name: dict[str, list[tuple[Part, list[Cell]]]] = defaultdict(list)
        for part, name, cells in counted.cells():
            by_name[name].append((part, cells))
        for name, parts in by_name.items():
            score = _score(name, parts, counted, max(16, round(MOST_CELLS * scale)))
            data["scores"].append({"stage": number, **score})
        data["near"] += _near(counted, max(1, math.ceil(3 * scale)))
        data["sample"] += _sample(counted, number, scale)
    return data


def _score(name: str, parts: Sequence[tuple[Part, list[Cell]]], counted: Scores, most: int) -> dict[str, Any]:
    limits = [counted.limit(part, name) for part, _ in parts]
    starts = sorted({cell.start for _, cells in parts for cell in cells})
    cuts = sorted({cut for limit in limits for cut in bounds(limit)})
    joined_bins, edges = _edges(starts, cuts, most)
    rows = []
    for (part, cells), limit in zip(parts, limits, strict=True):
        joined: dict[int, list[int]] = defaultdict(lambda: [0] * 6)
        for cell in cells:
            counts = joined[bisect_right(edges, cell.start) - 1]
            for i, count in enumerate((*cell.documents, *cell.bytes)):
                counts[i] += count
        rows.append(
            {
                "language": part[0],
                "register": part[1],
                "least": _number(limit.least),
                "most": _number(limit.most),
                "step": limit.step,
                "cells": [[i, *counts] for i, counts in sorted(joined.items())],
            }
        )
    only = next((limit.only for limit in limits if limit.only), None)
    numbers = [_number(edge) for edge in edges]
    return {"name": name, "edges": numbers, "joined": joined_bins, "only": only and _only(only), "parts": rows}


def _edges(starts: Sequence[float], cuts: Sequence[float], most: int) -> tuple[int, list[float]]:
    """Every threshold and at most about `most` of the cells' starts: while there are more, every second goes. Returned
    with how many bins are one then."""
    free = [start for start in starts if start not in cuts]
    joined = 1
    while len(free) > most:
        free, joined = free[::2], 2 * joined
    return joined, sorted({*free, *cuts, starts[0]})


def _only(only: tuple[str, float, float]) -> list[Any]:
    return [only[0], _number(only[1]), _number(only[2])]


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _near(counted: Scores, each: int) -> list[dict[str, Any]]:
    return [
        {
            "language": language,
            "register": register,
            "name": name,
            "bound": bound,
            "side": side,
            "rows": [
                [visible(r["id"], 120), _number(r["value"]), _text(r, language, NEAR_TEXT), r["step"], r["reason"]]
                for r in rows[:each]
            ],
        }
        for (language, register), name, bound, side, rows in counted.near()
    ]


def _text(row: Mapping[str, Any], language: str, most: int) -> str:
    return visible(masked(row["text"], language) if row["step"] else row["text"], most)


def _sample(counted: Scores, stage: int, scale: float) -> list[dict[str, Any]]:
    parts: dict[Part, list[dict[str, Any]]] = defaultdict(list)
    for part, row in counted.sample():
        parts[part].append(row)
    each = max(2, round(SAMPLE * scale / max(1, len(parts))))
    found = []
    for (language, register), rows in parts.items():
        rows = rows[:each]
        names = sorted({name for row in rows for name in row["values"]})
        shown = [
            [
                visible(row["id"], 120),
                row["bytes"],
                row["step"],
                row["reason"],
                _text(row, language, SAMPLE_TEXT),
                [row["values"].get(name) for name in names],
            ]
            for row in rows
        ]
        found.append({"stage": stage, "language": language, "register": register, "names": names, "rows": shown})
    return found


def columns_data(funnel: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The funnel's columns for the page's own sums: each step [documents, bytes, dropped, dropped bytes, changed, added
    bytes, {reason: [documents, bytes]}]."""
    return [
        {
            "source": column["source"],
            "language": column["language"],
            "register": column["register"],
            "steps": [_step(step) for step in column["steps"]],
        }
        for column in funnel["columns"]
    ]


def _step(step: Mapping[str, Any]) -> list[Any]:
    names = ("documents", "bytes", "dropped_documents", "dropped_bytes", "changed_documents", "added_bytes")
    reasons = {reason: [count, step["reason_bytes"][reason]] for reason, count in step.get("reasons", {}).items()}
    return [*(step.get(name, 0) for name in names), reasons]


def embedded(data: object) -> str:
    """JSON that can stand inside a <script> element whatever texts it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
