"""Voters who act together: bot rings that push a model up or down, told from how they vote.

An honest voter wins for model m about what the ratings expect, give or take a taste of their own. So for a voter, for
everyone behind one address, and for the crowd the question is: how likely is it that somebody whose taste shifts the
odds by `taste` votes so one-sidedly? With n votes on m, mean share x won and mean expectation p so shifted, that is at
most exp(-n·KL(x‖p)) (Hoeffding 1963, theorem 1: for any results in [0, 1], ties too). Huang et al. 2025 ("Exploring and
mitigating adversarial manipulation of voting-based leaderboards", arXiv 2501.07493) test single users likewise.

- `address`: two voters or more from one address, all their votes on m together.
- `crowd`: too many voters at once who are each a little one-sided for the same m (binomial tail of how many there are
  below a bound): accounts that cast few votes each, from many addresses.
- `voter`: one alone, far beyond any taste: a bot needs no company.

The bounds are shared out among all tests (Bonferroni), so that a wholly honest crowd is accused with at most
ALPHA, while its tastes are within what is allowed. Ratings are then fitted without those found, and the rest is tested
again, since a ring hides in ratings that it has moved. Where few vote, nobody is accused: two friends of opposite taste
are no ring.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qwill.evaluate.votes import Vote, pair_counts

Floats = NDArray[np.float64]

ALPHA = 0.001
FEWEST_VOTERS = 20
FEWEST_VOTES = 5  # of a voter on one model
# How far the odds of honest voters may be from the crowd's, in log-odds: 5-fold for one alone, doubled for those of one
# address, whose tastes differ; those of many average out (of a whole crowd a few are further off, not many).
TASTE_ALONE, TASTE_ADDRESS, TASTE_CROWD = math.log(5), math.log(2), math.log(1.5)
LEVELS = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0001)  # below which voters of a crowd are counted
MOST_HONEST = 0.25  # share of those accused as a crowd that chance alone would put there
ROUNDS = 6


@dataclass(frozen=True)
class Suspicion:
    """`votes` on `model` by `voters`, who won it `share` where the ratings expect `expected`; `chance`: the bound."""

    kind: Literal["voter", "address", "crowd"]
    model: str
    direction: Literal["for", "against"]
    voters: tuple[str, ...]
    votes: int
    share: float
    expected: float
    chance: float


@dataclass(frozen=True)
class _Cells:
    """For each voter (or address) and model: votes, points won, points expected."""

    names: list[str]
    count: Floats
    won: Floats
    expected: Floats

    def bound(self, towards: int, taste: float) -> Floats:
        """The logarithm of the bound on so one-sided votes for (towards 1) or against (-1) the model; 0: no wonder."""
        count = np.maximum(self.count, 1)
        share, mean = self.won / count, self.expected / count
        if towards < 0:
            share, mean = 1 - share, 1 - mean
        mean = np.clip(mean, 1e-6, 1 - 1e-6)
        odds = mean / (1 - mean) * math.exp(taste)
        mean = odds / (1 + odds)
        with np.errstate(divide="ignore", invalid="ignore"):
            divergence = np.where(share > 0, share * np.log(share / mean), 0.0)
            divergence += np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - mean)), 0.0)
        return np.where(share > mean, -self.count * divergence, 0.0)


def ring_voters(votes: Sequence[Vote]) -> frozenset[str]:
    """The voters whose votes should not count."""
    return frozenset(voter for found in suspicions(votes) for voter in found.voters)


def suspicions(votes: Sequence[Vote]) -> list[Suspicion]:
    """Who seems to act together, a voter in one of them at most; the votes in the order of the log."""
    found: list[Suspicion] = []
    out: set[str] = set()
    for _ in range(ROUNDS):
        rest = [vote for vote in votes if vote.voter not in out]
        if len({vote.voter for vote in rest}) < FEWEST_VOTERS:
            break
        new = _round(rest)
        if not new:
            break
        found += new
        out |= {voter for one in new for voter in one.voters}
    return found


def _round(votes: Sequence[Vote]) -> list[Suspicion]:
    models = sorted({name for vote in votes for name in (vote.model_a, vote.model_b)})
    expected = _expectations(votes, models)
    voters = sorted({vote.voter for vote in votes})
    behind: dict[str, set[str]] = defaultdict(set)
    for vote in votes:
        behind[vote.address].add(vote.voter)
    shared = sorted(place for place, who in behind.items() if place and len(who) > 1)
    alone = _cells(votes, models, expected, voters, [vote.voter for vote in votes])
    together = _cells(votes, models, expected, shared, [vote.address for vote in votes])
    directions = 2 * len(models)  # each of the three kinds of test gets a third of ALPHA
    limits = [math.log(ALPHA / 3 / (directions * max(1, n))) for n in (len(shared), len(voters), len(LEVELS))]
    found: list[Suspicion] = []
    accused: set[str] = set()

    def accuse(kind: Literal["voter", "address", "crowd"], m: int, towards: int, who: list[str], log_p: float) -> None:
        rows = [voters.index(name) for name in who]
        count, won, mean = (float(table[rows, m].sum()) for table in (alone.count, alone.won, alone.expected))
        direction: Literal["for", "against"] = "for" if towards > 0 else "against"
        shares = won / count, mean / count
        found.append(Suspicion(kind, models[m], direction, tuple(who), int(count), *shares, math.exp(log_p)))
        accused.update(who)

    for towards in (1, -1):
        for cells, taste, limit in ((together, TASTE_ADDRESS, limits[0]), (alone, TASTE_ALONE, limits[1])):
            bounds = cells.bound(towards, taste)
            for row, m in np.argwhere(bounds < limit).tolist():
                name = cells.names[row]
                who = sorted(behind[name] if cells is together else {name})
                who = [one for one in who if one not in accused and alone.count[voters.index(one), m]]
                if who:
                    accuse("address" if cells is together else "voter", m, towards, who, float(bounds[row, m]))
    for towards in (1, -1):
        bounds = alone.bound(towards, TASTE_CROWD)
        for m in range(len(models)):
            tested = np.flatnonzero(alone.count[:, m] >= FEWEST_VOTES)
            for level in LEVELS:
                loyal = tested[bounds[tested, m] <= math.log(level)]
                log_p = _log_tail(len(loyal), len(tested), level)
                if log_p < limits[2] and len(tested) * level <= MOST_HONEST * len(loyal):
                    who = [voters[i] for i in loyal.tolist() if voters[i] not in accused]
                    if len(who) > 1:
                        accuse("crowd", m, towards, who, log_p)
                        break
    return found


def _expectations(votes: Sequence[Vote], models: Sequence[str]) -> Floats:
    """What each vote's model a is expected to win, from ratings of all these votes."""
    from qwill.evaluate.arena import fit_ratings

    counts = pair_counts(votes)
    rows = [(a, b, points, n) for (a, b), won in counts.items() for points, n in won.items()]
    a, b, points, weights = zip(*rows, strict=True)
    fitted = fit_ratings(a, b, points, weights=weights, prior=0.1)
    rating = dict(zip(fitted.models, fitted.rating.tolist(), strict=True))
    odds = np.array([rating[vote.model_a] - rating[vote.model_b] for vote in votes]) * (math.log(10) / 400)
    expected: Floats = 1 / (1 + np.exp(-odds))
    return expected


