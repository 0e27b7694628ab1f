"""Which two models to show next, so that every interval of the leaderboard shrinks soonest.

A vote between i and j adds q·zzᵀ to the information, z = e_i - e_j and q = p(1 - p); by Sherman & Morrison (1950) the
covariance C then loses q·Cz(Cz)ᵀ/(1 + q·zᵀCz), whatever the vote will be. The pair is taken that lowers Σ_k v_k^power
most, v_k the variance of rating k: power 1 is the mean variance (A-optimal, Chaloner & Verdinelli 1995), a large power
the widest interval (near G-optimal). Uneven pairs tell little (q is small) and models with few votes have wide
intervals, so votes go to close pairs and to newcomers.
"""

from __future__ import annotations

import numpy as np

from qwill.base.errors import DataError
from qwill.evaluate.arena_likelihood import Floats, sigmoid
from qwill.evaluate.arena_online import LiveRatings

POWER = 8.0
EXPLORE = 0.1


def next_pair(
    state: LiveRatings,
    generator: np.random.Generator,
    *,
    power: float = POWER,
    explore: float = EXPLORE,
    among: list[str] | None = None,
) -> tuple[str, str]:
    """The pair whose vote is expected to shrink intervals most, sides drawn at random.

    `explore` is the share of pairs drawn uniformly, so that nobody who sees the leaderboard can tell what comes and a
    wrong model of the votes is still found out; `among` the models that can answer now. DataError if those are
    fewer than two.
    """
    able = [i for i, name in enumerate(state.models) if among is None or name in among]
    if len(able) < 2:
        raise DataError(f"{len(able)} of the rated models can answer, expected at least two.")
    if generator.random() < explore:
        i, j = generator.choice(able, 2, replace=False).tolist()
    else:
        gains = pair_gains(state, power)[np.ix_(able, able)]
        # Equal pairs are drawn from: all of them before the first vote, and always (i, j) and (j, i), the sides.
        best = np.argwhere(gains >= gains.max() * (1 - 1e-9))
        i, j = (able[k] for k in best[generator.integers(len(best))].tolist())
    return state.models[i], state.models[j]


def pair_gains(state: LiveRatings, power: float = POWER) -> Floats:
    """[i, j]: about how much a vote between i and j lowers Σ_k v_k^power; 0 on the diagonal."""
    # Ratings are relative to their mean, so the common level is no uncertainty: a constant, as only the prior knows it.
    covariance = state.inverse - state.inverse.mean()
    variance = np.diag(covariance)
    # The derivative of Σ v^power, scaled so that it neither over- nor underflows.
    slope = (variance / variance.max()) ** (power - 1)
    weighted = (covariance * slope) @ covariance
    lowered = np.diag(weighted)[:, None] + np.diag(weighted)[None, :] - 2 * weighted
    spread = variance[:, None] + variance[None, :] - 2 * covariance
    chance = sigmoid(state.strength[:, None] - state.strength[None, :])
    information = chance * (1 - chance)
    gains: Floats = information * lowered / (1 + information * spread)
    np.fill_diagonal(gains, 0.0)
    return gains
