"""Ratings of models from pairwise votes, as LMArena computes them: Bradley–Terry with honest intervals.

P(a beats b) = 1/(1 + exp(r_b - r_a)) (Bradley & Terry 1952), fitted by weighted maximum likelihood, a tie
being half a win; shown as 1000 + 400/ln 10 · r, centred on 1000, with Huber's sandwich covariance H⁻¹BH⁻¹
(White 1982) that stays right where votes don't follow the model (ties do not). Style control (LMArena 2024)
adds features of the two replies to the log-odds. Equal to arena-rank 0.1.1 (tests/oracles), in NumPy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwill.base.errors import DataError
from qwill.evaluate.arena_graph import Comparability, comparability, refuse_incomparable
from qwill.evaluate.arena_likelihood import (
    Floats,
    Ints,
    Votes,
    clustered_spread,
    gauge,
    maximise,
    merged,
    sigmoid,
)
from qwill.evaluate.quantiles import normal_quantile

Names = Sequence[str] | NDArray[np.str_]

CENTRE = 1000.0
POINTS = 400.0 / np.log(10.0)  # rating points for one unit of log-odds
ROUNDING = 1e-6  # rating points


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
    if not hessian_ridge >= 0:
        raise DataError(f"hessian_ridge={hessian_ridge}, expected 0 or more.")
    models, votes, ridge = checked_votes(model_a, model_b, outcome, features, weights, prior, feature_ridge)
    found = comparability_of(models, votes)
    if not prior:
        refuse_incomparable(found)
    parameters = maximise(votes if votes.features.size else merged(votes), ridge)
    covariance = _sandwich(votes, parameters, prior, feature_ridge, hessian_ridge, clusters)
    strength, coefficients = parameters[: len(models)], parameters[len(models) :]
    return rated(models, strength, covariance, found, coefficients, prior, confidence)


def checked_votes(
    model_a: Names,
    model_b: Names,
    outcome: ArrayLike,
    features: ArrayLike | None,
    weights: ArrayLike | None,
    prior: float,
    feature_ridge: float = 1.0,
) -> tuple[list[str], Votes, Floats]:
    """The models, their votes as arrays with standardised features, and what each parameter's square costs.

    Raises DataError for whatever `fit_ratings` can't read.
    """
    models, a, b = _indices(model_a, model_b)
    y = _column("outcome", outcome, len(a))
    if outside := np.flatnonzero((y < 0) | (y > 1)).tolist():
        raise DataError(f"outcome[{outside[0]}] is {y[outside[0]]}, expected 1 (a wins), 0 (b wins) or 0.5 (tie).")
    w = np.ones(len(a)) if weights is None else _column("weights", weights, len(a))
    if (w < 0).any() or not w.any():
        raise DataError("weights must be 0 or more and not all 0; drop the votes that should not count.")
    if not (0 <= prior < np.inf and feature_ridge > 0):
        raise DataError(
            f"prior={prior}, feature_ridge={feature_ridge}: expected a prior of 0 or more and feature_ridge above 0."
        )
    votes = Votes(len(models), a, b, y, w, _standardised(features, len(a)))
    ridge = np.full(len(models) + votes.features.shape[1], float(prior))
    ridge[len(models) :] = feature_ridge * w.sum()
    return models, votes, ridge


def rated(
    models: list[str],
    strength: Floats,
    covariance: Floats,
    found: Comparability,
    coefficients: Floats,
    prior: float,
    confidence: float,
) -> Ratings:
    """Ratings with normal intervals from strengths in log-odds and the covariance of ratings in points²."""
    rating = CENTRE + POINTS * strength
    # Rounding can leave a variance of 0 (a model whose every vote was as expected) just below it.
    stderr = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    half = normal_quantile(confidence) * stderr
    lower, upper = rating - half, rating + half
    return Ratings(
        models, rating, stderr, lower, upper, ranks(lower, upper), covariance, coefficients, prior, found.separated,
        found.groups,
    )  # fmt: skip


def ranks(lower: Floats, upper: Floats) -> Ints:
    """1 + the number of models that are surely better: whose lower bound exceeds this one's upper bound."""
    # Between models that always tied both bounds can be the same number but for rounding.
    counted: Ints = 1 + (lower[None, :] > upper[:, None] + ROUNDING).sum(axis=1)
    return counted