def _cells(
    votes: Sequence[Vote], models: Sequence[str], expected: Floats, names: list[str], whose: Sequence[str]
) -> _Cells:
    place: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    column = {name: i for i, name in enumerate(models)}
    cells = _Cells(names, *(np.zeros((len(names), len(models))) for _ in range(3)))
    kept = [i for i, name in enumerate(whose) if name in place]
    rows = np.array([place[whose[i]] for i in kept], dtype=np.int64)
    points, hoped = np.array([votes[i].points for i in kept]), expected[kept]
    for side, won, mean in (("model_a", points, hoped), ("model_b", 1 - points, 1 - hoped)):
        columns = np.array([column[getattr(votes[i], side)] for i in kept], dtype=np.int64)
        np.add.at(cells.count, (rows, columns), 1.0)
        np.add.at(cells.won, (rows, columns), won)
        np.add.at(cells.expected, (rows, columns), mean)
    return cells


def _log_tail(found: int, among: int, level: float) -> float:
    """log P(at least `found` of `among` below a level that each is below with at most that chance); a bound."""
    if not found or found <= among * level:
        return 0.0
    share = found / among
    rest = 0.0 if found == among else (1 - share) * math.log((1 - share) / (1 - level))
    return -among * (share * math.log(share / level) + rest)
