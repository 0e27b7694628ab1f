"""Ratings with bootstrap intervals: the votes (or clusters of votes) are drawn again, and each draw is rated.

What is drawn is votes, each with its weight, and not weighted points (Efron 1979): a weight says how much a vote
counts, not how often it was cast. Without features a draw is a multinomial over the different (pair, outcome, weight),
so that it costs the same for a thousand votes and for millions; all draws are then fitted side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from qwill.base.errors import DataError
from qwill.evaluate.arena import CENTRE, POINTS, Names, Ratings, checked_votes, fit_ratings, ranks
from qwill.evaluate.arena_likelihood import (
    SMALL_STEP,
    Floats,
    Ints,
    Votes,
    maximise,
    numbered,
    sigmoid,
    sums,
)

# Of Newton's method. A draw without finite ratings moves a model by 1 in log-odds each step, and after 37 of them the
# gradient would be rounded to 0; one with finite ratings settles in a few.
STEPS = 25
LONGEST = 3.0  # step in log-odds
BLOCK = 1 << 23  # numbers in the Hessians that are solved side by side (64 MB)


def bootstrap_ratings(
    model_a: Names,
    model_b: Names,
    outcome: ArrayLike,
    features: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    prior: float = 0.0,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
    feature_ridge: float = 1.0,
) -> Ratings:
    """`arena.fit_ratings`, but covariance and standard errors are those of ratings of votes drawn with replacement.

    `lower` and `upper` are percentiles of the draws. With `clusters`, whole clusters are drawn. Same seed, same
    result. Raises DataError for what `fit_ratings` refuses, and where some draws lose what makes ratings finite, such
    as a model's only win.
    """
    if resamples < 2:
        raise DataError(f"bootstrap_ratings got resamples={resamples}, expected at least 2; use 1000.")
    found = fit_ratings(
        model_a, model_b, outcome, features, weights, prior=prior, confidence=confidence, feature_ridge=feature_ridge
    )
    _, votes, ridge = checked_votes(model_a, model_b, outcome, features, weights, prior, feature_ridge)
    start = np.concatenate([(found.rating - CENTRE) / POINTS, found.coefficients])
    generator = np.random.Generator(np.random.PCG64(seed))
    groups = None if clusters is None else numbered(clusters, len(votes.a))
    if votes.features.size:
        drawn = _rated_with_features(votes, ridge, start, groups, resamples, generator)
    else:
        drawn = _rated(votes, prior, start, groups, resamples, generator)
    if lost := int(np.isnan(drawn[:, 0]).sum()):
        raise DataError(
            f"in {lost} of {resamples} resamples a model won or lost every vote against the rest, or met nobody, so no "
            "finite rating fits; give a prior such as 0.1, or do without the bootstrap."
        )
    points = CENTRE + POINTS * drawn
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(points, [tail, 1 - tail], axis=0)
    covariance = np.atleast_2d(np.cov(points, rowvar=False))
    return replace(
        found,
        stderr=np.sqrt(np.diag(covariance)),
        lower=lower,
        upper=upper,
        rank=ranks(lower, upper),
        covariance=covariance,
    )


def fit_side_by_side(count: int, a: Ints, b: Ints, won: Floats, met: Floats, prior: float, start: Floats) -> Floats:
    """Strengths [R, count] of R sets of votes: `won` [R, pairs] points of a in `met` [R, pairs] votes with b.

    Each pair (a, b) stands once. Centred on 0; rows that have no finite maximum are NaN.
    """
    strength = np.empty((len(won), count))
    rows = max(1, BLOCK // count**2)
    for first in range(0, len(won), rows):
        some = slice(first, first + rows)
        strength[some] = _newton(count, a, b, won[some], met[some], prior, start)
    return strength


def _times(votes: Votes, groups: tuple[Ints, int] | None, generator: np.random.Generator) -> Ints:
    """How often each vote is drawn: one draw of as many votes, or clusters of votes, as there are."""
    if groups is None:
        return np.bincount(generator.integers(0, len(votes.a), len(votes.a)), minlength=len(votes.a))
    cluster, count = groups
    return np.bincount(generator.integers(0, count, count), minlength=count)[cluster]


def _rated(
    votes: Votes,
    prior: float,
    start: Floats,
    groups: tuple[Ints, int] | None,
    resamples: int,
    generator: np.random.Generator,
) -> Floats:
    """Strengths [resamples, models] of as many draws."""
    m = votes.count
    swap = votes.a > votes.b
    pair = np.where(swap, votes.b * m + votes.a, votes.a * m + votes.b)
    share = np.where(swap, 1 - votes.outcome, votes.outcome)
    met, pair = np.unique(pair, return_inverse=True)
    strength = np.empty((resamples, m))
    if groups is None:
        # Votes for the same pair with the same outcome and weight are one cell of a multinomial.
        shares, share_code = np.unique(share, return_inverse=True)
        weights, weight_code = np.unique(votes.weight, return_inverse=True)
        code = (pair * len(shares) + share_code) * len(weights) + weight_code
        cells, counts = np.unique(code, return_counts=True)
        cell_weight = weights[cells % len(weights)]
        cell_won = cell_weight * shares[cells // len(weights) % len(shares)]
        bounds = np.searchsorted(cells // (len(weights) * len(shares)), np.arange(len(met)))
    rows = max(1, BLOCK // max(m * m, len(met)))
    for first in range(0, resamples, rows):
        size = min(rows, resamples - first)
        if groups is None:
            drawn = generator.multinomial(len(pair), counts / len(pair), size=size)
            weight = np.add.reduceat(drawn * cell_weight, bounds, axis=1)
            won = np.add.reduceat(drawn * cell_won, bounds, axis=1)
        else:
            times = [_times(votes, groups, generator) * votes.weight for _ in range(size)]
            weight = np.stack([sums(pair, time, len(met)) for time in times])
            won = np.stack([sums(pair, time * share, len(met)) for time in times])
        strength[first : first + size] = fit_side_by_side(m, met // m, met % m, won, weight, prior, start)
    return strength


def _rated_with_features(
    votes: Votes,
    ridge: Floats,
    start: Floats,
    groups: tuple[Ints, int] | None,
    resamples: int,
    generator: np.random.Generator,
) -> Floats:
    """The same with features, where every vote is different: one draw after another."""
    strength = np.empty((resamples, votes.count))
    for row in strength:
        drawn = replace(votes, weight=votes.weight * _times(votes, groups, generator))
        try:
            found = maximise(drawn, ridge, start)[: votes.count]
        except (DataError, np.linalg.LinAlgError):
            found = np.full(votes.count, np.nan)
        row[:] = found - found.mean()
    return strength


def _newton(count: int, a: Ints, b: Ints, won: Floats, met: Floats, prior: float, start: Floats) -> Floats:
    strength = np.tile(start, (len(won), 1))
    left = np.arange(len(won))
    for _ in range(STEPS):
        chance = sigmoid(strength[left][:, a] - strength[left][:, b])
        gradient = _scattered(count, a, b, won[left] - met[left] * chance) - prior * strength[left]
        value, total = met[left] * chance * (1 - chance), met[left].sum(axis=1)
        step = _solved(_hessians(count, a, b, value, total, prior), gradient)
        size = np.abs(step).max(axis=1)
        strength[left] += step * np.minimum(1.0, LONGEST / np.maximum(size, LONGEST))[:, None]
        left = left[size > SMALL_STEP]
        if not left.size:
            break
    strength[left] = np.nan
    return strength - strength.mean(axis=1, keepdims=True)


def _solved(hessian: Floats, gradient: Floats) -> Floats:
    """Newton's steps; NaN where votes that were drawn leave a model out, or too far off to be told how far."""
    try:
        return np.asarray(np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0], dtype=np.float64)
    except np.linalg.LinAlgError:
        if len(hessian) == 1:
            return np.full_like(gradient, np.nan)
        halves = np.array_split(np.arange(len(hessian)), 2)
        return np.concatenate([_solved(hessian[half], gradient[half]) for half in halves])


def _hessians(count: int, a: Ints, b: Ints, value: Floats, total: Floats, prior: float) -> Floats:
    """Of each set, with the common level fixed as `arena_likelihood.gauge` does."""
    hessian = np.zeros((len(value), count, count))
    hessian[:, a, b] = hessian[:, b, a] = -value
    diagonal = np.arange(count)
    hessian[:, diagonal, diagonal] = prior - hessian.sum(axis=2)
    return hessian + (total / count**2)[:, None, None]


def _scattered(count: int, a: Ints, b: Ints, value: Floats) -> Floats:
    """Sums over pairs of what a gains and b loses: [R, pairs] to [R, count]."""
    table = np.zeros((len(value), count, count))
    table[:, a, b] = value
    gained: Floats = table.sum(axis=2) - table.sum(axis=1)
    return gained
