"""Do 95 % intervals hold the truth 95 times in 100? Proportions, means and differences, with the functions that
`qwill eval` calls (the ratings' intervals have a study of their own).

    python benchmarks/coverage.py [--replications 10000] [--processes 2]

For each kind of interval and each true score p of a grid over [0.1, 0.9], so many evaluations are drawn, and counted
how often their interval holds the truth. What is claimed is the average over the grid; the smallest and largest share
are shown beside it. The tests are given models that are equally good, and may call one better 5 times in 100 at most.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from compare import verdict, write_section

from qwill.evaluate.comparison import compare, difference
from qwill.evaluate.sign_flips import sign_flips
from qwill.evaluate.statistics import paired_bootstrap, pass_at_k, wilson
from qwill.evaluate.task_scores import estimate

Draw = Callable[[np.random.Generator, float, int], tuple[bool, bool]]
GRID = [round(p, 3) for p in np.linspace(0.1, 0.9, 17)]
COARSE = [round(p, 3) for p in np.linspace(0.1, 0.9, 5)]
# Of the bootstrap's resamples, and of signs with those found, in this study. `qwill eval compare` draws 10,000, which
# is no worse.
RESAMPLES = 1000


@dataclass(frozen=True)
class Study:
    """`draw(rng, p, n)` makes one evaluation: (its interval holds the truth, its test calls a model better)."""

    name: str
    n: int
    draw: Draw
    grid: list[float]
    equal: bool = False  # the models are equally good, so that `better` is an error


def one_proportion(rng: np.random.Generator, p: float, n: int) -> tuple[bool, bool]:
    lower, upper = wilson(int(rng.binomial(n, p)), n)
    return lower <= p <= upper, False


def one_mean(rng: np.random.Generator, p: float, n: int) -> tuple[bool, bool]:
    """Graded replies: a quarter worth nothing or everything, the rest in between."""
    values = rng.beta(2 * p, 2 * (1 - p), n)
    found = estimate(np.clip(values, 0, 1).tolist())
    return found.lower <= p <= found.upper, False


def pass_at_four(rng: np.random.Generator, p: float, n: int) -> tuple[bool, bool]:
    """Sixteen replies a problem; how hard problems are differs by a Beta law, such that pass@4 is p."""
    mean = MEANS[p]
    right = rng.binomial(16, rng.beta(2 * mean, 2 * (1 - mean), n))
    found = estimate([AT_FOUR[c] for c in right])
    return found.lower <= p <= found.upper, False


def mean_for(p: float) -> float:
    """The m for which 1 - E[(1 - x)⁴] is p, x being Beta(2m, 2 - 2m): E[(1 - x)⁴] = Π (2 - 2m + i)/(2 + i)."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if 1 - math.prod((2 - 2 * middle + i) / (2 + i) for i in range(4)) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


MEANS = {p: mean_for(p) for p in GRID}
AT_FOUR = [pass_at_k(16, c, 4) for c in range(17)]


def clustered(rng: np.random.Generator, n: int) -> tuple[list[int], int]:
    """Passages of 1 to 8 questions, `n` passages: the passage of each question."""
    sizes = rng.integers(1, 9, n)
    return np.repeat(np.arange(n), sizes).tolist(), n


def one_clustered(rng: np.random.Generator, p: float, n: int) -> tuple[bool, bool]:
    """Right and wrong; what a passage asks is equally hard throughout, with a correlation of 1/3 within it."""
    clusters, count = clustered(rng, n)
    hard = rng.beta(2 * p, 2 * (1 - p), count)[clusters]
    found = estimate((rng.random(len(hard)) < hard).astype(float).tolist(), clusters)
    return found.lower <= p <= found.upper, False


