"""How strongly votes on one model speak for a ring among their voters: likelihood ratios that are e-values.

An honest voter v has a taste t for the model, which shifts the log-odds of each of their votes on it. All of a group
may share a shift s besides (a household, a prompt that one model gets wrong; of the whole crowd, what a ring has moved
the ratings by). Of votes with a winner, with the log-odds x that the ratings give and y = ±1 for won or lost:

    honest   P_v(votes | s, τ) = ∫ f(t; τ) ∏_i sigmoid(y_i (x_i + s + t)) dt
    ring     Q(votes) = mean over s, π, ρ of ∏_v [(1 − π) P_v(votes | s, τ') + π ρ^won (1 − ρ)^lost]

f: a normal law of standard deviation τ, 5 % of it far wider (people with strong tastes). τ' is what the votes on all
other models suggest. Q is compared with the honest law that explains the votes best: with τ up to CAP times τ', since
one model may divide people more than others do; of the crowd with the likeliest s, of other groups with the mean over
s ~ N(0, σ²). The ratio is then an e-value: with honest voters its mean is at most 1, so that it exceeds c with a chance
of at most 1/c (Markov), for any number of voters and votes (Wasserman, Ramdas & Balakrishnan 2020, "Universal
inference", arXiv 1912.11436; Vovk & Wang 2021, "E-values", arXiv 1912.06116).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEP = 0.25
GRID: Floats = np.arange(-26.0, 27.0) * STEP  # tastes, in log-odds
SHIFTS: Floats = np.arange(-8.0, 9.0) * STEP  # what a group shares
MIDDLE = len(SHIFTS) // 2
MOVED = 4  # steps that a ring may have moved the ratings by
TASTES = np.array([0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7])
FANS, FAN_TASTE = 0.05, 1.5  # share of honest voters with a strong taste, and the least of its standard deviation
LOYAL = (0.98, 0.9, 0.8)  # how often accounts of a ring vote as they should
CAP, LEAST_CAP = 2.0, 0.45


@dataclass(frozen=True)
class Groups:
    """Groups of units: those of group i are `order[starts[i]:ends[i]]`. `shared`: standard deviation σ of the shift
    that honest members share, None for the whole crowd; `ring`: shares π of members that a ring may have."""

    order: Ints
    starts: Ints
    ends: Ints
    shared: float | None
    ring: tuple[float, ...]


@dataclass(frozen=True)
class Cells:
    """Votes on one model, by unit (a voter, or a voter at an address): log-likelihoods [unit, GRID] of honest ones."""

    likelihood: Floats
    won: Floats
    lost: Floats


def cells_of(unit: Ints, log_odds: Floats, won: NDArray[np.bool_], count: int) -> Cells:
    """Of `count` units; a vote each row of the arrays."""
    sign = np.where(won, 1.0, -1.0)
    table = np.empty((count, len(GRID)))
    for column, taste in enumerate(GRID):
        table[:, column] = np.bincount(unit, -np.logaddexp(0.0, -sign * (log_odds + taste)), count)
    wins = np.bincount(unit, won.astype(np.float64), count).astype(np.float64)
    return Cells(table, wins, np.bincount(unit, minlength=count) - wins)


def honest(cells: Cells, shifts: Floats = SHIFTS, tastes: int = len(TASTES)) -> Floats:
    """log P_v [the first `tastes` of TASTES, shifts, unit]."""
    top = cells.likelihood.max(axis=1, keepdims=True)
    weights = np.stack([[_law(GRID - shift, taste, FANS) for shift in shifts] for taste in TASTES[:tastes]])
    weights /= weights.sum(axis=-1, keepdims=True)
    mean = np.einsum("tsk,vk->tsv", weights, np.exp(cells.likelihood - top), optimize=True)
    found: Floats = np.log(np.maximum(mean, 1e-300)) + top[:, 0]
    return found


def loyal(cells: Cells, towards: int) -> Floats:
    """log of what the votes of ring accounts are likely to be [LOYAL, unit], for (1) or against (-1) the model."""
    for_it, against = (cells.won, cells.lost) if towards > 0 else (cells.lost, cells.won)
    return np.stack([for_it * math.log(rate) + against * math.log(1 - rate) for rate in LOYAL])


def allowed(taste: int) -> int:
    """How many of TASTES are looked at as a model's own, where other models have that one."""
    return int(np.searchsorted(TASTES, max(LEAST_CAP, CAP * TASTES[taste]) + 1e-9, side="right"))


def evidence(
    groups: Groups, table: Floats, cells: Cells, towards: int, taste: int
) -> tuple[Floats, Sequence[Callable[[Ints], Floats]]]:
    """log E of each group for a ring for (1) or against (-1) the model; for each group a function that gives its
    members' posterior probabilities to be of the ring. table: `honest` of the cells."""
    most = allowed(taste)
    if groups.shared is None:
        # A ring that moves ratings up makes honest voters look as if they had all turned against the model.
        moved = [MIDDLE - towards * step for step in range(MOVED + 1)]
        sums = [_sums(table[:most, MIDDLE + step], groups) for step in range(-MOVED, MOVED + 1)]
        lower = np.concatenate(sums).max(axis=0)
    else:
        moved = [MIDDLE]
        law = _law(SHIFTS, groups.shared)
        sums = [_sums(table[:most, place], groups) + math.log(weight) for place, weight in enumerate(law / law.sum())]
        lower = _log_sum(np.stack(sums)).max(axis=0)
    ring = loyal(cells, towards)
    any_rate = _log_sum(ring) - math.log(len(ring))  # one account of a ring may do as told less often than others
    numerator, laws = [], []
    for place in moved:
        for share in groups.ring:
            for row in ring:
                plain = math.log(1 - share) + table[taste, place]
                numerator.append(_sums(np.logaddexp(math.log(share) + row, plain)[None], groups)[0])
                laws.append((math.log(share) + any_rate, plain))
    found = np.stack(numerator)

    def posterior(best: int) -> Callable[[Ints], Floats]:
        of_ring, plain = laws[best]
        return lambda members: 1 / (1 + np.exp(np.clip(plain[members] - of_ring[members], -700, 700)))

    return _log_sum(found) - math.log(len(found)) - lower, [posterior(best) for best in found.argmax(axis=0).tolist()]


def _law(x: Floats, deviation: float, fans: float = 0.0) -> Floats:
    """Densities times STEP, which sum to 1 over an even grid that holds nearly all of it."""

    def normal(width: float) -> Floats:
        found: Floats = np.exp(-0.5 * (x / width) ** 2) * (STEP / (width * math.sqrt(2 * math.pi)))
        return found

    return (1 - fans) * normal(deviation) + (fans * normal(max(FAN_TASTE, 2 * deviation)) if fans else 0.0)


def _sums(values: Floats, groups: Groups) -> Floats:
    """Sums over each group's units, along the last axis."""
    running = np.zeros((len(values), len(groups.order) + 1))
    np.cumsum(values[:, groups.order], axis=1, out=running[:, 1:])
    found: Floats = running[:, groups.ends] - running[:, groups.starts]
    return found


def _log_sum(values: Floats) -> Floats:
    top = values.max(axis=0)
    found: Floats = top + np.log(np.exp(values - top).sum(axis=0))
    return found
