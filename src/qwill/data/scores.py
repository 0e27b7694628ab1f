"""Distributions of every measured value, from which a threshold can be chosen after looking.

For each language, register and score: how many documents and bytes lie in each bin, apart for those that passed, those
that this score alone would drop, and those that something else drops as well. So it can be read off, exactly at every
edge of a bin and at the threshold itself, what a moved threshold would drop and what it would save. Beside it a sample
of documents with all their values, and the documents nearest to each threshold on both sides. All of it is decided by
the documents alone, and parts add up to the whole in any grouping and order.

Bins are those of the floating-point format: sixteen to an octave, so that shares, counts and probabilities need no
setting of their own; a bin that holds a threshold, of whichever language or register, is cut there.
"""

from __future__ import annotations

import json
import math
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.base.files import read_json, write_text
from qwill.data.documents import Document
from qwill.data.funnel import size_of
from qwill.data.rules import Rule
from qwill.data.sampling import Lowest, Rank, by_hash, excerpt

CLASSES = ("passed", "only_this", "others_too")
SAMPLE_EXCERPT = 240  # characters
NEAR_EXCERPT = 300
_SIDES = 1024  # more than there are thresholds of one score
_SHIFT = 48  # leaves sign, exponent and four bits of the mantissa

Floats = NDArray[np.float64]
Part = tuple[str, str]  # language, register


@dataclass(frozen=True)
class Limit:
    """What passes: `least` <= value <= `most`; None is no bound, and both None a score that drops nothing.

    step: the step of the funnel that drops by it, "" for the name before its first dot. of: the score that is measured,
    "" where the limit has its name. only: (score, low, high): the limit is for documents alone whose other score is
    low <= … < high."""

    least: float | None = None
    most: float | None = None
    step: str = ""
    of: str = ""
    only: tuple[str, float, float] | None = None

    def value(self, name: str, scores: Mapping[str, float]) -> float:
        """What this limit, called `name`, judges of a document; nan where it does not judge it."""
        if self.only is not None and not self.only[1] <= scores.get(self.only[0], math.nan) < self.only[2]:
            return math.nan
        return scores.get(self.of or name, math.nan)


def limits_of(families: Mapping[str, Sequence[Rule]]) -> dict[str, Limit]:
    """The limits of filter families' rules, by the name of the score: "family.value".

    Rules on one value under different conditions become limits of their own, the condition in their names."""
    found: dict[str, Limit] = {}
    for family, rules in families.items():
        for rule in rules:
            name = of = f"{family}.{rule.value}"
            only = None if rule.only is None else (f"{family}.{rule.only[0]}", *rule.only[1:])
            if len({other.only for other in rules if other.value == rule.value}) > 1:
                name = f"{of} ({_condition(rule)})"
            known = found.get(name, Limit(of=of if name != of else "", only=only))
            bound = [b for b in (known.least if rule.below else known.most, rule.limit) if b is not None]
            found[name] = replace(known, least=max(bound)) if rule.below else replace(known, most=min(bound))
    return found


def _condition(rule: Rule) -> str:
    if rule.only is None:
        return "always"
    name, low, high = rule.only
    return (
        f"{name} < {high:g}"
        if low <= 0
        else f"{name} >= {low:g}"
        if math.isinf(high)
        else f"{low:g} <= {name} < {high:g}"
    )


@dataclass(frozen=True)
class Cell:
    """Values from `start` up to the next cell's start; documents and bytes of each of CLASSES."""

    start: float
    documents: tuple[int, int, int]
    bytes: tuple[int, int, int]


