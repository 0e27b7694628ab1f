"""The likelihood behind the ratings: log-odds, scores, Hessian, its maximum, and sums of scores over clusters."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEWTON_STEPS = 100
# Newton's error squares at each step: behind a step this small lies an error far below 1e-9 rating points.
SMALL_STEP = 1e-9
CLUSTER_BLOCK = 1 << 22


@dataclass(frozen=True)
class Votes:
    """Votes for `a` against `b` (indices): `outcome` in [0, 1], `weight`, and `features` [votes, F]."""

    count: int  # of models
    a: Ints
    b: Ints
    outcome: Floats
    weight: Floats
    features: Floats

    def log_odds(self, parameters: Floats) -> Floats:
        odds: Floats = parameters[self.a] - parameters[self.b] + self.features @ parameters[self.count :]
        return odds

    def score(self, residual: Floats) -> Floats:
        """Σ residual·z for z = ∂(log-odds)/∂(parameters): the gradient of the log-likelihood."""
        return np.concatenate([self._net(residual), residual @ self.features])

    def moment(self, value: Floats) -> Floats:
        """Σ value·zzᵀ: the Hessian and the spread of the scores both have this form."""
        m, size = self.count, self.count + self.features.shape[1]
        met = sums(self.a * m + self.b, value, m * m).reshape(m, m)
        pairs = met + met.T
        result = np.zeros((size, size))
        result[:m, :m] = np.diag(pairs.sum(axis=1)) - pairs
        for column in range(m, size):
            weighted = value * self.features[:, column - m]
            result[:m, column] = result[column, :m] = self._net(weighted)
            result[column, m:] = weighted @ self.features
        return result

    def _net(self, value: Floats) -> Floats:
        """For each model, what the votes in which it stands first add less what those in second place
        take."""
        return sums(self.a, value, self.count) - sums(self.b, value, self.count)


def merged(votes: Votes) -> Votes:
    """One weighted vote for each pair that met; without features the likelihood is the same."""
    m = votes.count
    swap = votes.a > votes.b
    pair = np.where(swap, votes.b * m + votes.a, votes.a * m + votes.b)
    won = votes.weight * np.where(swap, 1 - votes.outcome, votes.outcome)
    weight = sums(pair, votes.weight, m * m)
    met = np.flatnonzero(weight)
    share = sums(pair, won, m * m)[met] / weight[met]
    return Votes(m, met // m, met % m, share, weight[met], np.zeros((len(met), 0)))


def maximise(votes: Votes, ridge: Floats, start: Floats | None = None) -> Floats:
    """Newton's method with step halving on the log-likelihood less ridge/2·parameters², which is concave."""
    level = gauge(votes, float(votes.weight.sum()))

    def value_at(parameters: Floats) -> float:
        odds = votes.log_odds(parameters)
        likelihood = votes.weight @ (votes.outcome * odds - np.logaddexp(0.0, odds))
        return float(likelihood - 0.5 * ridge @ parameters**2)

    parameters = np.zeros(len(ridge)) if start is None else start
    value = value_at(parameters)
    for _ in range(NEWTON_STEPS):
        chance = sigmoid(votes.log_odds(parameters))
        gradient = votes.score(votes.weight * (votes.outcome - chance)) - ridge * parameters
        hessian = votes.moment(votes.weight * chance * (1 - chance)) + np.diag(ridge)
        step = np.linalg.solve(hessian + level, gradient)
        size = float(np.abs(step).max())
        # Rounding makes the last steps look like tiny losses; below SMALL_STEP a step needs no proof.
        while size > SMALL_STEP and value_at(parameters + step) < value - 1e-12 * abs(value):
            step, size = step / 2, size / 2
        parameters = parameters + step
        if size <= SMALL_STEP:
            return parameters
        value = value_at(parameters)
    raise DataError(f"the ratings did not settle in {NEWTON_STEPS} Newton steps; give a prior such as 0.1.")


def clustered_spread(votes: Votes, residual: Floats, clusters: Sequence[object]) -> Floats:
    """Σ ssᵀ over clusters for s the summed score of a cluster, times C/(C-1) (Liang & Zeger 1986)."""
    cluster, count = numbered(clusters, len(residual))
    m, width = votes.count, votes.count + votes.features.shape[1]
    order = np.argsort(cluster, kind="stable")
    rows = max(1, min(count, CLUSTER_BLOCK // width))
    bounds = np.searchsorted(cluster[order], np.arange(0, count + rows, rows))
    spread = np.zeros((width, width))
    for first, (start, stop) in enumerate(pairwise(bounds)):
        pick = order[start:stop]
        place = (cluster[pick] - first * rows) * m
        scores = np.zeros((rows, width))
        for models, sign in ((votes.a, 1.0), (votes.b, -1.0)):
            scores[:, :m] += sums(place + models[pick], sign * residual[pick], rows * m).reshape(rows, m)
        for column in range(m, width):
            values = residual[pick] * votes.features[pick, column - m]
            scores[:, column] = sums(place // m, values, rows)
        spread += scores.T @ scores
    return spread * count / (count - 1)


def numbered(clusters: Sequence[object], votes: int) -> tuple[Ints, int]:
    """Each vote's cluster as a number from 0, and how many clusters there are."""
    if len(clusters) != votes:
        raise DataError(f"got {votes} votes and {len(clusters)} clusters; give one cluster for each vote.")
    seen: dict[object, int] = {}
    cluster = np.fromiter((seen.setdefault(name, len(seen)) for name in clusters), np.int64)
    if len(seen) < 2:
        raise DataError("all votes are in one cluster, expected at least two; there is no spread to measure.")
    return cluster, len(seen)


def gauge(votes: Votes, scale: float) -> Floats:
    """Fixes the common level, which no vote tells; gradients sum to zero over models, so nothing else
    moves."""
    level = np.zeros((votes.count + votes.features.shape[1],) * 2)
    level[: votes.count, : votes.count] = scale / votes.count**2
    return level


def sums(index: Ints, values: Floats, size: int) -> Floats:
    """Sum of the values at each index in [0, size)."""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64, copy=False)


def sigmoid(odds: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * odds))
