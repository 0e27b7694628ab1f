"""Ratings that follow each vote as it arrives: one quasi-Newton step in place of a fit.

The sums that the likelihood needs (points and votes of each pair) are kept whole, so the gradient at the present
ratings is exact, and a vote costs O(m²) for m models: the inverse Hessian takes the vote in by Sherman & Morrison
(1950), as a Kalman filter does, and a step is that inverse times the gradient. Unlike a filter's, errors don't add up:
the next gradient sees what the last step left. Where that is more than SETTLED, Newton's method runs to the end, so
ratings are never further from a refit's than that; tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from qwill.base.errors import DataError
from qwill.evaluate.arena import POINTS, Names, Ratings, checked_votes, rated
from qwill.evaluate.arena_graph import comparability
from qwill.evaluate.arena_likelihood import Floats, sigmoid

SETTLED = 1e-4  # log-odds that the next step would still move a model: 0.02 rating points
STEPS = 100


@dataclass(frozen=True)
class LiveRatings:
    """`won` [i, j] points of i from j, `met` votes and `squares` Σ points² between the two; `strength` in log-odds,
    centred; `inverse` of the Hessian of the log-posterior with the common level fixed. `prior` is that of
    `arena.fit_ratings`, above 0: a model that has just joined has no votes."""

    models: list[str]
    won: Floats
    met: Floats
    squares: Floats
    strength: Floats
    inverse: Floats
    prior: float


def start_ratings(models: Sequence[str], prior: float = 0.1) -> LiveRatings:
    """All models at the same strength, before the first vote; DataError for fewer than two or a name twice."""
    if len(set(models)) < 2 or len(set(models)) < len(models):
        raise DataError(f"live ratings got the models {list(models)}; name at least two, each once.")
    if not 0 < prior < np.inf:
        raise DataError(f"live ratings got prior={prior}, expected above 0, such as 0.1.")
    m = len(models)
    table = np.zeros((m, m))
    return _settled(LiveRatings(sorted(models), table, table, table, np.zeros(m), np.eye(m), prior))


def live_ratings(
    model_a: Names, model_b: Names, outcome: ArrayLike, prior: float = 0.1, models: Sequence[str] = ()
) -> LiveRatings:
    """After many votes at once; `models` may name some that have none yet."""
    named, votes, _ = checked_votes(model_a, model_b, outcome, None, None, prior)
    state = start_ratings(sorted({*named, *models}), prior)
    place = np.array([state.models.index(name) for name in named])
    a, b, y = place[votes.a], place[votes.b], votes.outcome
    won, met, squares = (np.zeros_like(state.met) for _ in range(3))
    for one, other, points in ((a, b, y), (b, a, 1 - y)):
        np.add.at(won, (one, other), points)
        np.add.at(met, (one, other), 1.0)
        np.add.at(squares, (one, other), points**2)
    return _settled(replace(state, won=won, met=met, squares=squares))


def add_vote(state: LiveRatings, model_a: str, model_b: str, outcome: float) -> LiveRatings:
    """The state after one more vote; `outcome` 1 where a wins, 0 where b wins, 0.5 for a tie or both bad."""
    a, b = _place(state, model_a), _place(state, model_b)
    if a == b:
        raise DataError(f"a vote is of '{model_a}' against itself; drop it.")
    if not 0 <= outcome <= 1:
        raise DataError(f"a vote's outcome is {outcome}, expected 1 (a wins), 0 (b wins) or 0.5 (tie).")
    won, met, squares = state.won.copy(), state.met.copy(), state.squares.copy()
    for one, other, points in ((a, b, outcome), (b, a, 1 - outcome)):
        won[one, other] += points
        met[one, other] += 1
        squares[one, other] += points**2
    chance = float(sigmoid(state.strength[a] - state.strength[b]))
    column = state.inverse[:, a] - state.inverse[:, b]
    weight = chance * (1 - chance)
    inverse = state.inverse - np.outer(column, column) * (weight / (1 + weight * (column[a] - column[b])))
    moved = replace(state, won=won, met=met, squares=squares, inverse=inverse)
    moved = replace(moved, strength=_centred(moved.strength + inverse @ _gradient(moved)))
    return moved if np.abs(inverse @ _gradient(moved)).max() <= SETTLED else _settled(moved)


def add_model(state: LiveRatings, model: str) -> LiveRatings:
    """With one model more, which has no votes yet."""
    if model in state.models:
        raise DataError(f"'{model}' is rated already; a new model needs a name of its own.")
    models = sorted([*state.models, model])
    place = [models.index(name) for name in state.models]
    tables = []
    for old in (state.won, state.met, state.squares):
        new = np.zeros((len(models),) * 2)
        new[np.ix_(place, place)] = old
        tables.append(new)
    strength = np.zeros(len(models))
    strength[place] = state.strength
    won, met, squares = tables
    return _settled(LiveRatings(models, won, met, squares, strength, np.eye(len(models)), state.prior))


def ratings_now(state: LiveRatings, confidence: float = 0.95) -> Ratings:
    """Ratings and sandwich intervals: `arena.fit_ratings` of all votes with the same prior, to within SETTLED."""
    chance = _chance(state)
    # Σ (y - p)² of each pair from Σ y², Σ y and n.
    spread = state.squares - 2 * chance * state.won + chance**2 * state.met
    m, inverse = len(state.models), inverse_hessian(state)
    covariance = inverse @ (_laplacian(spread) + state.prior * np.eye(m)) @ inverse
    # Ratings are centred. The level is a direction of its own in every matrix here, and so a constant in this one.
    covariance = covariance - covariance.mean()
    found = comparability(state.models, state.won > 0)
    return rated(state.models, state.strength, POINTS**2 * covariance, found, np.zeros(0), state.prior, confidence)


def _settled(state: LiveRatings) -> LiveRatings:
    """At the maximum, by Newton's method; no step is longer than one unit of log-odds, within which it converges."""
    for _ in range(STEPS):
        inverse = inverse_hessian(state)
        step = inverse @ _gradient(state)
        size = float(np.abs(step).max())
        state = replace(state, strength=_centred(state.strength + step / max(1.0, size)), inverse=inverse)
        if size < SETTLED**2:
            return state
    raise DataError(f"live ratings did not settle in {STEPS} Newton steps; give a larger prior, such as 1.")


def _gradient(state: LiveRatings) -> Floats:
    gradient: Floats = (state.won - state.met * _chance(state)).sum(axis=1) - state.prior * state.strength
    return gradient


def inverse_hessian(state: LiveRatings) -> Floats:
    chance = _chance(state)
    # The prior alone fixes the common level, which no gradient moves: ratings are centred.
    hessian = _laplacian(state.met * chance * (1 - chance)) + state.prior * np.eye(len(state.models))
    return np.asarray(np.linalg.inv(hessian), dtype=np.float64)


def _chance(state: LiveRatings) -> Floats:
    return sigmoid(state.strength[:, None] - state.strength[None, :])


def _laplacian(value: Floats) -> Floats:
    laplacian: Floats = np.diag(value.sum(axis=1)) - value
    return laplacian


def _centred(strength: Floats) -> Floats:
    centred: Floats = strength - strength.mean()
    return centred


def _place(state: LiveRatings, model: str) -> int:
    try:
        return state.models.index(model)
    except ValueError:
        raise DataError(f"a vote names '{model}', which is not rated; add it with add_model.") from None
