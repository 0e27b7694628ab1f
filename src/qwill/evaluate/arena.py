"""Ratings of models from pairwise votes, as LMArena computes them: Bradley–Terry with honest intervals.

P(a beats b) = 1/(1 + exp(r_b - r_a)) (Bradley & Terry 1952), fitted by weighted maximum likelihood, a tie
being half a win; shown as 1000 + 400/ln 10 · r, centred on 1000, with Huber's sandwich covariance H⁻¹BH⁻¹
(White 1982) that stays right where votes don't follow the model (ties do not). Style control (LMArena 2024)
adds features of the two replies to the log-odds. Equal to arena-rank 0.1.1 (tests/oracles), in NumPy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwill.base.errors import DataError
from qwill.evaluate.arena_graph import Comparability, comparability, refuse_incomparable
from qwill.evaluate.statistics import normal_quantile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Names = Sequence[str] | NDArray[np.str_]

CENTRE = 1000.0
POINTS = 400.0 / np.log(10.0)  # rating points for one unit of log-odds
NEWTON_STEPS = 100
# Newton's error squares at each step: behind a step this small lies an error far below 1e-9 rating points.
SMALL_STEP = 1e-9
ROUNDING = 1e-6  # rating points
CLUSTER_BLOCK = 1 << 22


@dataclass(frozen=True)
class Ratings:
    """Arrays in the order of `models`, which is alphabetical; ratings and their errors in rating points.

    `lower` and `upper` bound the interval of the confidence asked for, 95 % by default. `rank` is 1 + the
    number of models whose lower bound exceeds this one's upper bound. `covariance` is that of the ratings,
    for the error of a difference. `coefficients` are the log-odds for one standard deviation of each style
    feature. `groups` are the sets of models that votes connect: ratings of different groups can't be
    compared. `separated` names models that a likelihood without a prior would rate infinite: their ratings
    are the prior's.
    """

    models: list[str]
    rating: Floats
    stderr: Floats
    lower: Floats
    upper: Floats
    rank: Ints
    covariance: Floats
    coefficients: Floats
    prior: float = 0.0
    separated: list[str] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Votes:
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
        met = _sums(self.a * m + self.b, value, m * m).reshape(m, m)
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
        return _sums(self.a, value, self.count) - _sums(self.b, value, self.count)


def fit_ratings(
    model_a: Names,
    model_b: Names,
    outcome: ArrayLike,
    features: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    prior: float = 0.0,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
    feature_ridge: float = 1.0,
    hessian_ridge: float = 1e-5,
) -> Ratings:
    """Bradley–Terry ratings of all models named, from one vote a row; votes may come in any order.

    `outcome` is 1.0 where a wins, 0.0 where b wins, 0.5 for a tie or both bad; a share of a win is allowed.

    `features` [votes, F] are style differences, see `style_features`. They are z-scored here, and their
    coefficients β cost `feature_ridge`/2·|β|² of the mean log-likelihood, as in arena-rank.

    `weights`: every vote counts once by default; see `pair_weights`. A weight of 2 gives the ratings of a
    vote given twice.

    `prior`: 0, plain maximum likelihood, unless asked. Else each r has a normal prior with this precision, in
    votes: a standard deviation of 400/ln 10/√prior rating points around 1000 (549 for 0.1, 174 for 1).
    Intervals then count the prior as that much evidence, so a model that never lost is not shown as certain.

    `clusters` names what makes votes depend on one another (the voter, the prompt), one name a vote; the
    scores of a cluster are summed before they are squared.

    `hessian_ridge` is arena-rank's: it is added to the diagonal of the mean Hessian (of the summed one where
    votes have weights and no features) before inverting. It narrows intervals, by about 0.1 % for 50 models
    that all meet and more where votes are sparse; 0 leaves it out. With a prior it is not used.

    Raises DataError for NaN, for outcomes outside [0, 1], a model against itself, fewer than two models, and,
    with no prior, where the likelihood has no maximum (Ford 1957): groups of models that no vote connects, or
    models that won or lost everything against the rest.
    """
    models, a, b = _indices(model_a, model_b)
    y = _column("outcome", outcome, len(a))
    if outside := np.flatnonzero((y < 0) | (y > 1)).tolist():
        raise DataError(f"outcome[{outside[0]}] is {y[outside[0]]}, expected 1 (a wins), 0 (b wins) or 0.5 (tie).")
    w = np.ones(len(a)) if weights is None else _column("weights", weights, len(a))
    if (w < 0).any() or not w.any():
        raise DataError("weights must be 0 or more and not all 0; drop the votes that should not count.")
    if not (prior >= 0 and feature_ridge > 0 and hessian_ridge >= 0):
        raise DataError(
            f"prior={prior}, feature_ridge={feature_ridge}, hessian_ridge={hessian_ridge}: "
            "expected prior and hessian_ridge of 0 or more and feature_ridge above 0."
        )
    votes = _Votes(len(models), a, b, y, w, _standardised(features, len(a)))
    graph = _graph(models, votes)
    if not prior:
        refuse_incomparable(graph)
    ridge = np.zeros(len(models) + votes.features.shape[1])
    ridge[: len(models)] = prior
    ridge[len(models) :] = feature_ridge * w.sum()
    parameters = _maximise(votes if votes.features.size else _merged(votes), ridge)
    covariance = _sandwich(votes, parameters, prior, feature_ridge, hessian_ridge, clusters)
    rating = CENTRE + POINTS * parameters[: len(models)]
    # Rounding can leave a variance of 0 (a model whose every vote was as expected) just below it.
    stderr = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    half = normal_quantile(confidence) * stderr
    lower, upper = rating - half, rating + half
    # Between models that always tied both bounds can be the same number but for rounding.
    rank = 1 + (lower[None, :] > upper[:, None] + ROUNDING).sum(axis=1)
    return Ratings(
        models,
        rating,
        stderr,
        lower,
        upper,
        rank,
        covariance,
        parameters[len(models) :],
        prior,
        graph.separated,
        graph.groups,
    )


def style_features(a: ArrayLike, b: ArrayLike) -> Floats:
    """(a - b)/(a + b) of two replies' counts (tokens, headers, bold, lists); 0 where both have none."""
    counts_a, counts_b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    total = counts_a + counts_b
    return np.divide(counts_a - counts_b, total, out=np.zeros_like(total), where=total != 0)


