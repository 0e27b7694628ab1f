"""Plain ratings of a few dozen models without NumPy, whose import alone would take longer than reading and rating.

The same numbers as `arena.fit_ratings` without weights, features, clusters and prior, with its default ridge (tests
hold them to 1e-8 rating points); `qwill arena rate` answers with it where it can.
"""

from __future__ import annotations

import math
from collections import Counter
from operator import mul

from qwill.evaluate.quantiles import normal_quantile

TYPE_CHECKING = False  # `typing` would take longer to import than the rest
if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_MODELS = 40
CENTRE, POINTS = 1000.0, 400.0 / math.log(10.0)
HESSIAN_RIDGE, SMALL_STEP, ROUNDING, STEPS = 1e-5, 1e-9, 1e-6, 100

Matrix = list[list[float]]


class SmallRatings:
    """As `arena.Ratings`, in lists; `points` [i][j] that i won from j, `battles` between the two."""

    def __init__(
        self, models: list[str], rating: list[float], stderr: list[float], confidence: float, points: Matrix,
        battles: list[list[int]],
    ) -> None:  # fmt: skip
        z = normal_quantile(confidence)
        self.models, self.rating, self.stderr, self.points, self.battles = models, rating, stderr, points, battles
        self.lower = [r - z * s for r, s in zip(rating, stderr, strict=True)]
        self.upper = [r + z * s for r, s in zip(rating, stderr, strict=True)]
        self.rank = [1 + sum(low > high + ROUNDING for low in self.lower) for high in self.upper]


def rate_small(
    model_a: Sequence[str], model_b: Sequence[str], outcome: Sequence[float], confidence: float = 0.95
) -> SmallRatings | None:
    """None where that can't be done here: too many models, or votes that leave no finite ratings (of which
    `arena.fit_ratings` says what is wrong)."""
    cells = Counter(zip(model_a, model_b, outcome, strict=True))
    models = sorted({name for a, b, _ in cells for name in (a, b)})
    m = len(models)
    if not 2 <= m <= MOST_MODELS:
        return None
    place = {name: i for i, name in enumerate(models)}
    points = [[0.0] * m for _ in models]
    squares = [[0.0] * m for _ in models]
    battles = [[0] * m for _ in models]
    for (a, b, y), count in cells.items():
        for i, j, won in ((place[a], place[b], y), (place[b], place[a], 1 - y)):
            points[i][j] += count * won
            squares[i][j] += count * won * won
            battles[i][j] += count
    if not _finite(points):
        return None
    strength = _strengths(points, battles)
    if strength is None:
        return None
    variance = _variances(points, squares, battles, strength)
    rating = [CENTRE + POINTS * r for r in strength]
    stderr = [POINTS * math.sqrt(max(v, 0.0)) for v in variance]
    return SmallRatings(models, rating, stderr, confidence, points, battles)


def _finite(points: Matrix) -> bool:
    """Whether a chain of wins leads from every model to every other (Ford 1957)."""
    for table in (points, list(zip(*points, strict=True))):
        seen, edge = {0}, [0]
        while edge:
            edge = [j for j in {j for i in edge for j, won in enumerate(table[i]) if won > 0} if j not in seen]
            seen.update(edge)
        if len(seen) < len(points):
            return False
    return True


def _strengths(points: Matrix, battles: list[list[int]]) -> list[float] | None:
    """Newton's method with step halving, as `arena_likelihood.maximise`."""
    m = len(points)
    strength = [0.0] * m
    value = _likelihood(points, strength)
    for _ in range(STEPS):
        chance = _chances(strength)
        gradient = [sum(won) - sum(map(mul, met, row)) for won, met, row in zip(points, battles, chance, strict=True)]
        step = _solve(_cholesky(_hessian(battles, chance, 0.0)), gradient)
        size = max(map(abs, step))
        while size > SMALL_STEP:
            tried = _likelihood(points, [r + s for r, s in zip(strength, step, strict=True)])
            if tried >= value - 1e-12 * abs(value):
                break
            step, size = [s / 2 for s in step], size / 2
        strength = [r + s for r, s in zip(strength, step, strict=True)]
        if size <= SMALL_STEP:
            return strength
        value = _likelihood(points, strength)
    return None


def _likelihood(points: Matrix, strength: list[float]) -> float:
    return sum(
        won * -math.log1p(math.exp(other - own)) if other - own < 700 else won * (own - other)
        for own, row in zip(strength, points, strict=True)
        for other, won in zip(strength, row, strict=True)
        if won
    )


def _variances(points: Matrix, squares: Matrix, battles: list[list[int]], strength: list[float]) -> list[float]:
    """The diagonal of H⁻¹BH⁻¹; the common level is in neither, so ratings are centred as they are."""
    m, chance = len(points), _chances(strength)
    spread = [
        [s - 2 * p * won + p * p * met for s, p, won, met in zip(*rows, strict=True)]
        for rows in zip(squares, chance, points, battles, strict=True)
    ]
    ridge = HESSIAN_RIDGE * sum(map(sum, battles)) / 2
    factor = _cholesky(_hessian(battles, chance, ridge))
    inverse = [_solve(factor, [float(i == j) for j in range(m)]) for i in range(m)]
    found = []
    for row in inverse:
        # (Laplacian of spread)·row, without building it.
        pushed = [sum(map(mul, s, (own - other for other in row))) for own, s in zip(row, spread, strict=True)]
        found.append(sum(map(mul, row, pushed)))
    return found


def _hessian(battles: list[list[int]], chance: Matrix, ridge: float) -> Matrix:
    """With the common level fixed, as `arena_likelihood.gauge` does."""
    m = len(battles)
    level = sum(map(sum, battles)) / 2 / m**2
    hessian = [
        [level - met * p * (1 - p) for met, p in zip(*rows, strict=True)] for rows in zip(battles, chance, strict=True)
    ]
    for i, row in enumerate(hessian):
        row[i] = level + ridge + (m - 1) * level - (sum(row) - row[i])
    return hessian


def _chances(strength: list[float]) -> Matrix:
    return [[0.5 * (1.0 + math.tanh(0.5 * (own - other))) for other in strength] for own in strength]


def _cholesky(matrix: Matrix) -> Matrix:
    """Lower L with LLᵀ = matrix."""
    lower: Matrix = []
    for i, row in enumerate(matrix):
        new: list[float] = []
        for j in range(i):
            new.append((row[j] - sum(map(mul, new, lower[j]))) / lower[j][j])
        new.append(math.sqrt(row[i] - sum(map(mul, new, new))))
        lower.append(new)
    return lower


def _solve(lower: Matrix, right: list[float]) -> list[float]:
    forward: list[float] = []
    for row, value in zip(lower, right, strict=True):
        forward.append((value - sum(map(mul, row, forward))) / row[-1])
    found = [0.0] * len(lower)
    for i in range(len(lower) - 1, -1, -1):
        found[i] = forward[i] / lower[i][i]
        for j in range(i):
            forward[j] -= lower[i][j] * found[i]
    return found