def two_models(rng: np.random.Generator, p: float, shape: tuple[int, ...], gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Chances of being right of two models, alike in what they find hard, with means p and p + gap."""
    hard = rng.beta(2 * p, 2 * (1 - p), shape)
    return hard, np.clip(hard + gap * np.where(gap > 0, (1 - hard) / (1 - p), hard / p), 0, 1)


def gap_at(p: float, equal: bool) -> float:
    return 0.0 if equal else (0.1 if p < 0.5 else -0.1)


def paired(equal: bool, grouped: bool) -> Draw:
    """Right and wrong of two models on the same questions, or on the same passages."""

    def draw(rng: np.random.Generator, p: float, n: int) -> tuple[bool, bool]:
        gap = gap_at(p, equal)
        clusters = None
        if grouped:
            clusters, count = clustered(rng, n)
            chance_a, chance_b = two_models(rng, p, (count,), gap)
            chance_a, chance_b = chance_a[clusters], chance_b[clusters]
        else:
            chance_a, chance_b = two_models(rng, p, (n,), gap)
        a, b = (rng.random(len(chance_a)) < chance_a), (rng.random(len(chance_b)) < chance_b)
        found, _ = difference(a.astype(float).tolist(), b.astype(float).tolist(), clusters)
        return found.lower <= -gap <= found.upper, found.p_value < 0.05 and not found.lower <= 0 <= found.upper

    return draw


def bootstrapped(grouped: bool) -> Draw:
    """Graded replies of two models that are equally good."""

    def draw(rng: np.random.Generator, p: float, n: int) -> tuple[bool, bool]:
        clusters = clustered(rng, n)[0] if grouped else None
        count = n if clusters is None else len(clusters)
        shared = rng.beta(2 * p, 2 * (1 - p), n)
        shared = shared if clusters is None else shared[clusters]
        # Each model's own score around what the question (or passage) is worth, both with the same law.
        a, b = (rng.beta(4 * shared + 1e-9, 4 * (1 - shared) + 1e-9, count) for _ in range(2))
        found = paired_bootstrap(a, b, int(rng.integers(1 << 31)), RESAMPLES, clusters=clusters)
        sums = a - b if clusters is None else np.bincount(clusters, weights=a - b)
        p_value, _ = sign_flips(sums.tolist(), int(rng.integers(1 << 31)), RESAMPLES - 1)
        return found.lower <= 0 <= found.upper, p_value <= 0.05

    return draw


def table_of_chance(rng: np.random.Generator, p: float, n: int) -> tuple[bool, bool]:
    """Ten tasks on which both are equally good: does `qwill eval compare` name a winner anywhere?"""
    rows: tuple[list[dict[str, object]], ...] = ([], [])
    for side in rows:
        for task in range(10):
            right = (rng.random(n) < p).astype(float).tolist()
            side += [
                {"task": str(task), "id": str(i), "language": "en", "scores": {"acc": value}}
                for i, value in enumerate(right)
            ]
    found = compare(rows[0], rows[1], {str(task): "acc" for task in range(10)})
    return True, any(line.better for line in found.lines)


EQUAL = "difference of accuracies, equal models: Bonett–Price and exact McNemar, n = 200"
EQUAL_CLUSTERS = "difference in clusters, equal models: t and exact sign flips, 200 clusters"
BOOTSTRAP = f"difference of graded scores, equal models: bootstrap and sign flips ({RESAMPLES} of each), n = 200"
STUDIES = [
    Study("accuracy: Wilson, n = 200", 200, one_proportion, GRID),
    Study("accuracy: Wilson, n = 1000", 1000, one_proportion, GRID),
    Study("graded score: Wilson of the spread, n = 200", 200, one_mean, GRID),
    Study("pass@4 of 16 samples: Wilson of the spread, n = 200", 200, pass_at_four, GRID),
    Study("accuracy in clusters: Wilson of the spread of 200 clusters of 1 to 8", 200, one_clustered, GRID),
    Study("difference of accuracies, 10 points: Bonett–Price, n = 200", 200, paired(False, False), GRID),
    Study(EQUAL, 200, paired(True, False), GRID, True),
    Study("difference in clusters, 10 points: t over 200 clusters", 200, paired(False, True), GRID),
    Study(EQUAL_CLUSTERS, 200, paired(True, True), GRID, True),
    Study(BOOTSTRAP, 200, bootstrapped(False), COARSE, True),
    Study("the same in 200 clusters of 1 to 8", 200, bootstrapped(True), COARSE, True),
]
TABLES = Study("ten tasks, equal models: any winner after Holm", 200, table_of_chance, [0.1, 0.5, 0.9], True)


def one_point(number: int, place: int, replications: int) -> tuple[float, float]:
    """(share that holds the truth, share that calls one better) at a point of a study's grid."""
    study = [*STUDIES, TABLES][number]
    rng = np.random.default_rng([2, number, place])
    found = [study.draw(rng, study.grid[place], study.n) for _ in range(replications)]
    held, better = (sum(column) / replications for column in zip(*found, strict=True))
    return held, better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    started = time.perf_counter()
    studies = [*STUDIES, TABLES]
    with ProcessPoolExecutor(given.processes) as pool:
        waiting = [
            [
                # A table is ten evaluations of two models; a tenth of them is as much work, and as many tests.
                pool.submit(one_point, i, j, given.replications // (10 if study is TABLES else 1))
                for j in range(len(study.grid))
            ]
            for i, study in enumerate(studies)
        ]
        lines, met, careful = [], True, True
        for study, futures in zip(studies, waiting, strict=True):
            held, better = zip(*(future.result() for future in futures), strict=True)
            average, error = 100 * float(np.mean(held)), 100 * float(np.mean(better))
            share = "–"
            if study is not TABLES:
                met = met and 94 <= average <= 96
                share = f"{average:.2f} % ({100 * min(held):.1f} to {100 * max(held):.1f})"
            wrong = "–"
            if study.equal:
                # Sign flips err just 5 times in 100, so that half of all runs of this study find a little more.
                noise = min(0.3, 300 * math.sqrt(0.05 * 0.95 / (given.replications * len(study.grid))))
                exact = "sign flips" in study.name or "the same" in study.name
                careful = careful and error <= 5 + (noise if exact else 0)
                wrong = f"{error:.2f} % (at most {100 * max(better):.1f})"
            lines.append(f"| {study.name} | {share} | {wrong} |")
            print(lines[-1], flush=True)
    body = (
        f"`benchmarks/coverage.py`: {given.replications:,} evaluations drawn at each of {len(GRID)} true scores p from "
        f"0.1 to 0.9 ({len(COARSE)} for the bootstrap; tables of ten tasks: a tenth as many at three p), with the "
        "functions that `qwill eval` calls. Average over the grid (smallest and largest of it).\n\n"
        "| interval at 95 % | holds the truth | calls one of two equal models better |\n|---|---|---|\n"
        + "\n".join(lines)
        + "\n\n"
        + verdict("94–96 % of nominal 95 % intervals hold the truth, proportions, means and differences", met)
        + " "
        + verdict(
            "equal models are told apart at most 5 times in 100 (by sign flips within three standard errors)", careful
        )
    )
    print(f"\n{time.perf_counter() - started:.0f} s")
    write_section("Coverage of intervals: scores and their differences", body)


if __name__ == "__main__":
    main()
