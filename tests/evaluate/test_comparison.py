"""Comparing two models in pairs: against definitions, against chance, and what may be called better."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qwill.base.errors import DataError
from qwill.evaluate.comparison import _judged, compare, detectable_difference, difference, differing
from qwill.evaluate.statistics import (
    bounded_interval,
    holm,
    mcnemar_exact,
    mean_interval,
    paired_bootstrap,
    sign_flips_exact,
    wilson,
)
from qwill.evaluate.task_scores import estimate, summarise


def rows(task: str, values_of: list[float], /, **more: Any) -> list[dict[str, Any]]:
    """One row for each score of `values_of`; `more` holds lists of further fields."""
    made = []
    for place, score in enumerate(values_of):
        row = {"task": task, "id": str(place), "language": "en", "prompt": f"q{place}", "scores": {"acc": score}}
        made.append(row | {name: values[place] for name, values in more.items()})
    return made


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_sign_flips_are_all_signs_tried(sums):
    steps = [step for step in sums if step]
    found = [abs(sum(s * abs(step) for s, step in zip(signs, steps, strict=True))) for signs in flips(len(steps))]
    assert sign_flips_exact(sums) == pytest.approx(np.mean(np.array(found) >= abs(sum(sums))), abs=1e-12)


def flips(n: int) -> list[tuple[int, ...]]:
    return list(product((-1, 1), repeat=n))


@given(st.integers(0, 300), st.integers(0, 300))
def test_with_one_example_in_each_group_sign_flips_are_mcnemar(b, c):
    assert sign_flips_exact([1] * b + [-1] * c) == pytest.approx(mcnemar_exact(b, c), rel=1e-9, abs=1e-300)


def test_holm_by_hand_and_never_below_the_p_value():
    # The example of Holm (1979): the smallest by 3, the next by 2 (not below the one before), the largest by 1.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.2]) == [0.2] and holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_rule_does(p_values, alpha):
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    rejected, order = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, place in enumerate(order):
        if (len(p_values) - rank) * p_values[place] >= alpha:
            break
        rejected.add(place)
    assert {i for i, p in enumerate(adjusted) if p < alpha} == rejected


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60), st.integers(0, 9))
def test_swapping_the_models_swaps_the_answer(pairs, seed):
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    for clusters in (None, [i // 2 for i in range(len(pairs))]):
        there, name = difference(a, b, clusters, seed=seed)
        back, same = difference(b, a, clusters, seed=seed)
        assert name == same and there.p_value == pytest.approx(back.p_value, abs=1e-12)
        assert there.difference == pytest.approx(-back.difference, abs=1e-12)
        assert (there.lower, there.upper) == pytest.approx((-back.upper, -back.lower), abs=1e-12)
        assert there.lower - 1e-12 <= there.difference <= there.upper + 1e-12


def test_which_test_is_made_of_what():
    right, wrong = [1.0] * 8 + [0.0] * 2, [0.0] * 4 + [1.0] * 4 + [0.0] * 2
    assert difference(right, wrong, None)[1] == "exact McNemar"
    assert difference(right, wrong, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])[1] == "exact sign flips of clusters"
    assert difference([0.5, *right[1:]], wrong, None)[1] == "exact sign flips"
    assert difference([0.5, *right[1:]], wrong, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4])[1] == "exact sign flips of clusters"
    assert difference([0.5, *right[1:]] * 6, wrong * 6, None)[1] == "sign flips"
    assert difference([0.3] * 60, [0.1, 0.2] * 30, [i // 2 for i in range(60)])[1] == "sign flips of clusters"
    found, name = difference(right, wrong, [0] * 10)
    assert name == "none: one cluster" and (found.lower, found.upper, found.p_value) == (-1, 1, 1)


def test_examples_of_one_source_do_not_count_as_many():
    # Ten passages with twenty questions each, all of which go one way: ten facts and not two hundred.
    a, b = [1.0] * 140 + [0.0] * 60, [0.0] * 140 + [1.0] * 60
    clusters = [i // 20 for i in range(200)]
    alone, _ = difference(a, b, None)
    grouped, _ = difference(a, b, clusters)
    assert alone.p_value < 1e-6 and grouped.p_value == pytest.approx(stats.binomtest(7, 10).pvalue)
    assert grouped.upper - grouped.lower > 3 * (alone.upper - alone.lower)


def test_clusters_that_all_say_the_same_are_no_certainty():
    found, _ = difference([1.0] * 8, [0.0] * 8, [i // 2 for i in range(8)])
    assert found.lower < 0.8 and found.upper == 1 and found.p_value == 2 / 2**4
    same, _ = difference([1.0] * 8, [1.0] * 8, [i // 2 for i in range(8)])
    assert same.lower < -0.2 and same.upper > 0.2 and same.p_value == 1
    kept = estimate([1.0] * 8, [i // 2 for i in range(8)])
    t = stats.t.ppf(0.975, 3)
    assert kept.method == "clusters" and (kept.lower, kept.upper) == pytest.approx((4 / (4 + t * t), 1))


def test_a_bootstrap_of_clusters_draws_whole_clusters():
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.normal(0, 0.2, 60), 5)
    a, b = np.clip(0.5 + shared, 0, 1), np.full(300, 0.5)
    clusters = np.repeat(np.arange(60), 5).tolist()
    grouped = paired_bootstrap(a, b, 0, clusters=clusters)
    exact = mean_interval(a - b, clusters=clusters)
    assert (grouped.lower, grouped.upper) == pytest.approx((exact.lower, exact.upper), abs=0.006)
    single = paired_bootstrap(a, b, 0)
    assert grouped.upper - grouped.lower > 2 * (single.upper - single.lower)
    alone = paired_bootstrap(a, b, 0, clusters=list(range(300)))
    assert (alone.lower, alone.upper) == pytest.approx((single.lower, single.upper), abs=1e-12)


def test_clusters_of_all_sizes_weigh_as_much_as_they_hold():
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 12, 80)
    clusters = np.repeat(np.arange(80), sizes).tolist()
    a = np.repeat(rng.random(80), sizes)
    found = paired_bootstrap(a, np.zeros(len(a)), 1, clusters=clusters)
    exact = mean_interval(a, clusters=clusters)
    assert (found.lower, found.upper) == pytest.approx((exact.lower, exact.upper), abs=0.01)


def test_intervals_over_clusters_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(6), np.zeros(2)
    for _ in range(800):
        clusters = np.repeat(np.arange(60), rng.integers(1, 6, 60)).tolist()
        hard = rng.beta(1.2, 0.8, 60)[clusters]
        a, b = ((rng.random(len(hard)) < hard).astype(float).tolist() for _ in range(2))
        one, (two, _) = estimate(a, clusters), difference(a, b, clusters)
        held += one.lower <= 0.6 <= one.upper, two.lower <= 0 <= two.upper
    assert all(0.925 <= share <= 0.975 for share in held / 800)


def test_a_difference_needs_both_the_test_and_the_interval():
    line = compare(rows("t", [1] * 40), rows("t", [0] * 40), {"t": "acc"}).lines[0]
    assert _judged(line, 0.05).better == "a"
    assert _judged(replace(line, better="", lower=-0.1), 0.05).better == ""
    assert _judged(replace(line, better="", adjusted=0.06, p_value=0.001), 0.05).better == ""


def test_what_could_be_seen_is_said_as_strictly_as_it_is_tested():
    a, b = rows("t", [1, 0] * 200), rows("t", [0, 1] * 200)
    both = a + rows("u", [1, 0] * 200), b + rows("u", [0, 1] * 200)
    alone = compare(a, b, {"t": "acc"}).lines[0].detectable
    among = compare(*both, {"t": "acc", "u": "acc"}).lines[0].detectable
    scores = [[row["scores"]["acc"] for row in side] for side in (a, b)]
    assert alone == detectable_difference(*scores, None, 0.05)
    assert among == detectable_difference(*scores, None, 0.025) > alone


def test_better_is_said_only_where_it_is():
    even = rows("even", [1, 0] * 50), rows("even", [0, 1] * 50)
    apart = rows("apart", [1] * 40 + [0] * 10), rows("apart", [0] * 40 + [0] * 10)
    found = compare(even[0] + apart[0], even[1] + apart[1], {"even": "acc", "apart": "acc"})
    assert [line.better for line in found.lines] == ["", "a"]
    assert compare(apart[1], apart[0], {"apart": "acc"}).lines[0].better == "b"
    assert any("2 comparisons" in note for note in found.notes)


def test_tables_of_chance_name_a_winner_as_rarely_as_alpha_says():
    # Both models equally good on each of 12 tasks: without Holm about half of such tables would name a winner.
    rng = np.random.default_rng(3)
    wrong = raw = 0
    for _ in range(200):
        a, b, metrics = [], [], {}
        for task in range(12):
            values = rng.random((2, 120)) < 0.5
            a += rows(f"t{task}", values[0].astype(float).tolist())
            b += rows(f"t{task}", values[1].astype(float).tolist())
            metrics[f"t{task}"] = "acc"
        lines = compare(a, b, metrics).lines
        wrong += any(line.better for line in lines)
        raw += any(line.p_value < 0.05 for line in lines)
    assert wrong <= 16 and raw > 50


def test_languages_have_lines_of_their_own_and_count_as_comparisons():
    language = ["en", "zh"] * 30
    a = rows("t", [1, 0] * 30, language=language)
    b = rows("t", [0, 0] * 30, language=language)
    found = compare(a, b, {"t": "acc"})
    assert [(line.language, line.n, line.better) for line in found.lines] == [
        ("", 60, "a"),
        ("en", 30, "a"),
        ("zh", 30, ""),
    ]
    assert found.lines[1].adjusted == pytest.approx(3 * found.lines[1].p_value)


def test_only_shared_examples_count_and_the_rest_is_said():
    a, b = rows("t", [1.0] * 30), rows("t", [0.0] * 40)[10:]
    found = compare(a, b, {"t": "acc"})
    assert found.lines[0].n == 20 and found.missing == {"t": (10, 10)}
    assert any("10 more were answered by the first alone, 10 by the second" in note for note in found.notes)
    assert len(differing(a, b, {"t": "acc"})) == 20


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        (rows("t", [1.0]), rows("u", [1.0]), "no question in common"),
        (rows("t", [1.0]), rows("t", [1.0], prompt=["another"]), "another question .*prompt differs"),
        (rows("t", [1.0]), rows("t", [1.0], gold=[[1]]), "gold differs"),
        (rows("t", [1.0]), rows("t", [1.0], scores=[{}]), "example 0: its score acc is None"),
        (rows("t", [1.0]), rows("t", [float("nan")]), "its score acc is nan"),
        (rows("t", [1.0]), rows("t", [True]), "its score acc is True"),
        (rows("t", [1.0]), rows("t", [2.0]), "its score acc is 2.0"),
    ],
)
def test_what_cannot_be_compared_is_said(a, b, sentence):
    with pytest.raises(DataError, match=sentence):
        compare(a, b, {"t": "acc"})


def test_the_detectable_difference_is_detected_four_times_in_five():
    rng = np.random.default_rng(5)
    n, discordant = 400, 0.3
    gap = np.zeros(n)
    gap[: int(n * discordant)] = [1, -1] * int(n * discordant / 2)
    a, b = (gap > 0).astype(float), (gap < 0).astype(float)
    least = detectable_difference(a.tolist(), b.tolist(), None, 0.05)
    assert least is not None
    shares = [(discordant + least) / 2, (discordant - least) / 2]
    draws = rng.multinomial(n, [*shares, 1 - sum(shares)], size=4000)
    power = np.mean([mcnemar_exact(int(x), int(y)) < 0.05 for x, y, _ in draws])
    # The exact test is a little more careful than the formula, which is for the asymptotic one.
    assert 0.75 < power < 0.83


def test_the_detectable_difference_of_clusters_and_of_none():
    same = [1.0] * 20
    assert detectable_difference(same, same, [i // 4 for i in range(20)], 0.05) is None
    assert detectable_difference([1.0], [0.0], ["x"], 0.05) is None
    a, b = [0.5, 0.7, 0.2, 0.9] * 25, [0.4, 0.4, 0.4, 0.5] * 25
    spread = mean_interval(np.array(a) - np.array(b)).stderr
    assert detectable_difference(a, b, None, 0.05) == pytest.approx(2.8015852 * spread, rel=1e-6)


@given(st.integers(2, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_spread_is_wilsons_where_there_are_only_right_and_wrong(counts):
    k, n = counts
    stderr = (k / n * (1 - k / n) / n) ** 0.5  # of n trials; with z in t's place it would be Wilson's to the last digit
    found = bounded_interval(k / n, stderr, 10**6)
    assert (found.lower, found.upper) == pytest.approx(tuple(wilson(k, n)) if 0 < k < n else found, abs=1e-5)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.data())
def test_an_estimate_holds_its_mean_and_stays_in_bounds(values, data):
    clusters = data.draw(st.none() | st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)))
    found = estimate(values, clusters)
    assert 0 <= found.lower <= found.mean <= found.upper <= 1
    assert found.lower < found.upper


def test_estimates_choose_their_interval():
    assert estimate([1, 0, 1]).method == "wilson"
    assert estimate([0.5, 0, 1]).method == "spread"
    assert estimate([1, 0, 1, 1], ["x", "x", "y", "y"]).method == "clusters"
    one = estimate([0.5])
    assert (one.lower, one.upper, one.stderr, one.method) == (0, 1, None, "none")
    assert estimate([1, 1], ["x", "x"]).method == "none"
    with pytest.raises(DataError, match="no example"):
        estimate([])


def test_a_summary_has_languages_and_categories_where_there_are_several():
    made = rows("t", [1, 0, 1, 1], language=["en", "en", "zh", "zh"], category=["x"] * 4, cluster=["", "", "p", "p"])
    found = summarise(made, ["acc"])
    assert found["examples"] == 4 and found["metrics"] == ["acc"] and found["categories"] == {}
    assert found["all"]["acc"]["clusters"] == 3 and found["languages"]["zh"]["acc"]["mean"] == 1
    assert found["languages"]["en"]["acc"]["clusters"] == 2


def test_one_constant_difference_is_no_proof():
    # Two examples, three tenths better both times: the bootstrap's p is 0.0002 and its interval has no width.
    found, _ = difference([0.8, 0.9], [0.5, 0.6], None)
    assert found.p_value == 0.5 and found.lower < 0 < 0.3 < found.upper
    assert compare(rows("t", [0.8] * 5), rows("t", [0.5] * 5), {"t": "acc"}).lines[0].better == ""
    assert compare(rows("t", [0.8] * 40), rows("t", [0.5] * 40), {"t": "acc"}).lines[0].better == "a"
    same, _ = difference([0.4] * 50, [0.4] * 50, None)
    assert same.p_value == 1 and same.lower == -same.upper < 0


def test_clusters_that_all_say_half_are_told_apart():
    # In each of 500 pairs one example is won and one is even: there is no spread, and there is no doubt.
    a, b, clusters = [1.0, 0.0] * 500, [0.0, 0.0] * 500, [i // 2 for i in range(1000)]
    found, _ = difference(a, b, clusters)
    assert 0.45 < found.lower < found.difference == 0.5 < found.upper and found.p_value < 1e-99


@pytest.mark.parametrize("n", [5, 12])
def test_few_graded_examples_have_students_interval(n):
    rng, held = np.random.default_rng(n), 0
    for _ in range(1000):
        a, b = (np.clip(rng.normal(0.5, 0.1, n), 0, 1).tolist() for _ in range(2))
        found, _ = difference(a, b, None)
        held += found.lower <= 0 <= found.upper
    assert held / 1000 == pytest.approx(0.95, abs=0.021)  # percentiles of the bootstrap hold it 84 and 92 times in 100


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_nothing_is_detectable_where_no_p_can_be_small_enough(n):
    assert detectable_difference([1.0] * n, [0.0] * n, None, 0.05) is None
    assert detectable_difference([0.9] * n, [0.1 * i for i in range(n)], None, 0.05) is None
    assert detectable_difference([1.0] * 2 * n, [0.0, 1.0] * n, [i // 2 for i in range(2 * n)], 0.05) is None


def test_a_cluster_named_zero_is_a_cluster():
    made = rows("t", [1, 0, 1], cluster=[0, 0, 1])
    assert summarise(made, ["acc"])["all"]["acc"]["clusters"] == 2


def test_two_rows_with_one_id_are_not_compared():
    twice = rows("t", [1.0]) + rows("t", [0.0])
    with pytest.raises(DataError, match="two rows of one result have the id 0"):
        compare(twice, rows("t", [1.0]), {"t": "acc"})
