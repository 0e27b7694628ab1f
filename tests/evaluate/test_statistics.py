"""Intervals and tests against their definitions: enumeration, scipy, and coverage computed exactly."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qwill.base.errors import DataError
from qwill.evaluate.statistics import (
    bounded_interval,
    holm,
    mcnemar_exact,
    mean_interval,
    minimum_detectable_effect,
    no_spread_interval,
    normal_quantile,
    paired_accuracy,
    paired_bootstrap,
    pass_at_k,
    student_quantile,
    wilson,
)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.99))
def test_wilson_is_scipys_and_stays_in_the_unit_interval(counts, confidence):
    k, n = counts
    lower, upper = wilson(k, n, confidence)
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (lower, upper) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= lower <= k / n <= upper <= 1
    mirrored = wilson(n - k, n, confidence)
    assert (1 - mirrored.upper, 1 - mirrored.lower) == pytest.approx((lower, upper), abs=1e-12)


@pytest.mark.parametrize("n", [200, 1000])
def test_wilson_covers_as_often_as_it_says(n):
    # Exact: the probability of every k for which the interval holds p, averaged over a grid of p.
    ends = np.array([wilson(k, n) for k in range(n + 1)])
    coverage = [
        stats.binom.pmf(np.flatnonzero((ends[:, 0] <= p) & (p <= ends[:, 1])), n, p).sum()
        for p in np.linspace(0.1, 0.9, 81)
    ]
    assert 0.945 < np.mean(coverage) < 0.955


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test(b, c):
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_mcnemar_by_hand_and_far_out():
    assert mcnemar_exact(1, 5) == 2 * (1 + 6) / 64
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 1000) == mcnemar_exact(np.int64(0), np.int64(1000)) == 2.0**-999
    assert 0 < mcnemar_exact(400, 1600) < 1e-150


def test_paired_accuracy_covers_as_often_as_it_says():
    # Exact over all outcomes (b, c) of n examples; the discordant shares differ by up to 0.3.
    n, rows = 200, []
    for only_a, only_b in [(0.05, 0.05), (0.1, 0.2), (0.25, 0.1), (0.4, 0.1)]:
        b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
        possible = b + c <= n
        b, c = b[possible], c[possible]
        chance = stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=1), n, [only_a, only_b, 1 - only_a - only_b])
        likely = chance > 1e-9
        held = 0.0
        for i, j, p in zip(b[likely], c[likely], chance[likely], strict=True):
            found = paired_accuracy(*outcomes(i, j, n))
            held += p * (found.lower <= only_a - only_b <= found.upper)
        rows.append(held)
    assert 0.945 < np.mean(rows) < 0.955
    assert min(rows) > 0.94


def outcomes(only_a: int, only_b: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    a[:only_a] = True
    b[only_a : only_a + only_b] = True
    return a, b


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.randoms())
def test_paired_accuracy_properties(pairs, random):
    a, b = ([pair[i] for pair in pairs] for i in (0, 1))
    found = paired_accuracy(a, b)
    swapped = paired_accuracy(b, a)
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert (found.lower, found.upper) == pytest.approx((-swapped.upper, -swapped.lower))
    assert -1 <= found.lower <= found.difference <= found.upper <= 1
    random.shuffle(pairs)
    assert found == paired_accuracy([p[0] for p in pairs], [p[1] for p in pairs])


def test_paired_bootstrap_agrees_with_theory_and_uses_the_pairing():
    generator = np.random.default_rng(0)
    hard = generator.normal(size=2000)
    a, b = hard + generator.normal(0.1, 0.1, 2000), hard + generator.normal(0, 0.1, 2000)
    found = paired_bootstrap(a, b, seed=1, resamples=4000)
    stderr = (a - b).std() / math.sqrt(2000)
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * stderr, rel=0.05)
    assert found.difference == pytest.approx(np.mean(a - b))
    assert found.p_value == pytest.approx(2 / 4001)
    unpaired = paired_bootstrap(a, generator.permutation(b), seed=1, resamples=4000)
    assert unpaired.upper - unpaired.lower > 5 * (found.upper - found.lower)


def test_paired_bootstrap_is_a_function_of_the_seed(monkeypatch):
    a, b = np.random.default_rng(0).random((2, 50))
    first = paired_bootstrap(a, b, seed=3, resamples=500)
    assert first == paired_bootstrap(a, b, seed=3, resamples=500)
    assert first != paired_bootstrap(a, b, seed=4, resamples=500)
    assert paired_bootstrap(a, a, seed=0, resamples=100).p_value == 1.0
    monkeypatch.setattr("qwill.evaluate.statistics.BOOTSTRAP_BLOCK", 50 * 7)
    assert first == paired_bootstrap(a, b, seed=3, resamples=500)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(counts):
    n, c, k = counts
    subsets = list(combinations([i < c for i in range(n)], k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_does_not_overflow():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01, rel=1e-9)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 31, 199, 200, 1000, 10**6])
def test_student_quantile_is_scipys(confidence, degrees):
    expected = stats.t.ppf(0.5 + confidence / 2, degrees)
    assert student_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-8)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_mean_interval_is_students(values):
    found = mean_interval(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), rel=1e-9, abs=1e-9)
    half = stats.t.ppf(0.975, len(values) - 1) * found.stderr
    assert (found.lower, found.upper) == pytest.approx((found.mean - half, found.mean + half), abs=1e-9)


def test_examples_of_one_cluster_are_one_observation():
    scores = np.random.default_rng(0).random(30)
    one_each = mean_interval(scores)
    assert mean_interval(scores, clusters=range(30)) == one_each
    copied = mean_interval(np.repeat(scores, 4), clusters=[i // 4 for i in range(120)])
    assert (copied.mean, copied.stderr) == pytest.approx((one_each.mean, one_each.stderr))
    assert (copied.lower, copied.n, copied.clusters) == (pytest.approx(one_each.lower), 120, 30)
    assert mean_interval(np.repeat(scores, 4)).stderr < 0.6 * one_each.stderr


@pytest.mark.parametrize(("n", "discordant", "power"), [(1000, 0.3, 0.8), (300, 0.1, 0.9), (5000, 0.05, 0.5)])
def test_minimum_detectable_effect_solves_connors_equation(n, discordant, power):
    effect = minimum_detectable_effect(n, discordant, power=power)
    z_a, z_b = 1.959963984540054, stats.norm.ppf(power)
    needed = (z_a * math.sqrt(discordant) + z_b * math.sqrt(discordant - effect**2)) ** 2 / effect**2
    assert needed == pytest.approx(n, rel=1e-9)


def test_the_minimum_detectable_effect_is_detected_as_often_as_asked():
    n, discordant = 1000, 0.3
    effect = minimum_detectable_effect(n, discordant)
    only_a, only_b = (discordant + effect) / 2, (discordant - effect) / 2
    generator = np.random.default_rng(0)
    draws = generator.multinomial(n, [only_a, only_b, 1 - discordant], size=4000)
    detected = np.mean((draws[:, 0] - draws[:, 1]) / np.sqrt(draws[:, 0] + draws[:, 1]) > 1.96)
    assert detected == pytest.approx(0.8, abs=0.025)
    assert minimum_detectable_effect(5, 0.2) == math.inf
    # Two or three examples can't solve the equation for any effect, though they all tell the models apart.
    assert minimum_detectable_effect(2, 1.0) == minimum_detectable_effect(3, 1.0) == math.inf


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wilson(3, 2), "k=3 of n=2"),
        (lambda: wilson(0, 0), "n=0"),
        (lambda: wilson(1.5, 2), "k is 1.5"),
        (lambda: wilson(1, 2, 95), "confidence is 95"),
        (lambda: mcnemar_exact(-1, 2), "b is -1"),
        (lambda: pass_at_k(4, 1, 5), "k=5"),
        (lambda: paired_accuracy([1, 0], [1]), "2 and 1 examples"),
        (lambda: paired_accuracy([0.5], [1]), "other than 0 and 1 in a"),
        (lambda: paired_bootstrap([1, math.nan], [1, 2], seed=0), r"a\[1\] is nan"),
        (lambda: paired_bootstrap([], [], seed=0), "0 and 0 examples"),
        (lambda: mean_interval([1.0]), "1 independent examples"),
        (lambda: mean_interval([1.0, 2.0], clusters=["x", "x"]), "1 independent examples"),
        (lambda: mean_interval([1.0, 2.0], clusters=["x"]), "2 values and 1 clusters"),
        (lambda: mean_interval([[1.0, 2.0]]), "shape"),
        (lambda: minimum_detectable_effect(10, 0), "discordant=0"),
        (lambda: minimum_detectable_effect(math.nan, 0.5), "n=nan"),
        (lambda: wilson(math.nan, 2), "k is nan"),
        (lambda: wilson(1, 2.5), "n is 2.5"),
        (lambda: mcnemar_exact(math.inf, 2), "b is inf"),
        (lambda: pass_at_k(4, 1, 1.5), "k is 1.5"),
        (lambda: paired_bootstrap([0.5], [0.2], seed=0), "1 independent examples"),
        (lambda: paired_bootstrap([0.5, 0.4], [0.2, 0], seed=0, clusters=["x", "x"]), "1 independent examples"),
        (lambda: paired_bootstrap([0.5, 0.4], [0.2, 0], seed=0, clusters=["x"]), "2 values and 1 clusters"),
        (lambda: paired_bootstrap([0.5, 0.4], [0.2, 0], seed=-1), "seed=-1"),
        (lambda: mean_interval([]), "0 independent examples"),
        (lambda: bounded_interval(math.nan, 0.1, 5), "mean=nan"),
        (lambda: bounded_interval(0.5, math.nan, 5), "stderr=nan"),
        (lambda: student_quantile(0.95, 0), "0 degrees"),
        (lambda: holm([0.1, math.nan]), "p-value of nan"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(DataError, match=words):
        call()


def test_normal_quantile():
    assert normal_quantile(0.95) == pytest.approx(stats.norm.ppf(0.975), rel=1e-14)


@given(st.floats(-1, 1), st.integers(1, 10_000))
def test_no_spread_is_an_interval_that_shrinks_with_the_groups(mean, groups):
    found = no_spread_interval(mean, groups)
    assert -1 - 1e-12 <= found.lower <= mean <= found.upper <= 1 + 1e-12
    assert found.upper - found.lower == pytest.approx(2 * wilson(0, groups).upper)
