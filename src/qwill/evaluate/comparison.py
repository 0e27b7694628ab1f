"""Which of two models is better, and how sure are we: both answered the same examples, so they are compared in pairs.

What an example asks, how hard it is and how it is scored are the same for both models and cancel; what is left is the
difference. Every line that is printed is a test, and Holm's adjustment covers them all, so that a table of twenty lines
does not find a winner by chance. The equations are in docs/en/statistics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from statistics import NormalDist
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate.sign_flips import sign_flips
from qwill.evaluate.statistics import (
    Difference,
    group_numbers,
    holm,
    mcnemar_exact,
    mean_interval,
    minimum_detectable_effect,
    no_spread_interval,
    normal_quantile,
    paired_accuracy,
    paired_bootstrap,
    sign_flips_exact,
)
from qwill.evaluate.task_scores import Row, clusters_of, estimate, score_of

POWER = 0.8
# Independent examples or clusters below which percentiles of the bootstrap lie too close together: Student's t instead.
MANY = 30
NO_SPREAD = 1e-12  # of a mean of scores: nothing but rounding
# What must be the same for two rows to be answers to the same question.
QUESTION = ("prompt", "choices", "gold", "answer")


@dataclass(frozen=True)
class Line:
    """One comparison: a task, or one language of it.

    a, b: mean scores; difference: a - b with its interval at the confidence 1 - alpha, which is not adjusted.
    only_a, only_b: examples on which a scored higher, and b.
    p_value: of the test named by `test`; adjusted: after Holm, over all lines of the table.
    detectable: the smallest true difference that this many examples would show with 80 % power, were all lines tested
      as strictly as Holm's first; None where none can be.
    better: "a" or "b" only where the adjusted p-value is below alpha and the interval leaves zero out, else "".
    """

    task: str
    language: str
    metric: str
    n: int
    clusters: int
    a: float
    b: float
    only_a: int
    only_b: int
    difference: float
    lower: float
    upper: float
    p_value: float
    adjusted: float
    test: str
    detectable: float | None
    better: str


@dataclass(frozen=True)
class Comparison:
    """`missing`: task → (examples that only a answered, that only b did); they count for nothing here. `asked`: what
    was set otherwise for one model than for the other, name → (a's, b's)."""

    lines: tuple[Line, ...]
    alpha: float
    missing: Mapping[str, tuple[int, int]]
    asked: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What a reader should know of the table, a sentence each."""
        notes = []
        if (count := len(self.lines)) > 1:
            notes.append(
                f"{count} comparisons were made: p-values are adjusted for that (Holm), intervals and single p-values "
                "are not."
            )
        for name, (one, other) in self.asked.items():
            notes.append(f"The two were not asked alike: {name} is {one!r} for the first and {other!r} for the second.")
        for task, (only_a, only_b) in self.missing.items():
            notes.append(
                f"{task}: compared on the examples that both answered; {only_a} more were answered by the first alone, "
                f"{only_b} by the second alone."
            )
        if any(line.clusters < line.n for line in self.lines):
            notes.append("Where examples share a source, whole clusters of them are compared and not single examples.")
        if any(not line.better for line in self.lines):
            notes.append(
                "No difference shown does not mean that there is none: “detectable” is the smallest that so many "
                "examples would show four times in five."
            )
        return notes


def compare(
    rows_a: Sequence[Row],
    rows_b: Sequence[Row],
    metrics: Mapping[str, str],
    alpha: float = 0.05,
    seed: int = 0,
) -> Comparison:
    """Compare two models' rows on every task of `metrics` (task → the metric that decides there).

    A task in several languages has a line for each of them too. Raises DataError where a task has no example in common,
    where one id stands for two questions, or where a row lacks its score.
    """
    if not 0 < alpha < 1:
        raise DataError(f"alpha is {alpha}; expected a number between 0 and 1, such as 0.05.")
    units: list[tuple[str, str, str, list[tuple[Row, Row]]]] = []
    missing = {}
    for task, metric in metrics.items():
        pairs, only_a, only_b = paired_rows(task, rows_a, rows_b)
        if only_a or only_b:
            missing[task] = only_a, only_b
        units.append((task, "", metric, pairs))
        languages = sorted({str(one["language"]) for one, _ in pairs})
        if len(languages) > 1:
            for language in languages:
                units.append((task, language, metric, [p for p in pairs if p[0]["language"] == language]))
    lines = [_line(*unit, alpha, len(units), seed) for unit in units]
    adjusted = holm([line.p_value for line in lines])
    return Comparison(
        tuple(_judged(replace(line, adjusted=p), alpha) for line, p in zip(lines, adjusted, strict=True)),
        alpha,
        missing,
    )


def paired_rows(task: str, rows_a: Sequence[Row], rows_b: Sequence[Row]) -> tuple[list[tuple[Row, Row]], int, int]:
    """Both models' rows of each example that both answered, in a's order; and how many only a and only b did. Rows are
    known by their `question`, or where they have none by their `id`."""
    of_a, of_b = _by_question(task, rows_a), _by_question(task, rows_b)
    pairs = [(row, of_b[name]) for name, row in of_a.items() if name in of_b]
    if not pairs:
        raise DataError(
            f"task {task}: the two results have no question in common ({len(of_a)} and {len(of_b)}); run both on the "
            "same ones."
        )
    for one, other in pairs:
        for part in QUESTION:
            if one.get(part) != other.get(part):
                raise DataError(
                    f"task {task} is of two revisions: example {one['id']} is another question in the two results "
                    f"(their {part} differs); run both with the same task file."
                )
    return pairs, len(of_a) - len(pairs), len(of_b) - len(pairs)


