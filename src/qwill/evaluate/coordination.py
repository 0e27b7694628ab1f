"""Voters who act together: bot rings that push a model up or down, told from how they vote.

An honest voter wins for model m about what the ratings expect, give or take a taste of their own. A ring's accounts win
for it far more, alike, whomever it meets. `coordination_evidence.py` says by how much the votes of a group of voters
are likelier if there is a ring among them; which groups are looked at depends on nothing but who voted when and from
where, never on how:

- `crowd`: all voters, a small share of whom may be a ring, each from an address of their own.
- `burst`: voters next to each other in time: 8, 16, 32 … of them.
- `address`: two voters or more from one address; honest ones may share a taste. All who share an address with
  somebody are a group too. (Rings found by another test are called so, if most of their accounts share addresses.)
- `prompt`: two voters or more with one prompt, and all such; the model may be better or worse at it than elsewhere.
- `voter`: one alone, far beyond any taste: a bot needs no company. With n votes on m, mean share x won and mean
  expectation p shifted by the taste TASTE_ALONE, such votes have a chance of at most exp(-n·KL(x‖p)) (Hoeffding 1963,
  theorem 1: for any results in [0, 1], ties too). Huang et al. 2025 ("Exploring and mitigating adversarial manipulation
  of voting-based leaderboards", arXiv 2501.07493) test single users likewise.

ALPHA is shared out among all tests (kinds by SHARE; models, directions and groups evenly), so that a wholly honest
crowd whose tastes are of the supposed kind has anybody accused with at most that chance (family-wise, each time the log
is looked at). Of a group with a ring those are accused who are of it with a posterior probability of SURE or more.
Ratings and tastes are then fitted without them, and the rest is tested again, since a ring hides in ratings that it has
moved. Where few vote, nobody is accused: two friends of opposite taste are no ring.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qwill.evaluate.coordination_evidence import (
    Cells,
    Floats,
    Groups,
    Ints,
    allowed,
    cells_of,
    evidence,
    honest,
)
from qwill.evaluate.votes import Vote

Kind = Literal["crowd", "burst", "address", "prompt", "voter"]

ALPHA = 0.01
FEWEST_VOTERS = 20
SURE = 0.85
ROUNDS = 20
SHARE = {"crowd": 0.4, "burst": 0.2, "address": 0.2, "prompt": 0.1, "voter": 0.1}
TASTE_ALONE = math.log(5)  # how far the odds of one honest voter may be from the crowd's
SHARED = {
    "burst": 0.25,
    "address": 0.5,
    "prompt": 1.0,
}  # standard deviation in log-odds of what honest voters of a group share
FEW, MANY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35), (0.3, 0.6, 0.9)  # share of a group that a ring may be
BURST = 8  # voters of the smallest burst


@dataclass(frozen=True)
class Suspicion:
    """`votes` with a winner on `model` by `voters`, who won it `share` where the ratings expect `expected`; `chance`: a
    bound on how likely an honest group would look like this (before ALPHA is shared out)."""

    kind: Kind
    model: str
    direction: Literal["for", "against"]
    voters: tuple[str, ...]
    votes: int
    share: float
    expected: float
    chance: float


@dataclass(frozen=True)
class _Ballots:
    """Votes as numbers; names by number in `models` and `voters`, addresses and prompts from 1 on (0: not known)."""

    models: list[str]
    voters: list[str]
    a: Ints
    b: Ints
    points: Floats
    voter: Ints
    address: Ints
    prompt: Ints

    def only(self, kept: NDArray[np.bool_]) -> _Ballots:
        arrays = ("a", "b", "points", "voter", "address", "prompt")
        return replace(self, **{name: getattr(self, name)[kept] for name in arrays})


@dataclass(frozen=True)
class _Found:
    """A test that speaks against somebody: the logarithm of its e-value, and whom of its group."""

    log_e: float
    kind: Kind
    model: int
    towards: int
    voters: Ints


def ring_voters(votes: Sequence[Vote]) -> frozenset[str]:
    """The voters who seem to act together."""
    return frozenset(voter for found in suspicions(votes) for voter in found.voters)


def suspicions(votes: Sequence[Vote]) -> list[Suspicion]:
    """Who seems to act together, a voter in one of them at most; the votes in the order of the log."""
    ballots = _ballots(votes)
    found: list[Suspicion] = []
    for _ in range(ROUNDS):
        if len(np.unique(ballots.voter)) < FEWEST_VOTERS:
            break
        strongest = _strongest(ballots)
        if strongest is None:
            break
        found.append(_said(ballots, strongest))
        ballots = ballots.only(~np.isin(ballots.voter, strongest.voters))
    return found


def _ballots(votes: Sequence[Vote]) -> _Ballots:
    models = sorted({name for vote in votes for name in (vote.model_a, vote.model_b)})
    voters = sorted({vote.voter for vote in votes})
    model, voter = ({name: i for i, name in enumerate(names)} for names in (models, voters))
    address, prompt = {"": 0}, {"": 0}
    return _Ballots(
        models, voters,
        np.array([model[vote.model_a] for vote in votes], np.int64),
        np.array([model[vote.model_b] for vote in votes], np.int64),
        np.array([vote.points for vote in votes], np.float64),
        np.array([voter[vote.voter] for vote in votes], np.int64),
        np.array([address.setdefault(vote.address, len(address)) for vote in votes], np.int64),
        np.array([prompt.setdefault(vote.prompt, len(prompt)) for vote in votes], np.int64),
    )  # fmt: skip


def _strongest(ballots: _Ballots) -> _Found | None:
    """The strongest of the tests that pass; None if none does."""
    tests = 2 * len(ballots.models)
    passed = _alone(ballots, -math.log(ALPHA * SHARE["voter"] / tests))
    decided = ballots.only(ballots.points != 0.5)
    if len(decided.a):
        passed += _together(decided, tests)
    # max keeps the first of equals, and tests come in a fixed order.
    return max(passed, key=lambda one: one.log_e, default=None)


def _together(ballots: _Ballots, tests: int) -> list[_Found]:
    sides = _sides(ballots, _log_odds(ballots))
    fits = np.stack([_fits(side) for side in sides])
    others = fits.sum(axis=0) - fits if len(fits) > 2 else np.zeros_like(fits)
    passed: list[_Found] = []
    for model, side in enumerate(sides):
        taste = int(others[model].argmax())
        for kind, groups, who, cells in _looks(side):
            table = honest(cells, tastes=allowed(taste))
            limit = math.log(tests * len(groups.starts) / (ALPHA * SHARE[kind]))
            for towards in (1, -1):
                log_e, posterior = evidence(groups, table, cells, towards, taste)
                for group in np.flatnonzero(log_e > limit).tolist():
                    members = groups.order[groups.starts[group] : groups.ends[group]]
                    accused = np.unique(who[members[posterior[group](members) >= SURE]])
                    if len(accused) > 1:
                        passed.append(_Found(float(log_e[group]), kind, model, towards, accused))
    return passed


def _fits(side: _Side) -> Floats:
    """How likely the votes on one model are with each of TASTES."""
    order, unit = _by_time(side.voter)
    cells = cells_of(unit, side.log_odds, side.won, len(order))
    found: Floats = honest(cells, np.zeros(1))[:, 0].sum(axis=1)
    return found


def _looks(side: _Side) -> Iterator[tuple[Kind, Groups, Ints, Cells]]:
    """The groups to look at, the voters of their units, and the units' votes."""
    order, unit = _by_time(side.voter)
    cells = cells_of(unit, side.log_odds, side.won, len(order))
    everyone = np.arange(len(order))
    if len(order) > 1:
        yield "crowd", Groups(everyone, np.array([0]), np.array([len(order)]), None, FEW), order, cells
    starts, ends = _windows(len(order))
    if len(starts):
        yield "burst", Groups(everyone, starts, ends, SHARED["burst"], MANY), order, cells
    labels: tuple[tuple[Kind, Ints], ...] = (("address", side.address), ("prompt", side.prompt))
    for kind, label in labels:
        found = _labelled(side, label, SHARED[kind])
        if found is not None:
            yield kind, found[0], found[1], found[2]