def anchored(ratings: Ratings, model: str, at: float = CENTRE) -> Ratings:
    """The same ratings on a scale on which `model` stands at `at`, as LMArena anchors its leaderboard.

    The scale of Bradley–Terry has no zero, so all ratings and bounds move by the same amount; intervals stay those of
    the distance from the mean of all models. DataError names the models if `model` is none of them.
    """
    if model not in ratings.models:
        some = ", ".join(ratings.models[:10]) + (", …" if len(ratings.models) > 10 else "")
        raise DataError(f"the anchor '{model}' is not among the {len(ratings.models)} rated models: {some}.")
    if not np.isfinite(at):
        raise DataError(f"the anchor '{model}' is to stand at {at}, expected a number such as 1000.")
    shift = at - ratings.rating[ratings.models.index(model)]
    return replace(ratings, rating=ratings.rating + shift, lower=ratings.lower + shift, upper=ratings.upper + shift)


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
    sides = [_names("model_a", model_a), _names("model_b", model_b)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"got {len(sides[0])} names in model_a and {len(sides[1])} in model_b; give one of each for a vote."
        )
    models = sorted(set(sides[0]) | set(sides[1]))
    place = {name: i for i, name in enumerate(models)}
    # `map` stays in C: looking millions of names up one by one in Python would take longer than the fit.
    a, b = (np.fromiter(map(place.__getitem__, names), np.int64, len(names)) for names in sides)
    if same := np.flatnonzero(a == b).tolist():
        raise DataError(f"vote {same[0]} is of {model_a[same[0]]!r} against itself; drop it.")
    if len(models) < 2:
        raise DataError(f"the votes name {len(models)} models; give votes between at least two.")
    return models, a, b


def _names(side: str, given: Names) -> list[str]:
    names = given if isinstance(given, list) else np.asarray(given, dtype=object).tolist()
    if set(map(type, names)) - {str}:
        for vote, name in enumerate(names):
            if not isinstance(name, str):
                raise DataError(f"{side}[{vote}] is {name!r}, expected a model's name; drop or repair that vote.")
    return names


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
    largest = np.abs(array).max(axis=0, initial=0.0)
    array = array / np.where(largest > 1e100, largest, 1.0)  # whose squares would overflow
    spread = array.std(axis=0)
    standardised: Floats = (array - array.mean(axis=0)) / np.where(spread == 0, 1.0, spread)
    return standardised


def _sandwich(
    votes: Votes,
    parameters: Floats,
    prior: float,
    feature_ridge: float,
    hessian_ridge: float,
    clusters: Sequence[object] | None,
) -> Floats:
    """Covariance of the centred ratings in rating points²: H⁻¹BH⁻¹, B from the votes' own residuals."""
    m, total = votes.count, float(votes.weight.sum())
    chance = sigmoid(votes.log_odds(parameters))
    residual = votes.weight * (votes.outcome - chance)
    spread = votes.moment(residual**2) if clusters is None else clustered_spread(votes, residual, clusters)
    # arena-rank leaves the style ridge out of H and takes this much of its pull out of B; so do we.
    style = parameters[m:] * feature_ridge * votes.weight.mean()
    spread[m:, m:] -= np.outer(style, style)
    each_vote = votes.features.size > 0 or bool(np.allclose(votes.weight, 1.0))
    diagonal = np.full(len(parameters), hessian_ridge * (total if each_vote else 1.0))
    if prior:
        diagonal[:m] = prior
        spread[:m, :m] += prior * np.eye(m)
    hessian = votes.moment(votes.weight * chance * (1 - chance)) + np.diag(diagonal)
    inverse = np.linalg.inv(hessian + gauge(votes, total))
    covariance = (inverse @ spread @ inverse)[:m, :m]
    # A prior leaves the common level uncertain; ratings are relative to their mean, so that part is taken
    # out.
    covariance = covariance - covariance.mean(axis=0)
    covariance = covariance - covariance.mean(axis=1)[:, None]
    in_points: Floats = POINTS**2 * covariance
    return in_points


def comparability_of(models: list[str], votes: Votes) -> Comparability:
    beats = np.zeros((len(models), len(models)), dtype=bool)
    counted = votes.weight > 0
    for winner, loser, share in ((votes.a, votes.b, votes.outcome), (votes.b, votes.a, 1 - votes.outcome)):
        some = counted & (share > 0)
        beats[winner[some], loser[some]] = True
    return comparability(models, beats)