def pair_weights(model_a: Names, model_b: Names, minimum: int = 50) -> Floats:
    """LMArena's weight of each vote, 1/max(votes of its pair, minimum), normalised to mean 1."""
    models, a, b = _indices(model_a, model_b)
    pair = np.minimum(a, b) * len(models) + np.maximum(a, b)
    weights = 1.0 / np.maximum(np.bincount(pair)[pair], minimum)
    normalised: Floats = weights / weights.mean()
    return normalised


def win_matrix(model_a: Names, model_b: Names, outcome: ArrayLike) -> tuple[list[str], Floats, Ints]:
    """Models; points [i, j] that i won from j, a tie being half a point; battles [i, j] between the two."""
    models, a, b = _indices(model_a, model_b)
    y, m = _column("outcome", outcome, len(a)), len(models)
    points, battles = np.zeros((m, m)), np.zeros((m, m), dtype=np.int64)
    for one, other, won in ((a, b, y), (b, a, 1 - y)):
        np.add.at(points, (one, other), won)
        np.add.at(battles, (one, other), 1)
    return models, points, battles


def _indices(model_a: Names, model_b: Names) -> tuple[list[str], Ints, Ints]:
    """Model names in order, and each vote's two models as places in them."""
    seen: dict[str, int] = {}
    codes = []
    for side, given in (("model_a", model_a), ("model_b", model_b)):
        # One pass over Python strings: sorting millions of NumPy strings would take longer than the fit.
        names = np.asarray(given, dtype=object).tolist()
        for vote, name in enumerate(names):
            if not isinstance(name, str | int):
                raise DataError(f"{side}[{vote}] is {name!r}, expected a model's name; drop or repair that vote.")
        codes.append(np.fromiter((seen.setdefault(name, len(seen)) for name in names), np.int64, len(names)))
    a, b = codes
    if len(a) != len(b):
        raise DataError(f"got {len(a)} names in model_a and {len(b)} in model_b; give one of each for a vote.")
    if same := np.flatnonzero(a == b).tolist():
        raise DataError(f"vote {same[0]} is of {model_a[same[0]]!r} against itself; drop it.")
    if len(seen) < 2:
        raise DataError(f"the votes name {len(seen)} models; give votes between at least two.")
    models = sorted(seen)
    place = np.empty(len(models), dtype=np.int64)
    place[[seen[name] for name in models]] = np.arange(len(models))
    return models, place[a], place[b]


