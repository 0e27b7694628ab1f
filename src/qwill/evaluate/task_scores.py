"""From the rows of an evaluation to scores with uncertainty, for a task, its languages and its categories.

A row is one example of one task: `{task, id, language, category, cluster, prompt, …, scores: {metric: number}}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate.statistics import bounded_interval, mean_interval, wilson

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean score and its 95 % interval. `stderr` is None where one example, or one cluster, shows no spread.

    method: `wilson` for right and wrong; `spread` for other numbers and `clusters` where examples share a source:
    Wilson's from as many trials as would spread so (`bounded_interval`); `none` where there is nothing to judge the
    spread by, and the interval is all of [0, 1].
    """

    mean: float
    lower: float
    upper: float
    stderr: float | None
    n: int
    clusters: int
    method: str


def clusters_of(rows: Sequence[Row]) -> list[object] | None:
    """The cluster of each row, None where no two share one. A row without a cluster is a cluster by itself."""
    clusters = [row.get("cluster") for row in rows]
    names: list[object] = [("alone", i) if name in (None, "") else name for i, name in enumerate(clusters)]
    return names if len(set(names)) < len(names) else None


def estimate(values: Sequence[float], clusters: Sequence[object] | None = None) -> Estimate:
    """Mean of scores from 0 to 1, with the interval that fits them. DataError for none, and for one that is no
    number."""
    n = len(values)
    groups = n if clusters is None else len(set(clusters))
    if not n:
        raise DataError("there is no example to score; give the task some.")
    binary = all(value in (0, 1) for value in values)
    if groups < 2:
        mean = sum(values) / n
        if binary and clusters is None:
            return Estimate(mean, *wilson(int(mean), 1), None, n, groups, "wilson")
        return Estimate(mean, 0.0, 1.0, None, n, groups, "none")
    found = mean_interval(values, clusters=clusters)
    if binary and clusters is None:
        return Estimate(found.mean, *wilson(sum(map(int, values)), n), found.stderr, n, n, "wilson")
    lower, upper = bounded_interval(found.mean, found.stderr, groups)
    method = "spread" if clusters is None else "clusters"
    return Estimate(found.mean, min(lower, found.mean), max(upper, found.mean), found.stderr, n, groups, method)


def score_of(row: Row, metric: str) -> float:
    """The row's score under a metric. DataError naming task and example for one that is not there or no number."""
    value = row.get("scores", {}).get(metric)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(
            f"task {row.get('task')}, example {row.get('id')}: its score {metric} is {value!r}; expected a number from "
            "0 to 1. Run `qwill eval` again."
        )
    return float(value)


def summarise(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any]:
    """The scores of one task: `{examples, metrics, all: {metric: Estimate}, languages: {…}, categories: {…}}`.

    `metrics` are in the order that the task names them; the first is the one that models are compared by. Languages
    and categories are listed where there are several.
    """
    return {
        "examples": len(rows),
        "metrics": list(metrics),
        "all": _estimates(rows, metrics),
        "languages": _parts(rows, metrics, "language"),
        "categories": _parts(rows, metrics, "category"),
    }


def _parts(rows: Sequence[Row], metrics: Sequence[str], name: str) -> dict[str, Any]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(str(row.get(name) or ""), []).append(row)
    return {part: _estimates(own, metrics) for part, own in sorted(parts.items())} if len(parts) > 1 else {}


def _estimates(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, Any]:
    clusters = clusters_of(rows)
    return {metric: asdict(estimate([score_of(row, metric) for row in rows], clusters)) for metric in metrics}
