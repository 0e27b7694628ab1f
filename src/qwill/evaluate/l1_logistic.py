"""Logistic regression on one feature and a constant with an L1 penalty on both, as liblinear fits it.

Minimises |a| + |b| + C·Σ cross-entropy(y, σ(a·x + b)) by the improved GLMNET of Yuan, Ho & Lin (2012, JMLR 13:
coordinate descent on quadratic models, variables left out while they stay at 0, a line search), with liblinear's order
of coordinates and its rules for when to stop. Those stop up to 5e-4 short of the optimum (as σ(b)), and what
cross-validation chooses among such fits can turn on that: to say what alpaca_eval says, one must stop where it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOLERANCE = 1e-4  # scikit-learn's default
OUTER, INNER, HALVINGS = 100, 1000, 20
DECREASE = 0.01  # share of the promised decrease that a step must bring
NU = 1e-12  # added to the curvature
STILL = 10  # outer rounds in which nothing moved, after which it ends
STATE = 123  # alpaca_eval's random_state
MOST_FITS = 16  # in one path of strengths


class L1Fit(NamedTuple):
    a: float
    b: float
    settled: bool  # within OUTER rounds


def fit_l1_logistic(x: Floats, y: Floats, strengths: Sequence[float]) -> list[L1Fit]:
    """The fit for features `x` [n], targets `y` [n] in [0, 1] and each of the data's `strengths` C against the penalty.

    The i-th fit has the i-th seed that scikit-learn draws for a path of strengths.
    """
    if len(strengths) > MOST_FITS:
        raise ValueError(f"at most {MOST_FITS} strengths, not {len(strengths)}")
    features = np.stack([x, np.ones_like(x)])
    with np.errstate(all="ignore"):  # an exponential that overflows fails the line search
        return [_fit(features, y, strength, _swaps(i)) for i, strength in enumerate(strengths)]


def _fit(features: Floats, y: Floats, strength: float, swaps: list[int]) -> L1Fit:
    wins, losses = int(np.sum(y > 0)), int(np.sum(y < 1))  # a share of a win is a win and a loss, weighted
    rows = wins + losses
    tolerance = TOLERANCE * max(min(wins, losses), 1) / rows
    place = 0
    weights, target = [0.0, 0.0], [0.0, 0.0]
    odds = np.ones_like(y)  # e^(a·x + b)
    order, still, inner_tolerance = [0, 1], 0, 1.0
    first_violation, last_worst = -1.0, np.inf
    for outer in range(OUTER):
        missed = 1 / (1 + odds)
        curvature = strength * odds * missed**2
        hessian = (features * curvature) @ features.T
        slope = (features @ (strength * (1 - y - missed))).tolist()
        total, worst, active, s = 0.0, 0.0, 2, 0
        while s < active:
            j = order[s]
            violation = _violation(weights[j], slope[j], last_worst / rows)
            if violation is None:
                active -= 1
                order[s], order[active] = order[active], order[s]
                continue
            worst, total, s = max(worst, violation), total + violation, s + 1
        if outer == 0:
            first_violation = total
        if total <= tolerance * first_violation or still >= STILL:
            return L1Fit(weights[0], weights[1], True)
        still += 1
        # Coordinate descent on the quadratic model around `weights`.
        step = [0.0, 0.0]
        worst_before, quick, rounds = np.inf, active, 0
        while rounds < INNER:
            inner_total, inner_worst, s = 0.0, 0.0, 0
            for j in range(quick):
                i = j
                if quick - j > 1:
                    i = j + swaps[place % len(swaps)]
                place += 1
                order[i], order[j] = order[j], order[i]
            while s < quick:
                j = order[s]
                own = hessian[j, j] + NU
                g = slope[j] + (target[j] - weights[j]) * NU + hessian[j, 0] * step[0] + hessian[j, 1] * step[1]
                violation = _violation(target[j], g, worst_before / rows)
                if violation is None:
                    quick -= 1
                    order[s], order[quick] = order[quick], order[s]
                    continue
                s += 1
                if g + 1 < own * target[j]:
                    move = -(g + 1) / own
                elif g - 1 > own * target[j]:
                    move = -(g - 1) / own
                else:
                    move = -target[j]
                if abs(move) < 1e-12:
                    continue
                move = min(max(move, -10.0), 10.0)
                still, inner_total, inner_worst = 0, inner_total + violation, max(inner_worst, violation)
                target[j] += move
                step[j] += move
            rounds += 1
            if inner_total <= inner_tolerance * first_violation:
                if quick == active:
                    break
                quick, worst_before = active, np.inf
                continue
            worst_before = inner_worst
        weights, target, odds = _line_search(features, y, strength, weights, target, step, slope, odds)
        if rounds == 1:
            inner_tolerance *= 0.25
        last_worst = worst
    return L1Fit(weights[0], weights[1], False)


def _violation(weight: float, slope: float, margin: float) -> float | None:
    """How far a coordinate is from optimal; None for one at 0 that is safely so, and is left out for a while."""
    up, down = slope + 1, slope - 1
    if weight > 0:
        return abs(up)
    if weight < 0:
        return abs(down)
    if up < 0:
        return -up
    if down > 0:
        return down
    return None if up > margin and down < -margin else 0.0


def _line_search(
    features: Floats, y: Floats, strength: float, weights: list[float], target: list[float], step: list[float],
    slope: list[float], odds: Floats,
) -> tuple[list[float], list[float], Floats]:  # fmt: skip
    """The step, halved until it brings its share of the promised decrease; the old place if it never does. Gives the
    weights, the target from which the next quadratic model starts, and the odds."""
    norm, reached = abs(weights[0]) + abs(weights[1]), abs(target[0]) + abs(target[1])
    promised = sum(g * (t - w) for g, t, w in zip(slope, target, weights, strict=True)) + reached - norm
    change = step[0] * features[0] + step[1] * features[1]
    lost = strength * float((1 - y) @ change)
    for _ in range(HALVINGS):
        factor = np.exp(change)
        moved = odds * factor
        gained = strength * float(np.sum(np.log((1 + moved) / (factor + moved))))
        if reached - norm + lost - DECREASE * promised + gained <= 0:
            return target, list(target), moved
        target = [(w + t) * 0.5 for w, t in zip(weights, target, strict=True)]
        reached = abs(target[0]) + abs(target[1])
        promised, lost, change = promised * 0.5, lost * 0.5, change * 0.5
    return weights, target, np.exp(weights[0] * features[0] + weights[1] * features[1])


@cache
def _swaps(fit: int) -> list[int]:
    """The choices between two coordinates that liblinear's generator makes in the fit: top bits of MT19937."""
    seeds = np.random.RandomState(STATE).randint(2**31 - 1, size=MOST_FITS)
    drawn = np.random.RandomState(seeds[fit]).randint(0, 2**32, 1 << 14, dtype=np.uint32)
    return [int(bit) for bit in drawn >> 31]
