"""How sure are we: intervals, paired tests and sample sizes for scores of language models.

Every function is a pure function of numbers or arrays. Sources, cited where they are used: Wilson (1927);
McNemar (1947); Bonett & Price (2012), recommended by Fagerland, Lydersen & Laake (2014); Efron (1979); Chen
et al. (2021) for pass@k; Connor (1987) for sample sizes; Holm (1979) for several tests at once; Miller (2024),
"Adding error bars to evals", for the use of paired and clustered errors with language models.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwill.base.errors import DataError
from qwill.evaluate.quantiles import normal_quantile as normal_quantile

# A block of bootstrap indices this large stays near 32 MB whatever the number of examples.
BOOTSTRAP_BLOCK = 4_000_000


class Interval(NamedTuple):
    lower: float
    upper: float


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error and Student-t interval over `n` examples in `clusters` groups."""

    mean: float
    stderr: float
    lower: float
    upper: float
    n: int
    clusters: int


@dataclass(frozen=True)
class Difference:
    """Mean of `a - b` over the same examples; `p_value` is two-sided against "no difference"."""

    difference: float
    lower: float
    upper: float
    p_value: float
    n: int


def wilson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion of `k` successes in `n` trials (Wilson 1927, JASA 22).

    Unlike the textbook p ± z·se it keeps its coverage near 0 and 1 and never leaves [0, 1].
    """
    _check_count("k", k)
    _check_count("n", n)
    if n < 1 or k > n:
        raise DataError(f"wilson got k={k} of n={n}, expected 0 <= k <= n and n >= 1; check the counts.")
    z = normal_quantile(confidence)
    share = k / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(0.0 if k == 0 else centre - half, 1.0 if k == n else centre + half)


def mcnemar_exact(b: int, c: int) -> float:
    """Exact two-sided p-value of McNemar's test from the two discordant counts.

    `b` examples only the first model got right, `c` only the second; under "equally good" each falls on
    either side with probability 1/2, so p = 2·P(Binomial(b+c, 1/2) <= min(b, c)), at most 1 (McNemar 1947;
    the exact form). The sum is over integers, so it neither under- nor overflows.
    """
    _check_count("b", b)
    _check_count("c", c)
    b, c = int(b), int(c)  # NumPy integers would wrap around below
    n, fewer = b + c, min(b, c)
    term = total = 1
    for i in range(1, fewer + 1):
        term = term * (n - i + 1) // i
        total += term
    doubled = 2 * total
    if doubled >= 1 << n:
        return 1.0
    # Python divides integers of any size correctly rounded, where 2.0**-n would underflow for n > 1074.
    return doubled / (1 << n)


def paired_accuracy(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Difference:
    """Difference of two accuracies on the same examples: 0/1 or bool arrays `a`, `b` of equal length.

    Interval: Bonett & Price (2012), Laplace-adjusted Wald, (b12 + 1)/(n + 2) for each discordant share, which
    keeps its coverage when few examples differ. p-value: exact McNemar. The estimate itself is not adjusted,
    and the interval always holds it.
    """
    right_a, right_b = _paired(a, b)
    for name, values in (("a", right_a), ("b", right_b)):
        if not np.isin(values, (0.0, 1.0)).all():
            raise DataError(f"paired_accuracy got values other than 0 and 1 in {name}; use paired_bootstrap.")
    n = len(right_a)
    only_a = int(np.sum(right_a > right_b))
    only_b = int(np.sum(right_b > right_a))
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    centre = share_a - share_b
    half = normal_quantile(confidence) * math.sqrt((share_a + share_b - centre**2) / (n + 2))
    difference = (only_a - only_b) / n
    return Difference(
        difference,
        max(-1.0, min(centre - half, difference)),
        min(1.0, max(centre + half, difference)),
        mcnemar_exact(only_a, only_b),
        n,
    )


def sign_flips_exact(sums: Sequence[int]) -> float:
    """Exact two-sided p-value of the sign-flip test: how often whole numbers whose signs are tossed like coins add up
    to something as far from zero as these.

    Under "equally good" the two models may be swapped in each group of examples, which flips the sign of the group's
    summed difference. With one example in each group this is `mcnemar_exact`.
    """
    chance = np.ones(1)  # of each sum that can be, from the lowest to the highest in steps of 1
    for step, count in Counter(abs(step) for step in map(int, sums) if step).items():
        ways, heads = 1, np.zeros(2 * step * count + 1)
        for up in range(count + 1):
            # Python divides integers of any size correctly rounded.
            heads[2 * step * up] = ways / (1 << count)
            ways = ways * (count - up) // (up + 1)
        chance = np.convolve(chance, heads)
    found = abs(sum(map(int, sums)))
    return min(1.0, 2 * float(chance[len(chance) // 2 + found :].sum())) if found else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979): whoever calls those below α real errs, in at least one of them,
    with a chance of α at most, however they depend on each other. DataError for what is no probability."""
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise DataError(f"holm got a p-value of {wrong[0]}, expected numbers from 0 to 1; repair that test.")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(1.0, largest)
    return adjusted


