"""Does the 95 % interval of Cohen's κ hold the truth where replies belong together, as in `qwill eval --judge`?

    python benchmarks/kappa_coverage.py [--replications 10000]

Requests are asked in two languages (or answered four times); with a chance `alike` a reply and both raters' mistakes
are those of the first. κ of the population follows from the share of refusals p and the raters' rates of mistakes by
arithmetic. Counted is how often the interval over requests holds it, and how often the plain one would, which takes
every reply for an observation of its own.
"""

from __future__ import annotations

import argparse

import numpy as np
from compare import verdict, write_section

from qwill.evaluate.agreement import cohens_kappa

GRID = (0.1, 0.3, 0.5, 0.7, 0.9)
WRONG = (0.15, 0.1)  # how often each rater errs
# (requests, replies of each, chance that a reply is as the first): the box's safety tasks, and larger sets.
CASES = ((60, 2, 0.8), (100, 2, 1.0), (100, 2, 0.5), (100, 4, 0.5), (400, 2, 0.8))


def true_kappa(p: float) -> float:
    a, b = WRONG
    first, second = p * (1 - a) + (1 - p) * a, p * (1 - b) + (1 - p) * b
    observed = (1 - a) * (1 - b) + a * b
    expected = first * second + (1 - first) * (1 - second)
    return (observed - expected) / (1 - expected)


def draw(
    rng: np.random.Generator, p: float, requests: int, size: int, alike: float
) -> tuple[list[bool], list[bool], list[int]]:
    """Both raters' verdicts on all replies, and the request of each."""
    shape = (requests, size)
    copied = rng.random(shape) < alike
    copied[:, 0] = False
    truth, miss_a, miss_b = (
        np.where(copied, one[:, :1], one) for one in (rng.random(shape) < share for share in (p, *WRONG))
    )
    first, second = ((truth ^ miss).ravel().tolist() for miss in (miss_a, miss_b))
    return first, second, np.repeat(np.arange(requests), size).tolist()


def held(p: float, case: tuple[int, int, float], replications: int) -> tuple[float, float]:
    """(share of intervals over requests that hold κ, share of plain ones)."""
    rng, kappa, found = np.random.default_rng([round(1000 * p), *case[:2], round(10 * case[2])]), true_kappa(p), [0, 0]
    for _ in range(replications):
        first, second, requests = draw(rng, p, *case)
        for place, clusters in enumerate((requests, None)):
            interval = cohens_kappa(first, second, (False, True), clusters=clusters).interval
            found[place] += interval is not None and interval.lower <= kappa <= interval.upper
    return found[0] / replications, found[1] / replications


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=10_000)
    given = parser.parse_args()
    lines, met = [], True
    for case in CASES:
        over, plain = (
            100 * np.array(shares) for shares in zip(*(held(p, case, given.replications) for p in GRID), strict=True)
        )
        if case[0] * case[1] >= 200:
            met = met and 94 <= over.mean() <= 96
        cells = (f"{one.mean():.2f} % ({one.min():.1f} to {one.max():.1f})" for one in (over, plain))
        lines.append(f"| {case[0]} × {case[1]}, {case[2]:g} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    body = (
        f"`benchmarks/kappa_coverage.py`: {given.replications:,} evaluations drawn at each share of refusals p in "
        f"{', '.join(map(str, GRID))}; the raters err in {100 * WRONG[0]:g} and {100 * WRONG[1]:g} % of replies. "
        "Average over the grid (smallest and largest of it).\n\n"
        "| requests × replies, chance that a reply is as the first | over requests holds κ | plain interval |\n"
        "|---|---|---|\n" + "\n".join(lines) + "\n\n"
        + verdict("94–96 % of nominal 95 % intervals of κ over requests hold the truth, from 200 replies on", met)
    )  # fmt: skip
    write_section("Coverage of κ's interval where replies belong together (`kappa_coverage.py`)", body)


if __name__ == "__main__":
    main()