class Scores:
    """Counts values; `limits` has the limits of each language and register that is to be counted, by name, usually that
    of a score. A score without a limit is counted too: it may get one.

    sample: documents of each language and register kept with all values; near: documents on either side of each
    threshold."""

    def __init__(self, limits: Mapping[Part, Mapping[str, Limit]], sample: int = 100, near: int = 3) -> None:
        self.limits = {part: dict(sorted(own.items())) for part, own in sorted(limits.items())}
        self._cuts: dict[str, list[float]] = defaultdict(list)
        for own in self.limits.values():
            for name, limit in own.items():
                self._cuts[name] = sorted({*self._cuts[name], *bounds(limit)})
        self._bins: dict[tuple[str, str, str], dict[int, list[int]]] = defaultdict(dict)
        self._sample = Lowest(sample)
        self._near = Lowest(near)

    def add(self, documents: Sequence[Document]) -> None:
        """Count documents once they have been judged: `scores` measured, `reject` set for those that go.

        A document of a language and register that `limits` does not have is not counted, nor is a score that is not a
        number."""
        parts: dict[Part, list[Document]] = defaultdict(list)
        for document in documents:
            if (document.language, document.register) in self.limits and document.scores:
                parts[document.language, document.register].append(document)
        for part, own in parts.items():
            self._add(part, own)

    def _add(self, part: Part, documents: Sequence[Document]) -> None:
        limits = self._all_limits(part, documents)
        table = [[limit.value(name, d.scores) for name, limit in limits.items()] for d in documents]
        values = np.array(table, np.float64) + 0.0  # no -0
        sizes = np.array([size_of(d) for d in documents], np.float64)
        passed = np.array([d.reject is None for d in documents])
        fails = np.stack([_outside(values[:, j], limit) for j, limit in enumerate(limits.values())], axis=1)
        ranks = [by_hash(document.id) for document in documents]
        hashes = np.array([int(str(rank[0]), 16) for rank in ranks], np.uint64)
        single = ~passed & (fails.sum(axis=1) == 1)
        steps = [document.reject.step if document.reject else "" for document in documents]
        for j, (name, limit) in enumerate(limits.items()):
            alone = single & fails[:, j] & np.array([step == (limit.step or name.partition(".")[0]) for step in steps])
            classes = np.where(passed, 0, np.where(alone, 1, 2))
            self._count((*part, name), values[:, j], classes, sizes)
            self._add_near((*part, name), limit, documents, ranks, hashes, values[:, j], passed, fails[:, j])
        for document, rank, row in zip(documents, ranks, values.tolist(), strict=True):
            if self._sample.wants(part, rank):
                known = {name: _rounded(v) for name, v in zip(limits, row, strict=True) if not math.isnan(v)}
                self._sample.add(part, rank, _described(document, SAMPLE_EXCERPT) | {"values": known})

    def _all_limits(self, part: Part, documents: Sequence[Document]) -> dict[str, Limit]:
        limited = {limit.of or name for name, limit in self.limits[part].items()}
        free = sorted({name for d in documents for name in d.scores} - limited)
        return self.limits[part] | {name: Limit() for name in free}

    def limit(self, part: Part, name: str) -> Limit:
        """The limit of that name for a language and register; one without bounds for a score that has none."""
        return self.limits[part].get(name, Limit())

    def _count(self, key: tuple[str, str, str], column: Floats, classes: NDArray[Any], sizes: Floats) -> None:
        known = ~np.isnan(column)
        if not known.any():
            return
        keys, place = np.unique(_keys(column[known], self._cuts.get(key[2], [])), return_inverse=True)
        cell = place * 3 + classes[known]
        documents = np.bincount(cell, minlength=3 * len(keys)).reshape(-1, 3)
        size = np.bincount(cell, sizes[known], 3 * len(keys)).reshape(-1, 3).astype(np.int64)
        bins = self._bins[key]
        for bin_key, row in zip(keys.tolist(), np.concatenate([documents, size], axis=1).tolist(), strict=True):
            bins[bin_key] = [a + b for a, b in zip(bins.get(bin_key, (0,) * 6), row, strict=True)]

    def _add_near(
        self, key: tuple[str, str, str], limit: Limit, documents: Sequence[Document], ranks: Sequence[Rank],
        hashes: NDArray[np.uint64], column: Floats, passed: NDArray[np.bool_], fails: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        for bound, threshold in (("least", limit.least), ("most", limit.most)):
            if threshold is None:
                continue
            distance = np.abs(column - threshold)
            beyond = column < threshold if bound == "least" else column > threshold
            for side, chosen in (("kept", passed & ~beyond), ("dropped", fails & beyond)):
                candidates = np.flatnonzero(chosen & ~np.isnan(distance))
                group = (*key, bound, side)
                for i in candidates[np.lexsort((hashes[candidates], distance[candidates]))].tolist():
                    rank = (float(distance[i]), *ranks[i])
                    if not self._near.wants(group, rank):
                        break  # nor any that is farther
                    row = _described(documents[i], NEAR_EXCERPT) | {"value": float(column[i]), "threshold": threshold}
                    self._near.add(group, rank, row)

    def merge(self, other: Scores) -> None:
        """Take in what was counted of other documents under the same limits."""
        assert self.limits == other.limits
        for key, theirs in other._bins.items():
            bins = self._bins[key]
            for bin_key, row in theirs.items():
                bins[bin_key] = [a + b for a, b in zip(bins.get(bin_key, (0,) * 6), row, strict=True)]
        self._sample.merge(other._sample)
        self._near.merge(other._near)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads; equal counts give equal data."""
        return {
            "parts": [list(part) for part in self.limits],
            "limits": [
                [*part, name, limit.least, limit.most, limit.step, limit.of, limit.only]
                for part, own in self.limits.items()
                for name, limit in own.items()
            ],
            "bins": [
                [*key, [[k, *row] for k, row in sorted(bins.items())]] for key, bins in sorted(self._bins.items())
            ],
            "sample": self._sample.to_json(),
            "near": self._near.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Scores:
        limits: dict[Part, dict[str, Limit]] = defaultdict(dict)
        for language, register, name, least, most, step, of, only in value["limits"]:
            limits[language, register][name] = Limit(least, most, step, of, tuple(only) if only else None)
        result = cls({tuple(part): limits[tuple(part)] for part in value["parts"]})
        for language, register, name, bins in value["bins"]:
            result._bins[language, register, name] = {key: row for key, *row in bins}
        result._sample = Lowest.from_json(value["sample"])
        result._near = Lowest.from_json(value["near"])
        return result

    def cells(self) -> Iterator[tuple[Part, str, list[Cell]]]:
        """Language and register, score, and its cells by ascending value."""
        for (language, register, name), bins in sorted(self._bins.items()):
            cuts = self._cuts.get(name, [])
            yield (
                (language, register),
                name,
                [
                    Cell(_start(key, cuts), (row[0], row[1], row[2]), (row[3], row[4], row[5]))
                    for key, row in sorted(bins.items())
                ],
            )

    def sample(self) -> Iterator[tuple[Part, dict[str, Any]]]:
        """Documents by hash of id: id, source, bytes, text, step, reason, and `values` by the limits' names."""
        for (language, register), rows in self._sample.groups():
            for row in rows:
                yield (language, register), row

    def near(self) -> Iterator[tuple[Part, str, str, str, list[dict[str, Any]]]]:
        """Language and register, score, bound (least or most), side (kept or dropped), and the nearest documents."""
        for (language, register, name, bound, side), rows in self._near.groups():
            yield (language, register), name, bound, side, rows


def write_scores(path: Path, stages: Sequence[Scores]) -> None:
    """scores.json: what was counted, by each pass that measured scores of its own. Without spaces: it is long."""
    told = {"stages": [stage.to_json() for stage in stages]}
    write_text(path, json.dumps(told, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_scores(path: Path) -> list[Scores]:
    """What `write_scores` wrote."""
    return [Scores.from_json(stage) for stage in read_json(path)["stages"]]


def _described(document: Document, length: int) -> dict[str, Any]:
    reject = document.reject
    row = {
        "id": document.id,
        "source": document.source,
        "bytes": document.bytes,
        "text": excerpt(document.text, length),
    }
    return row | {"step": reject.step if reject else "", "reason": reject.reason if reject else ""}


def _rounded(value: float) -> float | None:
    """Six significant digits, and None for what JSON has no number for."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _outside(column: Floats, limit: Limit) -> NDArray[np.bool_]:
    low = column < (-math.inf if limit.least is None else limit.least)
    return np.asarray(low | (column > (math.inf if limit.most is None else limit.most)), bool)


def bounds(limit: Limit) -> list[float]:
    """Where passing begins, and where it ends: the next number after `most`."""
    least = [] if limit.least is None else [limit.least]
    return [*least, *([] if limit.most is None else [math.nextafter(limit.most, math.inf)])]


def _keys(column: Floats, cuts: Sequence[float]) -> NDArray[np.int64]:
    """Whole numbers in the order of the values: _SIDES times the bin, plus how many of the cuts lie at or before it."""
    assert len(cuts) < _SIDES
    bits = np.ascontiguousarray(np.abs(column)).view(np.int64)
    # Below zero bins end where those above begin, so that every bin holds its lower edge and not its upper one.
    bins = np.where(column < 0, -((bits - 1) >> _SHIFT) - 1, bits >> _SHIFT)
    return np.asarray(bins * _SIDES + np.searchsorted(np.array(cuts), column, side="right"), np.int64)


def _start(key: int, cuts: Sequence[float]) -> float:
    """The least value of the cell with this key."""
    place, side = divmod(key, _SIDES)
    (edge,) = struct.unpack("<d", (abs(place) << _SHIFT).to_bytes(8, "little"))
    edge = -edge if place < 0 else edge
    return max(edge, cuts[side - 1]) if side else edge