def _column(name: str, values: ArrayLike, length: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (length,):
        raise DataError(f"{name} has shape {array.shape}, expected ({length},), one number for each vote.")
    return _finite(name, array)


def _finite(name: str, array: Floats) -> Floats:
    if not np.isfinite(array).all():
        row = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0]
        raise DataError(f"{name}[{row}] is {array[row]}, expected finite numbers; drop or repair that vote.")
    return array


def _standardised(features: ArrayLike | None, length: int) -> Floats:
    if features is None:
        return np.zeros((length, 0))
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or len(array) != length:
        raise DataError(f"features has shape {array.shape}, expected ({length}, F), one row for each vote.")
    _finite("features", array)
    spread = array.std(axis=0)
    standardised: Floats = (array - array.mean(axis=0)) / np.where(spread == 0, 1.0, spread)
    return standardised


def _merged(votes: _Votes) -> _Votes:
    """One weighted vote for each pair that met; without features the likelihood is the same."""
    m = votes.count
    swap = votes.a > votes.b
    pair = np.where(swap, votes.b * m + votes.a, votes.a * m + votes.b)
    won = votes.weight * np.where(swap, 1 - votes.outcome, votes.outcome)
    weight = _sums(pair, votes.weight, m * m)
    met = np.flatnonzero(weight)
    share = _sums(pair, won, m * m)[met] / weight[met]
    return _Votes(m, met // m, met % m, share, weight[met], np.zeros((len(met), 0)))


def _maximise(votes: _Votes, ridge: Floats) -> Floats:
    """Newton's method with step halving on the log-likelihood less ridge/2·parameters², which is concave."""
    gauge = _gauge(votes, float(votes.weight.sum()))

    def value_at(parameters: Floats) -> float:
        odds = votes.log_odds(parameters)
        likelihood = votes.weight @ (votes.outcome * odds - np.logaddexp(0.0, odds))
        return float(likelihood - 0.5 * ridge @ parameters**2)

    parameters = np.zeros(len(ridge))
    value = value_at(parameters)
    for _ in range(NEWTON_STEPS):
        chance = _sigmoid(votes.log_odds(parameters))
        gradient = votes.score(votes.weight * (votes.outcome - chance)) - ridge * parameters
        hessian = votes.moment(votes.weight * chance * (1 - chance)) + np.diag(ridge)
        step = np.linalg.solve(hessian + gauge, gradient)
        size = float(np.abs(step).max())
        # Rounding makes the last steps look like tiny losses; below SMALL_STEP a step needs no proof.
        while size > SMALL_STEP and value_at(parameters + step) < value - 1e-12 * abs(value):
            step, size = step / 2, size / 2
        parameters = parameters + step
        if size <= SMALL_STEP:
            return parameters
        value = value_at(parameters)
    raise DataError(f"the ratings did not settle in {NEWTON_STEPS} Newton steps; give a prior such as 0.1.")


def _sandwich(
    votes: _Votes,
    parameters: Floats,
    prior: float,
    feature_ridge: float,
    hessian_ridge: float,
    clusters: Sequence[object] | None,
) -> Floats:
    """Covariance of the centred ratings in rating points²: H⁻¹BH⁻¹, B from the votes' own residuals."""
    m, total = votes.count, float(votes.weight.sum())
    chance = _sigmoid(votes.log_odds(parameters))
    residual = votes.weight * (votes.outcome - chance)
    spread = votes.moment(residual**2) if clusters is None else _clustered_spread(votes, residual, clusters)
    # arena-rank leaves the style ridge out of H and takes this much of its pull out of B; so do we.
    style = parameters[m:] * feature_ridge * votes.weight.mean()
    spread[m:, m:] -= np.outer(style, style)
    each_vote = votes.features.size > 0 or bool(np.allclose(votes.weight, 1.0))
    diagonal = np.full(len(parameters), hessian_ridge * (total if each_vote else 1.0))
    if prior:
        diagonal[:m] = prior
        spread[:m, :m] += prior * np.eye(m)
    hessian = votes.moment(votes.weight * chance * (1 - chance)) + np.diag(diagonal)
    inverse = np.linalg.inv(hessian + _gauge(votes, total))
    covariance = (inverse @ spread @ inverse)[:m, :m]
    # A prior leaves the common level uncertain; ratings are relative to their mean, so that part is taken
    # out.
    covariance = covariance - covariance.mean(axis=0)
    covariance = covariance - covariance.mean(axis=1)[:, None]
    in_points: Floats = POINTS**2 * covariance
    return in_points


def _clustered_spread(votes: _Votes, residual: Floats, clusters: Sequence[object]) -> Floats:
    """Σ ssᵀ over clusters for s the summed score of a cluster, times C/(C-1) (Liang & Zeger 1986)."""
    if len(clusters) != len(residual):
        raise DataError(f"got {len(residual)} votes and {len(clusters)} clusters; give one cluster for each vote.")
    seen: dict[object, int] = {}
    cluster = np.fromiter((seen.setdefault(name, len(seen)) for name in clusters), np.int64)
    if len(seen) < 2:
        raise DataError("all votes are in one cluster, expected at least two; there is no spread to measure.")
    m, width = votes.count, votes.count + votes.features.shape[1]
    order = np.argsort(cluster, kind="stable")
    rows = max(1, min(len(seen), CLUSTER_BLOCK // width))
    bounds = np.searchsorted(cluster[order], np.arange(0, len(seen) + rows, rows))
    spread = np.zeros((width, width))
    for first, (start, stop) in enumerate(pairwise(bounds)):
        pick = order[start:stop]
        place = (cluster[pick] - first * rows) * m
        scores = np.zeros((rows, width))
        for models, sign in ((votes.a, 1.0), (votes.b, -1.0)):
            scores[:, :m] += _sums(place + models[pick], sign * residual[pick], rows * m).reshape(rows, m)
        for column in range(m, width):
            values = residual[pick] * votes.features[pick, column - m]
            scores[:, column] = _sums(place // m, values, rows)
        spread += scores.T @ scores
    return spread * len(seen) / (len(seen) - 1)


def _gauge(votes: _Votes, scale: float) -> Floats:
    """Fixes the common level, which no vote tells; gradients sum to zero over models, so nothing else
    moves."""
    gauge = np.zeros((votes.count + votes.features.shape[1],) * 2)
    gauge[: votes.count, : votes.count] = scale / votes.count**2
    return gauge


def _sums(index: Ints, values: Floats, size: int) -> Floats:
    """Sum of the values at each index in [0, size)."""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64, copy=False)


def _sigmoid(odds: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * odds))


def _graph(models: list[str], votes: _Votes) -> Comparability:
    beats = np.zeros((len(models), len(models)), dtype=bool)
    counted = votes.weight > 0
    for winner, loser, share in ((votes.a, votes.b, votes.outcome), (votes.b, votes.a, 1 - votes.outcome)):
        some = counted & (share > 0)
        beats[winner[some], loser[some]] = True
    return comparability(models, beats)
