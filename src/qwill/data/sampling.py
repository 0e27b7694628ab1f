"""Samples that depend on the documents alone: of every group the rows of lowest rank, whatever the order they came in
and however the work was divided. Two samples merge into that of all their documents."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

EXCERPT = 600  # characters of a sampled text

Group = tuple[str, ...]
Rank = tuple[float | str, ...]


def by_hash(name: str) -> Rank:
    """A rank that has nothing to do with the content: the hash of an id, then the id."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(), name


def excerpt(text: str, length: int = EXCERPT) -> str:
    """The first `length` characters, as text that a file can hold: a lone surrogate becomes `?`."""
    return text[:length].encode("utf-8", "replace").decode()


class Lowest:
    """Up to `each` rows of every group, those of lowest rank, no `text` twice in a group.

    Rows are plain data; of two with the same text the one of lower rank stands for both. Ranks of one sample have the
    same number and types of members. Merging is associative and commutative."""

    def __init__(self, each: int) -> None:
        self.each = each
        self._groups: dict[Group, list[tuple[Rank, dict[str, Any]]]] = defaultdict(list)

    def wants(self, group: Group, rank: Rank) -> bool:
        """Whether a row of this rank might enter; saves making rows that would not."""
        held = self._groups.get(group, [])
        return len(held) < self.each or (self.each > 0 and rank < held[-1][0])

    def add(self, group: Group, rank: Rank, row: Mapping[str, Any]) -> None:
        if self.wants(group, rank):
            self._put(group, [*self._groups[group], (rank, dict(row))])

    def merge(self, other: Lowest) -> None:
        """Take in the rows of `other`, which sampled other documents with the same `each`."""
        assert self.each == other.each, (self.each, other.each)
        for group, rows in other._groups.items():
            self._put(group, self._groups[group] + rows)

    def _put(self, group: Group, rows: list[tuple[Rank, dict[str, Any]]]) -> None:
        first = dict[Any, tuple[Rank, dict[str, Any]]]()
        for rank, row in sorted(rows, key=lambda pair: pair[0]):
            first.setdefault(row.get("text", rank), (rank, row))
        self._groups[group] = list(first.values())[: self.each]

    def groups(self) -> Iterator[tuple[Group, list[dict[str, Any]]]]:
        """Every group in order of its name, rows by rank."""
        for group in sorted(self._groups):
            yield group, [row for _, row in self._groups[group]]

    def rows(self) -> list[dict[str, Any]]:
        return [row for _, rows in self.groups() for row in rows]

    def to_json(self) -> dict[str, Any]:
        rows = [
            [list(group), [[list(rank), row] for rank, row in held]] for group, held in sorted(self._groups.items())
        ]
        return {"each": self.each, "groups": rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lowest:
        result = cls(value["each"])
        for group, held in value["groups"]:
            result._groups[tuple(group)] = [(tuple(rank), row) for rank, row in held]
        return result
