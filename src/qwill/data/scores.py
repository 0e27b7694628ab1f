"""Distributions of every measured value, from which a threshold can be chosen after looking.

For each language, register and score: how many documents and bytes lie in each bin, apart for those that passed, those
that this score alone would drop, and those that something else drops as well. So it can be read off, exactly at every
edge of a bin and at the threshold itself, what a moved threshold would drop and what it would save. Beside it a sample
of documents with all their values, and the documents nearest to each threshold on both sides. All of it is decided by
the documents alone, and parts add up to the whole in any grouping and order.

Bins are those of the floating-point format: sixteen to an octave, so that shares, counts and probabilities need no
setting of their own; the bin that holds a threshold is cut there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.data.documents import Document
from qwill.data.sampling import Lowest, Rank, by_hash, excerpt

CLASSES = ("passed", "only_this", "others_too")
SAMPLE_EXCERPT = 240  # characters
NEAR_EXCERPT = 300
_SHIFT = 48  # leaves sign, exponent and four bits of the mantissa

Floats = NDArray[np.float64]
Part = tuple[str, str]  # language, register


@dataclass(frozen=True)
class Limit:
    """What passes: `least` <= value <= `most`; None is no bound, and both None a score that drops nothing.

    step: the step of the funnel that drops by it, by default the score's name before its first dot."""

    least: float | None = None
    most: float | None = None
    step: str = ""


@dataclass(frozen=True)
class Cell:
    """Values from `start` up to the next cell's start; documents and bytes of each of CLASSES."""

    start: float
    documents: tuple[int, int, int]
    bytes: tuple[int, int, int]


class Scores:
    """Counts values; `limits` has for each language and register every score that is to be counted.

    sample: documents of each language and register kept with all values; near: documents on either side of each
    threshold."""

    def __init__(self, limits: Mapping[Part, Mapping[str, Limit]], sample: int = 100, near: int = 3) -> None:
        self.limits = {part: dict(sorted(own.items())) for part, own in sorted(limits.items())}
        self._bins: dict[tuple[str, str, str], dict[int, list[int]]] = defaultdict(dict)
        self._sample = Lowest(sample)
        self._near = Lowest(near)

    def add(self, documents: Sequence[Document]) -> None:
        """Count documents once they have been judged: `scores` measured, `reject` set for those that go.

        A document of a language and register without limits is not counted, nor is a score that it lacks or that is
        not a number."""
        parts: dict[Part, list[Document]] = defaultdict(list)
        for document in documents:
            if (document.language, document.register) in self.limits and document.scores:
                parts[document.language, document.register].append(document)
        for part, own in parts.items():
            self._add(part, own)

    def _add(self, part: Part, documents: Sequence[Document]) -> None:
        limits = self.limits[part]
        values = np.array([[d.scores.get(name, math.nan) for name in limits] for d in documents], np.float64) + 0.0
        sizes = np.array([d.bytes for d in documents], np.float64)
        passed = np.array([d.reject is None for d in documents])
        fails = np.zeros(values.shape, bool)
        for j, limit in enumerate(limits.values()):
            fails[:, j] = _outside(values[:, j], limit)
        ranks = [by_hash(document.id) for document in documents]
        hashes = np.array([int(str(rank[0]), 16) for rank in ranks], np.uint64)
        single = ~passed & (fails.sum(axis=1) == 1)
        for j, (name, limit) in enumerate(limits.items()):
            column = values[:, j]
            step = limit.step or name.partition(".")[0]
            alone = single & fails[:, j]
            for i in np.flatnonzero(alone).tolist():
                reject = documents[i].reject
                alone[i] = reject is not None and reject.step == step
            classes = np.where(passed, 0, np.where(alone, 1, 2))
            self._count((*part, name), column, limit, classes, sizes)
            self._add_near((*part, name), limit, documents, ranks, hashes, column, passed, fails[:, j])
        for document, rank, row in zip(documents, ranks, values, strict=True):
            if self._sample.wants(part, rank):
                self._sample.add(
                    part, rank, _described(document, SAMPLE_EXCERPT) | {"values": [_rounded(v) for v in row]}
                )

    def _count(
        self, key: tuple[str, str, str], column: Floats, limit: Limit, classes: NDArray[Any], sizes: Floats
    ) -> None:
        known = ~np.isnan(column)
        if not known.any():
            return
        keys, place = np.unique(_keys(column[known], limit), return_inverse=True)
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
            "limits": [
                [*part, name, limit.least, limit.most, limit.step]
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
        for language, register, name, least, most, step in value["limits"]:
            limits[language, register][name] = Limit(least, most, step)
        result = cls(limits)
        for language, register, name, bins in value["bins"]:
            result._bins[language, register, name] = {key: row for key, *row in bins}
        result._sample = Lowest.from_json(value["sample"])
        result._near = Lowest.from_json(value["near"])
        return result

    def cells(self) -> Iterator[tuple[Part, str, list[Cell]]]:
        """Language and register, score, and its cells by ascending value."""
        for (language, register, name), bins in sorted(self._bins.items()):
            limit = self.limits[language, register][name]
            yield (
                (language, register),
                name,
                [
                    Cell(_start(key, limit), (row[0], row[1], row[2]), (row[3], row[4], row[5]))
                    for key, row in sorted(bins.items())
                ],
            )

    def sample(self) -> Iterator[tuple[Part, dict[str, Any]]]:
        """Documents by hash of id: id, source, bytes, text, step, reason, and `values` in the order of the limits."""
        for (language, register), rows in self._sample.groups():
            for row in rows:
                yield (language, register), row

    def near(self) -> Iterator[tuple[Part, str, str, str, list[dict[str, Any]]]]:
        """Language and register, score, bound (least or most), side (kept or dropped), and the nearest documents."""
        for (language, register, name, bound, side), rows in self._near.groups():
            yield (language, register), name, bound, side, rows


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


def _keys(column: Floats, limit: Limit) -> NDArray[np.int64]:
    """Whole numbers in the order of the values: three times the bin, plus how many bounds lie at or before it."""
    bits = np.ascontiguousarray(np.abs(column)).view(np.int64)
    # Below zero bins end where those above begin, so that every bin holds its lower edge and not its upper one.
    bins = np.where(column < 0, -((bits - 1) >> _SHIFT) - 1, bits >> _SHIFT)
    side = sum(((column >= bound).astype(np.int64) for bound in _bounds(limit)), np.zeros(len(column), np.int64))
    return np.asarray(bins * 3 + side, np.int64)


def _bounds(limit: Limit) -> list[float]:
    """Where passing begins, and where it ends: the next number after `most`."""
    least = [] if limit.least is None else [limit.least]
    return sorted([*least, *([] if limit.most is None else [math.nextafter(limit.most, math.inf)])])


def _start(key: int, limit: Limit) -> float:
    """The least value of the cell with this key."""
    place, side = divmod(key, 3)
    edge = float(np.array(abs(place) << _SHIFT, np.int64).view(np.float64))
    edge = -edge if place < 0 else edge
    return max(edge, _bounds(limit)[side - 1]) if side else edge