@dataclass(frozen=True)
class _Side:
    """The votes on one model, seen from its side."""

    voter: Ints
    address: Ints
    prompt: Ints
    log_odds: Floats
    won: NDArray[np.bool_]


def _sides(ballots: _Ballots, log_odds: Floats) -> list[_Side]:
    count = len(ballots.a)
    model = np.concatenate([ballots.a, ballots.b])
    vote = np.concatenate([np.arange(count), np.arange(count)])
    mine = np.concatenate([np.ones(count), -np.ones(count)])
    order = np.lexsort((vote, model))
    found = []
    for rows in np.split(order, np.searchsorted(model[order], np.arange(1, len(ballots.models)))):
        at, sign = vote[rows], mine[rows]
        won = (ballots.points[at] > 0.5) == (sign > 0)
        found.append(_Side(ballots.voter[at], ballots.address[at], ballots.prompt[at], sign * log_odds[at], won))
    return found


def _by_time(voter: Ints) -> tuple[Ints, Ints]:
    """The voters by the middle of their votes in the log, and each vote's place among them."""
    names, unit = np.unique(voter, return_inverse=True)
    middle = np.bincount(unit, np.arange(len(voter)), len(names)) / np.maximum(
        np.bincount(unit, minlength=len(names)), 1
    )
    order = np.argsort(middle, kind="stable")
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    return names[order], place[unit]


