"""Which ids a token could be, after truncation and masks: few of a large vocabulary, or nearly all of it. Held as
rising ranges (first id, last + 1), two int32 each, so that neither case takes much memory.

Shape letters: B rows, R ranges, P pairs of a row and an id, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ranges = NDArray[np.int32]  # [R, 2], of one token


def ranges_of(row_P: NDArray[np.int64], id_P: NDArray[np.int64], rows: int) -> list[Ranges]:
    """Each row's ids as ranges, from pairs sorted by row and then by id."""
    new_P = np.ones(len(id_P), dtype=bool)
    new_P[1:] = (np.diff(id_P) != 1) | (np.diff(row_P) != 0)
    first_R = np.flatnonzero(new_P)
    last_R = np.append(first_R[1:], len(id_P)) - 1 if len(id_P) else first_R
    ranges_R2 = np.stack((id_P[first_R], id_P[last_R] + 1), axis=1).astype(np.int32)
    counts_B = np.bincount(row_P[first_R], minlength=rows)
    return np.split(ranges_R2, counts_B.cumsum()[:-1])


def one_range(first: int, end: int) -> Ranges:
    return np.array([[first, end]], dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Support:
    """What each of N tokens was drawn among: `counts_N` ranges each of `ranges_R2`, end to end."""

    ranges_R2: Ranges
    counts_N: NDArray[np.int32]

    @classmethod
    def of(cls, tokens: Sequence[Ranges]) -> Support:
        ranges_R2 = np.concatenate(tokens) if tokens else np.empty((0, 2), dtype=np.int32)
        return cls(ranges_R2, np.array([len(ranges) for ranges in tokens], dtype=np.int32))

    @classmethod
    def join(cls, parts: Iterable[Support]) -> Support:
        parts = list(parts)
        return cls(np.concatenate([p.ranges_R2 for p in parts]), np.concatenate([p.counts_N for p in parts]))

    def __len__(self) -> int:
        return len(self.counts_N)

    @property
    def sizes_N(self) -> NDArray[np.int64]:
        """How many ids each token was drawn among."""
        below_R = np.append(0, np.diff(self.ranges_R2, axis=1)[:, 0].astype(np.int64).cumsum())
        borders_N = np.append(0, self.counts_N.cumsum(dtype=np.int64))
        return np.diff(below_R[borders_N])

    def __getitem__(self, part: slice) -> Support:
        """Some neighbouring tokens'."""
        first, last, _ = part.indices(len(self))
        borders = np.append(0, self.counts_N.cumsum(dtype=np.int64))
        return Support(self.ranges_R2[borders[first] : borders[last]], self.counts_N[first:last])

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(token [P], id [P]) of every id that every token was drawn among, rising."""
        sizes_R = np.diff(self.ranges_R2, axis=1)[:, 0].astype(np.int64)
        below_R = sizes_R.cumsum() - sizes_R
        token_R = np.repeat(np.arange(len(self)), self.counts_N)
        return np.repeat(token_R, sizes_R), np.arange(sizes_R.sum()) + np.repeat(
            self.ranges_R2[:, 0] - below_R, sizes_R
        )