def group_numbers(clusters: Sequence[object]) -> NDArray[np.int64]:
    """The group of each example as a number from 0, in order of first appearance."""
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in clusters], dtype=np.int64)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    seed: int,
    resamples: int = 10_000,
    confidence: float = 0.95,
    clusters: Sequence[object] | None = None,
) -> Difference:
    """Percentile bootstrap of mean(a - b) over the same examples (Efron 1979); scores may be any real
    numbers. With `clusters`, the group of each example, whole groups are drawn.

    Pairs are drawn together, so what the two models share (an example that is hard for both) cancels. The
    p-value is twice the smaller tail of resampled differences on the wrong side of zero, with one added to
    numerator and denominator (Davison & Hinkley 1997, chapter 4), so it is never 0; it is right for many examples
    only, that of `sign_flips` for any number. Same seed, same result. Needs at least two examples, or groups.
    """
    values_a, values_b = _paired(a, b)
    _check_confidence(confidence)
    if resamples < 1 or seed < 0:
        raise DataError(
            f"paired_bootstrap got resamples={resamples}, seed={seed}, expected at least 1 and a seed of 0 or more; "
            "use 10000 and 0."
        )
    gap = values_a - values_b
    n = len(gap)
    groups = _groups("paired_bootstrap", n, clusters)
    sums, sizes = np.bincount(groups, weights=gap), np.bincount(groups)
    generator = np.random.Generator(np.random.PCG64(seed))
    means = np.empty(resamples)
    rows = max(1, BOOTSTRAP_BLOCK // len(sums))
    for start in range(0, resamples, rows):
        stop = min(resamples, start + rows)
        drawn = generator.integers(0, len(sums), size=(stop - start, len(sums)))
        means[start:stop] = sums[drawn].sum(axis=1) / (n if clusters is None else sizes[drawn].sum(axis=1))
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(means, [tail, 1 - tail])
    smaller = min(int(np.sum(means <= 0)), int(np.sum(means >= 0)))
    p_value = min(1.0, 2 * (smaller + 1) / (resamples + 1))
    return Difference(float(gap.mean()), float(lower), float(upper), p_value, n)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of `k` samples is right, from `c` right ones of `n`
    drawn.

    1 - C(n-c, k)/C(n, k), as a product so that nothing overflows (Chen et al. 2021, arXiv:2107.03374, eq. 1).
    """
    for name, value in (("n", n), ("c", c), ("k", k)):
        _check_count(name, value)
    if not (1 <= k <= n and c <= n):
        raise DataError(f"pass_at_k got n={n}, c={c}, k={k}, expected c <= n, 1 <= k <= n; draw more samples.")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def mean_interval(values: ArrayLike, confidence: float = 0.95, clusters: Sequence[object] | None = None) -> Mean:
    """Mean of scores with a Student-t interval; `clusters` names the group (passage, problem) of each
    example.

    Examples of one group are not independent; their errors are then summed before squaring (Miller 2024,
    section 2.2), with the factor G/(G-1) that makes groups of one example the ordinary standard error. Needs
    at least two groups.
    """
    scores = _finite("values", values)
    n = len(scores)
    groups = _groups("mean_interval", n, clusters)
    count = int(groups.max()) + 1
    mean = float(scores.mean())
    sums = np.bincount(groups, weights=scores - mean)
    stderr = math.sqrt(float(sums @ sums) * count / (count - 1)) / n
    half = student_quantile(confidence, count - 1) * stderr
    return Mean(mean, stderr, mean - half, mean + half, n, count)


def bounded_interval(mean: float, stderr: float, groups: int, confidence: float = 0.95) -> Interval:
    """Wilson's interval for a mean of scores from 0 to 1, from as many trials as would have this standard error.

    n' = mean·(1 - mean)/stderr² is how many independent right-or-wrong examples would spread so (their design effect),
    and Student's t of `groups` - 1 degrees stands in z's place, as Franco et al. (2019, J. Surv. Stat. Methodol. 7)
    do for surveys. Near 0 and 1, where scores are skewed, it holds the truth more often than mean ± t·stderr.
    Groups that show no spread at all count as one trial each.
    """
    if not (0 <= mean <= 1 and 0 <= stderr < math.inf):
        raise DataError(
            f"bounded_interval got mean={mean}, stderr={stderr}, expected a mean from 0 to 1 and its error."
        )
    if groups < 2:
        raise DataError(f"bounded_interval got {groups} independent examples; give at least 2, or no spread shows.")
    spread = mean * (1 - mean)
    trials = spread / stderr**2 if stderr > 0 and spread > 0 else float(groups)
    t = student_quantile(confidence, groups - 1)
    centre = (mean + t * t / (2 * trials)) / (1 + t * t / trials)
    half = t / (1 + t * t / trials) * math.sqrt(max(0.0, spread) / trials + t * t / (4 * trials * trials))
    # At the ends rounding would leave the mean itself out.
    return Interval(0.0 if mean == 0 else max(0.0, centre - half), 1.0 if mean == 1 else min(1.0, centre + half))


@lru_cache(maxsize=1024)
def student_quantile(confidence: float, degrees: int) -> float:
    """The t for which Student's distribution lies within ±t with probability `confidence`.

    Abramowitz & Stegun (1964): the finite series 26.7.3 and 26.7.4, inverted by bisection; from 200 degrees of freedom
    on the expansion 26.7.5 around the normal quantile, whose error is below 1e-9 there.
    """
    if degrees < 1:
        raise DataError(f"Student's t was asked for with {degrees} degrees of freedom, expected at least 1.")
    z = normal_quantile(confidence)
    if degrees >= 200:
        return (
            z
            + (z**3 + z) / (4 * degrees)
            + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
            + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * degrees**4)
        )
    low, high = 0.0, math.pi / 2
    for _ in range(64):
        angle = (low + high) / 2
        if _within(angle, degrees) < confidence:
            low = angle
        else:
            high = angle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(angle: float, degrees: int) -> float:
    """P(|T| <= √degrees·tan(angle)) for Student's T."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def minimum_detectable_effect(n: int, discordant: float, confidence: float = 0.95, power: float = 0.8) -> float:
    """Smallest difference of two accuracies that `n` shared examples would show with the given power.

    `discordant` is the share of examples on which exactly one of the two models is right. Solves Connor
    (1987, Biometrics 43), n = (z_a·√ψ + z_b·√(ψ - δ²))²/δ², for δ. `math.inf` when even a difference as large
    as ψ, the largest there can be, would not be seen.
    """
    if not 1 <= n < math.inf or not 0.0 < discordant <= 1.0 or not 0.5 <= power < 1.0:
        raise DataError(
            f"minimum_detectable_effect got n={n}, discordant={discordant}, power={power}, "
            "expected n >= 1, 0 < discordant <= 1 and 0.5 <= power < 1; check the numbers."
        )
    z_a, z_b = normal_quantile(confidence), NormalDist().inv_cdf(power)
    # δ is the larger root of (n + z_b²)δ² - 2√n·z_a·√ψ·δ + (z_a² - z_b²)ψ = 0: the smaller has √n·δ < z_a·√ψ.
    room = n - z_a**2 + z_b**2
    if room < 0:
        return math.inf  # no δ at all solves it: even if all examples told one model from the other, n would be too few
    root = z_b * math.sqrt(discordant * room)
    effect = (z_a * math.sqrt(n * discordant) + root) / (n + z_b**2)
    return effect if effect <= discordant else math.inf


def no_spread_interval(mean: float, groups: int, confidence: float = 0.95) -> Interval:
    """Of a mean difference in [-1, 1] that was the same in all of `groups` examples or clusters.

    No spread is no certainty: as many others as Wilson's upper end of 0 in `groups` may be as different as can be.
    """
    others = wilson(0, groups, confidence).upper
    return Interval(mean - others * (1 + mean), mean + others * (1 - mean))


def _groups(who: str, n: int, clusters: Sequence[object] | None) -> NDArray[np.int64]:
    """The group of each of n examples as a number; DataError where there are fewer than two groups."""
    if clusters is not None and len(clusters) != n:
        raise DataError(f"{who} got {n} values and {len(clusters)} clusters; give one for each value.")
    groups = np.arange(n) if clusters is None else group_numbers(clusters)
    count = int(groups.max()) + 1 if n else 0
    if count < 2:
        raise DataError(f"{who} got {count} independent examples; give at least 2, or no spread shows.")
    return groups


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise DataError(f"confidence is {confidence}, expected a number between 0 and 1, such as 0.95.")


def _check_count(name: str, value: int) -> None:
    if not 0 <= value < math.inf or int(value) != value:
        raise DataError(f"{name} is {value!r}, expected a count (a whole number, 0 or more).")


def _finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}, expected one number for each example.")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(f"{name}[{bad[0]}] is {array[bad[0]]}, expected a finite number; repair that example.")
    return array


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values_a, values_b = _finite("a", a), _finite("b", b)
    if len(values_a) != len(values_b) or not len(values_a):
        raise DataError(
            f"a paired comparison got {len(values_a)} and {len(values_b)} examples, "
            "expected the same examples, at least one, in the same order for both; align them first."
        )
    return values_a, values_b