def _windows(count: int) -> tuple[Ints, Ints]:
    """Runs of 8, 16, 32 … of `count` voters, each overlapping the next by half, up to half of all."""
    starts: list[int] = []
    ends: list[int] = []
    size = BURST
    while size <= count // 2:
        for start in range(0, count - size // 2, size // 2):
            starts.append(start)
            ends.append(min(count, start + size))
        size *= 2
    return np.array(starts, np.int64), np.array(ends, np.int64)


def _labelled(side: _Side, label: Ints, shared: float) -> tuple[Groups, Ints, Cells] | None:
    """Groups of voters with one label (an address, a prompt); a unit is what a voter did under one of them."""
    size = int(side.voter.max()) + 1
    labels = np.unique(label * size + side.voter) // size
    common = np.flatnonzero(np.bincount(labels) > 1)
    kept = np.isin(label, common[common > 0])
    if not kept.any():
        return None
    pairs, unit = np.unique(label[kept] * size + side.voter[kept], return_inverse=True)
    labels, who = np.divmod(pairs, size)
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    ends = np.append(starts[1:], len(labels))
    if len(starts) > 1:  # and all of them as one: a ring may have a few addresses
        starts, ends = np.append(starts, 0), np.append(ends, len(labels))
    cells = cells_of(unit, side.log_odds[kept], side.won[kept], len(pairs))
    return Groups(np.arange(len(pairs)), starts, ends, shared, MANY), who, cells


def _alone(ballots: _Ballots, limit: float) -> list[_Found]:
    expected = 1 / (1 + np.exp(-_log_odds(ballots)))
    model = np.concatenate([ballots.a, ballots.b])
    voter = np.concatenate([ballots.voter, ballots.voter])
    pairs, cell = np.unique(model * len(ballots.voters) + voter, return_inverse=True)
    count = np.bincount(cell).astype(np.float64)
    share = np.bincount(cell, np.concatenate([ballots.points, 1 - ballots.points])) / count
    mean = np.bincount(cell, np.concatenate([expected, 1 - expected])) / count
    limit += math.log(max(1, len(np.unique(ballots.voter))))
    passed = []
    for towards in (1, -1):
        bound = _hoeffding(count, *((share, mean) if towards > 0 else (1 - share, 1 - mean)))
        for place in np.flatnonzero(bound > limit).tolist():
            where, who = divmod(int(pairs[place]), len(ballots.voters))
            passed.append(_Found(float(bound[place]), "voter", where, towards, np.array([who])))
    return passed


def _hoeffding(count: Floats, share: Floats, mean: Floats) -> Floats:
    """−log of the bound on so one-sided votes for the model; 0: no wonder."""
    mean = np.clip(mean, 1e-6, 1 - 1e-6)
    odds = mean / (1 - mean) * math.exp(TASTE_ALONE)
    mean = odds / (1 + odds)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(share > 0, share * np.log(share / mean), 0.0)
        divergence += np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - mean)), 0.0)
    return np.where(share > mean, count * divergence, 0.0)


def _log_odds(ballots: _Ballots) -> Floats:
    """Of model a to win each vote, from ratings of all these votes."""
    from qwill.evaluate.arena import POINTS, fit_ratings

    size = len(ballots.models)
    halves = np.rint(2 * ballots.points).astype(np.int64)
    keys, counts = np.unique((ballots.a * size + ballots.b) * 3 + halves, return_counts=True)
    pair, won = np.divmod(keys, 3)
    a, b = ([ballots.models[i] for i in side.tolist()] for side in np.divmod(pair, size))
    fitted = fit_ratings(a, b, won / 2, weights=counts.astype(np.float64), prior=0.1)
    rating = np.zeros(size)
    rating[[ballots.models.index(name) for name in fitted.models]] = fitted.rating / POINTS
    found: Floats = rating[ballots.a] - rating[ballots.b]
    return found


def _said(ballots: _Ballots, found: _Found) -> Suspicion:
    kept = np.isin(ballots.voter, found.voters) & ((ballots.a == found.model) | (ballots.b == found.model))
    if found.kind != "voter":
        kept &= ballots.points != 0.5
    odds = _log_odds(ballots if found.kind == "voter" else ballots.only(ballots.points != 0.5))
    expected = np.zeros(len(ballots.a))
    expected[slice(None) if found.kind == "voter" else ballots.points != 0.5] = 1 / (1 + np.exp(-odds))
    mine = ballots.a[kept] == found.model
    share = np.where(mine, ballots.points[kept], 1 - ballots.points[kept]).mean()
    hoped = np.where(mine, expected[kept], 1 - expected[kept]).mean()
    who = tuple(ballots.voters[i] for i in found.voters.tolist())
    direction: Literal["for", "against"] = "for" if found.towards > 0 else "against"
    name = ballots.models[found.model]
    kind = (
        "address" if found.kind in ("crowd", "burst") and _mostly_share_addresses(ballots, found.voters) else found.kind
    )
    return Suspicion(kind, name, direction, who, int(kept.sum()), float(share), float(hoped), math.exp(-found.log_e))


def _mostly_share_addresses(ballots: _Ballots, voters: Ints) -> bool:
    """Whether three in four of the voters have an address in common with another of them."""
    kept = np.isin(ballots.voter, voters) & (ballots.address > 0)
    pairs = np.unique(np.stack([ballots.address[kept], ballots.voter[kept]]), axis=1)
    many = np.bincount(pairs[0], minlength=1)[pairs[0]] > 1
    return 4 * len(np.unique(pairs[1][many])) >= 3 * len(voters)
