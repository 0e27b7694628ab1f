"""Which numbers of a whole parameter one rank holds.

A rank's shard is, along each dimension, a list of ranges of the whole: several where the parameter is made of parts
that are each cut (q, k, v of a fused projection), put end to end. Cutting again cuts what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

Range = tuple[int, int]  # (first, length)
Ranges = tuple[tuple[Range, ...], ...]  # of each dimension


@dataclass(frozen=True)
class Cut:
    """One dimension cut over axes of the mesh: each of `parts` (sizes in the whole) evenly; without parts as FSDP2 does
    it, in pieces of ceil(size / ranks), the last ones shorter or empty."""

    axes: tuple[str, ...]
    dim: int
    parts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Box:
    """A block of the whole parameter: its first index and shape, and its place in the rank's own tensor."""

    at: tuple[int, ...]
    shape: tuple[int, ...]
    local: tuple[slice, ...]


def ranges_of(shape: Sequence[int], cuts: Sequence[Cut], place: Mapping[str, int], sizes: Mapping[str, int]) -> Ranges:
    """What the rank at `place` holds of a parameter of `shape` after `cuts`, in their order."""
    ranges: list[tuple[Range, ...]] = [((0, n),) for n in shape]
    for cut in cuts:
        rank, ranks = 0, 1
        for axis in cut.axes:
            rank, ranks = rank * sizes[axis] + place[axis], ranks * sizes[axis]
        held = length(ranges[cut.dim])
        pieces: list[Range] = []
        if cut.parts is None:
            size = -(-held // ranks)
            pieces.append((min(held, size * rank), min(held, size * (rank + 1))))
        else:
            start = 0
            for part in cut.parts:
                pieces.append((start + part // ranks * rank, start + part // ranks * (rank + 1)))
                start += part
        ranges[cut.dim] = tuple(r for first, last in pieces for r in _between(ranges[cut.dim], first, last))
    return tuple(ranges)


def length(ranges: Sequence[Range]) -> int:
    return sum(n for _, n in ranges)


def shape_of(ranges: Ranges) -> tuple[int, ...]:
    return tuple(map(length, ranges))


def boxes(ranges: Ranges) -> Iterator[Box]:
    """The blocks that the ranges of all dimensions span; none where one of them is empty."""
    sides: list[list[tuple[int, int, slice]]] = []
    for dim in ranges:
        side, start = [], 0
        for first, size in dim:
            side.append((first, size, slice(start, start + size)))
            start += size
        sides.append([s for s in side if s[1]])
    for chosen in product(*sides):
        yield Box(tuple(c[0] for c in chosen), tuple(c[1] for c in chosen), tuple(c[2] for c in chosen))


def _between(ranges: Sequence[Range], first: int, last: int) -> Iterator[Range]:
    """The part [first, last) of ranges put end to end."""
    start = 0
    for at, size in ranges:
        a, b = max(first, start), min(last, start + size)
        if a < b:
            yield at + a - start, b - a
        start += size
