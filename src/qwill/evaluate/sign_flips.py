"""The sign-flip test: are two models' scores on the same examples apart by more than chance, whatever the scores are?

Under "equally good" the two models may be swapped on each example, or on each cluster of them, which flips the sign
of its difference d. p is the share of all choices of signs whose sum is at least as far from zero as the one found
(Fisher 1935, section 21): an exact test, where the bootstrap's p is right only for many examples. With too many to
try them all, signs are drawn, and the signs found are counted among them, p = (1 + hits)/(1 + draws), which keeps the
test exact (Phipson & Smyth 2010). Where only the mean of d is 0 and its law is not symmetric, the test is right for
many examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError

TRIED = 16  # differences other than 0 up to which all 2^n signs are tried
DRAWS = 9_999  # else so many are drawn: with the signs found, 10,000
BLOCK = 1 << 24  # signs drawn at once
# Sums that are equal but for rounding are as far from zero as each other; of the sum of all |d|.
ROUNDING = 1e-12

Floats = NDArray[np.float64]


def sign_flips(differences: Sequence[float], seed: int = 0, draws: int = DRAWS) -> tuple[float, bool]:
    """(two-sided p-value, whether all signs were tried) of differences, one an example or a cluster's sum.

    Differences of 0 say nothing and change nothing: with none but those p is 1. The smallest p that n others can reach
    is 2/2^n. Same seed, same result. DataError for what is no finite number, a negative seed or no draws.
    """
    given = np.asarray(differences, dtype=np.float64)
    if given.ndim != 1 or not np.isfinite(given).all():
        raise DataError("a sign-flip test got a difference that is no finite number; repair or drop that example.")
    if draws < 1 or seed < 0:
        raise DataError(f"a sign-flip test got draws={draws}, seed={seed}, expected 1 or more and 0 or more.")
    told = np.abs(given[given != 0])
    if not len(told):
        return 1.0, True
    told = told / told.max()  # so that nothing overflows
    far = abs(float(np.sum(np.sign(given[given != 0]) * told))) - ROUNDING * float(told.sum())
    if len(told) <= TRIED:
        return float(np.mean(np.abs(_all_sums(told)) >= far)), True
    generator = np.random.Generator(np.random.PCG64([seed, len(told)]))
    hits, rows = 0, max(1, BLOCK // len(told))
    for start in range(0, draws, rows):
        sums = _drawn_sums(told, min(rows, draws - start), generator)
        hits += int(np.sum(np.abs(sums) >= far))
    return (1 + hits) / (1 + draws), False


def _all_sums(sizes: Floats) -> Floats:
    """The sums under all signs; the first one's is left as it is, since turning all signs turns only the sum's."""
    sums = sizes[:1]
    for size in sizes[1:]:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def _drawn_sums(sizes: Floats, count: int, generator: np.random.Generator) -> Floats:
    n = len(sizes)
    drawn = np.frombuffer(generator.bytes(count * ((n + 7) // 8)), dtype=np.uint8).reshape(count, -1)
    ups = np.unpackbits(drawn, axis=1, count=n).astype(np.float32 if _whole(sizes) else np.float64)
    sums: Floats = 2.0 * (ups @ sizes.astype(ups.dtype)).astype(np.float64) - sizes.sum()
    return sums


def _whole(sizes: Floats) -> bool:
    """Whether sums of these are exact in float32: all the same size, so that sums are counts."""
    return bool((sizes == 1).all()) and len(sizes) < 1 << 24
