"""The sign-flip test against enumeration, McNemar and scipy, and how often it errs where both models are equal."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qwill.base.errors import DataError
from qwill.evaluate import sign_flips as module
from qwill.evaluate.comparison import difference
from qwill.evaluate.sign_flips import TRIED, sign_flips
from qwill.evaluate.statistics import mcnemar_exact


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1) | st.sampled_from([0.0, 0.1, 0.2, 0.3, -0.3]), min_size=1, max_size=9))
def test_all_signs_are_tried(gaps):
    sums = np.array([np.dot(signs, np.abs(gaps)) for signs in product((-1, 1), repeat=len(gaps))])
    far, slack = abs(sum(gaps)), 1e-11 * np.abs(gaps).sum()
    p, exact = sign_flips(gaps)
    assert exact and np.mean(np.abs(sums) >= far + slack) <= p <= np.mean(np.abs(sums) >= far - slack)
    assert p > 0 and sign_flips([-gap for gap in gaps]) == (p, True)


def test_equal_sums_count_though_they_round_otherwise():
    # 0.1 + 0.2 - 0.3 is 5.6e-17, 0.3 - 0.1 - 0.2 is -2.8e-17: both are as far from zero as each other.
    assert sign_flips([0.1, 0.2, -0.3])[0] == 1.0
    assert sign_flips([0.1, 0.2, 0.3])[0] == 2 / 8


def test_differences_of_zero_say_nothing():
    assert sign_flips([0.0] * 50) == (1.0, True) and sign_flips([]) == (1.0, True)
    assert sign_flips([0.5, 0.0, 0.25, 0.0]) == sign_flips([0.5, 0.25])
    many = np.random.default_rng(0).normal(0.2, 1, 60).tolist()
    assert sign_flips(many) == sign_flips([0.0, *many, 0.0])


@pytest.mark.parametrize("n", [1, 2, 5, TRIED])
def test_the_smallest_p_is_that_of_n_coins(n):
    assert sign_flips([0.3] * n)[0] == 2 / 2**n


@pytest.mark.parametrize(("b", "c"), [(30, 12), (40, 35), (300, 200), (9, 9)])
def test_drawn_signs_come_near_mcnemar_and_can_be_repeated(b, c):
    p, exact = sign_flips([1.0] * b + [-1.0] * c, seed=3)
    truth = mcnemar_exact(b, c)
    assert not exact and abs(p - truth) < 4 * np.sqrt(truth * (1 - truth) / 10_000) + 1e-4
    assert sign_flips([1.0] * b + [-1.0] * c, seed=3) == (p, exact)


def test_drawn_signs_come_near_scipy(monkeypatch):
    gaps = np.random.default_rng(1).exponential(1, 40) * np.random.default_rng(2).choice([-1, 1], 40, p=[0.35, 0.65])
    theirs = stats.permutation_test((gaps,), np.sum, permutation_type="samples", n_resamples=20_000, rng=5).pvalue
    p, _ = sign_flips(gaps.tolist())
    assert p == pytest.approx(theirs, abs=4 * np.sqrt(theirs / 7000)) and 0.001 < p < 0.5
    monkeypatch.setattr(module, "BLOCK", 40 * 1000)  # blocks of whole bytes: the same bits
    assert sign_flips(gaps.tolist())[0] == p


def test_no_drawn_p_is_zero():
    assert sign_flips([1.0] * 200, draws=999)[0] == 1 / 1000
    assert sign_flips([1e308] * 20 + [-1e308])[0] < 0.01  # nothing overflows


@pytest.mark.parametrize("n", [6, 12, 40])
@pytest.mark.parametrize("law", ["symmetric", "skewed", "heavy"])
def test_equal_models_are_told_apart_five_times_in_a_hundred(n, law):
    rng, reps = np.random.default_rng([7, n]), 2000
    for_a, for_b = (
        {"symmetric": rng.random, "skewed": lambda shape: rng.beta(0.3, 2, shape), "heavy": rng.standard_cauchy}[law](
            (reps, n)
        )
        for _ in range(2)
    )
    wrong = np.mean([sign_flips(gap, seed=i, draws=499)[0] <= 0.05 for i, gap in enumerate((for_a - for_b).tolist())])
    noise = 3 * np.sqrt(0.05 * 0.95 / reps)
    assert wrong < 0.05 + noise
    # With 6 differences p moves in steps of 1/32, so that 3.1 % is the nearest below.
    assert wrong > (0.03125 if n == 6 else 0.05) - noise


def test_equal_models_in_clusters_are_told_apart_as_rarely():
    # What an example says is shared by its cluster: flipping single examples would err several times as often.
    rng, reps, wrong, naive = np.random.default_rng(9), 600, 0, 0
    clusters = np.repeat(np.arange(12), rng.integers(2, 9, 12)).tolist()
    for _ in range(reps):
        a, b = (np.clip(rng.normal(0.5, 0.15, 12)[clusters] + rng.normal(0, 0.02, len(clusters)), 0, 1) for _ in "ab")
        found, name = difference(a.tolist(), b.tolist(), clusters)
        assert name == "exact sign flips of clusters"
        wrong += found.p_value < 0.05
        naive += sign_flips((a - b).tolist(), draws=199)[0] < 0.05
    assert wrong / reps < 0.05 + 3 * np.sqrt(0.05 * 0.95 / reps) and naive / reps > 0.2


@pytest.mark.parametrize(
    ("given", "more"), [([float("nan")], {}), ([[1.0]], {}), ([1.0], {"draws": 0}), ([1.0], {"seed": -1})]
)
def test_bad_input_is_named(given, more):
    with pytest.raises(DataError, match="sign-flip test got"):
        sign_flips(given, **more)
