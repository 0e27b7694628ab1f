"""Do two raters agree more than chance would have them: Cohen's κ, plain and weighted, with its interval.

κ = (p_o - p_e)/(1 - p_e): observed agreement over what two raters with the same marginals would reach at random (Cohen
1960); weighted κ counts near misses as partial agreement (Cohen 1968). The standard error is that of Fleiss, Cohen &
Everitt (1969, Psychological Bulletin 72), which holds at the estimate and not only under "no agreement".
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import DataError
from qwill.evaluate.statistics import (
    Interval,
    bounded_interval,
    group_numbers,
    normal_quantile,
    student_quantile,
    wilson,
)  # fmt: skip

Floats = NDArray[np.float64]
Weights = Literal["none", "linear", "quadratic"]

ENOUGH = 30  # items below which the normal interval of κ is rough (Fleiss, Levin & Paik 2003, section 18.1)
NO_SPREAD = 1e-7  # of κ: nothing but the root of rounding
LOPSIDED = 0.8  # of all ratings in one category: κ is then low even where raters mostly agree


@dataclass(frozen=True)
class Agreement:
    """`kappa` in [-1, 1] with its standard error and interval; None where chance alone would agree always, both raters
    having used one and the same category. The interval is None too where one of them used a single category: κ is 0
    then, whatever the other did. Where no spread shows, as when the raters agreed on all items or on none, the interval
    is Wilson's for the observed agreement (`bounded_interval`), with what chance would reach left as it is. `observed`
    and `expected` agreement, weighted if κ is; `share` is the plain share of equal ratings and `share_interval`
    Wilson's. `table[i][j]`: items that the first rater put into category i
    and the second into j. `prevalence`: each category's share of all ratings. `notes`: what to mind when reading κ.
    """

    kappa: float | None
    stderr: float | None
    interval: Interval | None
    observed: float
    expected: float
    share: float
    share_interval: Interval
    categories: list[Hashable]
    table: list[list[int]]
    prevalence: list[float]
    n: int
    weights: Weights
    notes: list[str]


def cohens_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    categories: Sequence[Hashable] | None = None,
    weights: Weights = "none",
    confidence: float = 0.95,
    clusters: Sequence[object] | None = None,
) -> Agreement:
    """Agreement of two raters on the same items, in the same order.

    `categories`: all there can be; weights "linear" and "quadratic" need their order (b, tie, a). Without, those that
    occur, sorted. `clusters` names what each item belongs to: those of one cluster are not independent, so their pulls
    on κ are summed before squaring, with the factor G/(G-1) and Student's t, as `statistics.mean_interval` does.

    Raises DataError for lists of different lengths, no items, a rating that is no category, or a single cluster.
    """
    if len(first) != len(second) or not len(first):
        raise DataError(
            f"the raters gave {len(first)} and {len(second)} ratings, expected the same items, at least one, for both."
        )
    if weights not in ("none", "linear", "quadratic"):
        raise DataError(f"weights is {weights!r}, expected 'none', 'linear' or 'quadratic'.")
    if categories is None and weights != "none":
        raise DataError("a weighted κ needs the categories in their order; name them.")
    known = list(dict.fromkeys(categories)) if categories is not None else sorted({*first, *second}, key=str)
    place = {category: i for i, category in enumerate(known)}
    table = np.zeros((len(known), len(known)))
    for item, pair in enumerate(zip(first, second, strict=True)):
        for rating in pair:
            if rating not in place:
                raise DataError(f"item {item} was rated {rating!r}, expected one of {known}; repair that rating.")
        table[place[pair[0]], place[pair[1]]] += 1
    n = len(first)
    share = table / n
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    credit = _credit(len(known), weights)
    observed, expected = float((credit * share).sum()), float(rows @ credit @ columns)
    equal = int(np.trace(table))
    prevalence = (rows + columns) / 2
    kappa = stderr = interval = None
    if expected < 1 - 1e-12:
        kappa = (observed - expected) / (1 - expected)
        # Each cell's pull on κ: Fleiss, Cohen & Everitt (1969), equation 13.
        mean_rows, mean_columns = credit @ columns, rows @ credit
        pull = credit - (mean_rows[:, None] + mean_columns[None, :]) * (1 - kappa)
        centre = kappa - expected * (1 - kappa)
        if clusters is None:
            variance = float((share * (pull - centre) ** 2).sum()) / n
        else:
            variance = _clustered(
                [float(pull[place[a], place[b]]) - centre for a, b in zip(first, second, strict=True)], clusters
            )
        stderr = math.sqrt(variance) / (1 - expected)
        quantile = normal_quantile(confidence)
        if clusters is not None:
            quantile = student_quantile(confidence, len(set(clusters)) - 1)
        half = quantile * stderr
        interval = Interval(max(-1.0, kappa - half), min(1.0, kappa + half))
        if max(rows.max(), columns.max()) > 1 - 1e-12:
            interval = None
        elif stderr < NO_SPREAD:
            ends = bounded_interval(min(1.0, max(0.0, observed)), 0.0, n, confidence)
            low, high = ((end - expected) / (1 - expected) for end in ends)
            interval = Interval(max(-1.0, low), min(1.0, high))
    return Agreement(
        kappa,
        stderr,
        interval,
        observed,
        expected,
        equal / n,
        wilson(equal, n, confidence),
        known,
        table.astype(int).tolist(),
        prevalence.tolist(),
        n,
        weights,
        _notes(kappa, stderr, interval, prevalence, n, known),
    )


def _clustered(pulls: Sequence[float], clusters: Sequence[object]) -> float:
    """Variance of the mean of centred numbers that are independent between clusters only."""
    if len(clusters) != len(pulls):
        raise DataError(f"there are {len(pulls)} ratings and {len(clusters)} clusters; give one for each item.")
    groups = group_numbers(clusters)
    count = int(groups.max()) + 1
    if count < 2:
        raise DataError("all items are of one cluster, which shows no spread; give at least two.")
    sums = np.bincount(groups, weights=pulls)
    return float(sums @ sums) * count / (count - 1) / len(pulls) ** 2


def judge_agreement(
    judge: Mapping[str, float], human: Mapping[str, Sequence[float]], confidence: float = 0.95
) -> tuple[Agreement, Agreement]:
    """(plain κ, linearly weighted κ) of a judge with human votes on the same pairs of replies, ties included.

    Both are by the pair's id: outcome 1 where a won, 0 where b did, anything between a tie. Of several votes on one
    pair the mean counts, above one half a win of a, below it of b: so an item is a pair and items are independent.
    Pairs that only one side has rated are left out. Raises DataError if none is left.
    """
    shared = [pair for pair in judge if human.get(pair)]
    if not shared:
        raise DataError(
            f"none of the {len(judge)} judged pairs has a human vote among the {len(human)} voted on; "
            "give votes on the same prompts and models."
        )
    ratings = [(category(judge[pair]), _majority(human[pair])) for pair in shared]
    first, second = [one for one, _ in ratings], [other for _, other in ratings]
    order = ("b", "tie", "a")
    return (
        cohens_kappa(first, second, order, "none", confidence),
        cohens_kappa(first, second, order, "linear", confidence),
    )


def category(outcome: float) -> str:
    """1 is "a", 0 "b", what lies between a "tie"."""
    if not 0 <= outcome <= 1:
        raise DataError(f"an outcome is {outcome}, expected 1 (a wins), 0 (b wins) or 0.5 (tie).")
    return "a" if outcome == 1 else "b" if outcome == 0 else "tie"


def _majority(votes: Sequence[float]) -> str:
    for vote in votes:
        category(vote)
    mean = math.fsum(votes) / len(votes)
    return "a" if mean > 0.5 else "b" if mean < 0.5 else "tie"


def _credit(size: int, weights: Weights) -> Floats:
    """How much each pair of categories counts as agreement: 1 on the diagonal."""
    if weights == "none":
        return np.eye(size)
    apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) / max(1, size - 1)
    credit: Floats = 1 - apart**2 if weights == "quadratic" else 1 - apart
    return credit


def _notes(
    kappa: float | None,
    stderr: float | None,
    interval: Interval | None,
    prevalence: Floats,
    n: int,
    categories: Sequence[Hashable],
) -> list[str]:
    notes = []
    most = int(prevalence.argmax())
    if kappa is None:
        notes.append(
            f"Both raters put every item into {categories[most]!r}: they always agree, and chance would too, so κ has "
            "no value."
        )
    elif interval is None:
        notes.append(
            "One rater put every item into the same category: κ is 0 whatever the other did, and says nothing."
        )
    elif stderr is not None and stderr < NO_SPREAD:
        notes.append("No spread shows: the interval is Wilson's for the observed agreement.")
    if kappa is not None and prevalence[most] > LOPSIDED:
        notes.append(
            f"{prevalence[most]:.0%} of all ratings are {categories[most]!r}: with so uneven categories κ is low even "
            "where raters mostly agree; look at the share of equal ratings too."
        )
    if n < ENOUGH:
        notes.append(f"{n} items are few: the interval of κ is rough below {ENOUGH}.")
    return notes