def _by_question(task: str, rows: Sequence[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        if row["task"] != task:
            continue
        key = row.get("question", row["id"])
        if key in found:
            raise DataError(
                f"task {task}: two rows of one result have the id {row['id']}, so it can't be told which of them to "
                "compare; give every example an id of its own."
            )
        found[key] = row
    return found


def _line(
    task: str, language: str, metric: str, pairs: Sequence[tuple[Row, Row]], alpha: float, count: int, seed: int
) -> Line:
    a = [score_of(one, metric) for one, _ in pairs]
    b = [score_of(other, metric) for _, other in pairs]
    clusters = clusters_of([one for one, _ in pairs])
    found, test = difference(a, b, clusters, alpha, seed)
    only_a = sum(x > y for x, y in zip(a, b, strict=True))
    only_b = sum(x < y for x, y in zip(a, b, strict=True))
    return Line(
        task=task,
        language=language,
        metric=metric,
        n=len(pairs),
        clusters=len(pairs) if clusters is None else len(set(clusters)),
        a=estimate(a, clusters).mean,
        b=estimate(b, clusters).mean,
        only_a=only_a,
        only_b=only_b,
        difference=found.difference,
        lower=found.lower,
        upper=found.upper,
        p_value=found.p_value,
        adjusted=found.p_value,
        test=test,
        detectable=detectable_difference(a, b, clusters, alpha / count),
        better="",
    )


def _judged(line: Line, alpha: float) -> Line:
    if line.adjusted >= alpha or line.lower <= 0 <= line.upper:
        return line
    return replace(line, better="a" if line.difference > 0 else "b")


def difference(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[object] | None, alpha: float = 0.05, seed: int = 0
) -> tuple[Difference, str]:
    """(difference of two models' scores on the same examples, name of the test).

    Right and wrong: exact McNemar with the interval of Bonett & Price. With clusters, and of other numbers: the
    sign-flip test, which is McNemar's where a cluster is one right or wrong example. The interval is Student's t over
    clusters for right and wrong; the paired bootstrap's for other numbers (whole clusters are drawn), or Student's t
    where they are fewer than 30. One cluster shows nothing: p is 1 and the interval [-1, 1].
    """
    binary = all(value in (0, 1) for values in (a, b) for value in values)
    gap = [x - y for x, y in zip(a, b, strict=True)]
    if clusters is None and binary:
        return paired_accuracy(a, b, 1 - alpha), "exact McNemar"
    count = len(gap) if clusters is None else len(set(clusters))
    if count < 2:
        return Difference(sum(gap) / len(gap), -1.0, 1.0, 1.0, len(gap)), "none: one cluster"
    mean = mean_interval(gap, 1 - alpha, clusters)
    lower, upper = mean.lower, mean.upper
    if mean.stderr < NO_SPREAD:
        lower, upper = no_spread_interval(mean.mean, count, 1 - alpha)
    elif not binary and count >= MANY:
        drawn = paired_bootstrap(a, b, seed, confidence=1 - alpha, clusters=clusters)
        lower, upper = drawn.lower, drawn.upper
    p_value, test = _flipped(gap, clusters, binary, seed)
    return _within_reach(Difference(mean.mean, lower, upper, p_value, len(gap))), test


def _flipped(gap: Sequence[float], clusters: Sequence[object] | None, binary: bool, seed: int) -> tuple[float, str]:
    """(p-value, name) of the sign-flip test: of examples, or of the sums of clusters."""
    if clusters is None:
        p_value, exact = sign_flips(gap, seed)
        return p_value, "exact sign flips" if exact else "sign flips"
    sums: dict[int, float] = {}
    for group, value in zip(group_numbers(clusters).tolist(), gap, strict=True):
        sums[group] = sums.get(group, 0.0) + value
    if binary:
        return sign_flips_exact([round(value) for value in sums.values()]), "exact sign flips of clusters"
    p_value, exact = sign_flips(list(sums.values()), seed)
    return p_value, ("exact " if exact else "") + "sign flips of clusters"


def _within_reach(found: Difference) -> Difference:
    return replace(found, lower=max(-1.0, found.lower), upper=min(1.0, found.upper))


def detectable_difference(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[object] | None, alpha: float
) -> float | None:
    """The smallest true difference that would be called one at `alpha` with 80 % power, given how the scores spread.

    None where there is none: so few examples, or clusters, that not even all of them could make the test say so.
    """
    gap = [x - y for x, y in zip(a, b, strict=True)]
    n = len(gap)
    if mcnemar_exact(n if clusters is None else len(set(clusters)), 0) >= alpha:
        return None  # the smallest p that there can be, of sign flips too
    if clusters is None and all(value in (0, 1) for values in (a, b) for value in values):
        # Where no example told the models apart, the share that would is taken for that of one example.
        discordant = max(1, sum(value != 0 for value in gap)) / n
        found = minimum_detectable_effect(n, discordant, 1 - alpha, POWER)
        return found if isfinite(found) else None
    spread = mean_interval(gap, clusters=clusters).stderr
    found = (normal_quantile(1 - alpha) + NormalDist().inv_cdf(POWER)) * spread
    return found if 0 < found <= 1 else None


def differing(
    rows_a: Sequence[Row], rows_b: Sequence[Row], metrics: Mapping[str, str]
) -> list[tuple[Any, Any, float, float]]:
    """(a's row, b's row, a's score, b's) of every example on which the two scores differ."""
    found = []
    for task, metric in metrics.items():
        for one, other in paired_rows(task, rows_a, rows_b)[0]:
            a, b = score_of(one, metric), score_of(other, metric)
            if a != b:
                found.append((one, other, a, b))
    return found
