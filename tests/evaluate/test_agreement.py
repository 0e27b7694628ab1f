"""Cohen's kappa against statsmodels' record, its limits, and a judge against human votes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate.agreement import category, cohens_kappa, judge_agreement
from qwill.evaluate.statistics import bounded_interval

RECORD = json.loads((Path(__file__).parents[1] / "oracles" / "judges.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", RECORD["kappa"], ids=lambda case: str(len(case["first"])))
@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_equals_statsmodels(case: dict[str, list[int]], weights: str) -> None:
    found = cohens_kappa(case["first"], case["second"], [0, 1, 2], weights)  # type: ignore[arg-type]
    expected = case["results"][weights]  # type: ignore[call-overload]
    assert found.kappa == pytest.approx(expected["kappa"], abs=1e-12)
    assert found.stderr == pytest.approx(expected["stderr"], abs=1e-12)


def test_textbook() -> None:
    """Fleiss, Levin & Paik (2003), table 18.1: 100 patients, kappa 0.676, standard error 0.088."""
    table = [[75, 1, 4], [5, 4, 1], [0, 0, 10]]
    first = [i for i, row in enumerate(table) for count in row for _ in range(count)]
    second = [j for row in table for j, count in enumerate(row) for _ in range(count)]
    found = cohens_kappa(first, second)
    assert found.kappa == pytest.approx(0.676, abs=5e-4)
    assert found.stderr == pytest.approx(0.088, abs=5e-4)
    assert found.table == table and found.share == pytest.approx(0.89)
    assert found.prevalence == pytest.approx([0.80, 0.075, 0.125])


ratings = st.lists(st.tuples(st.sampled_from("ab="), st.sampled_from("ab=")), min_size=1, max_size=60)


@given(ratings)
@settings(max_examples=150, deadline=None)
def test_bounds_and_symmetry(pairs: list[tuple[str, str]]) -> None:
    first, second = zip(*pairs, strict=True)
    found, turned = cohens_kappa(first, second, "b=a", "linear"), cohens_kappa(second, first, "b=a", "linear")
    assert (found.kappa is None) == (len({*first, *second}) == 1)
    if found.kappa is None:
        assert found.notes
        return
    assert -1 <= found.kappa <= 1
    assert (found.interval is None) == (len(set(first)) == 1 or len(set(second)) == 1)
    if found.interval is None:
        assert found.kappa == pytest.approx(0, abs=1e-12) and any("the same category" in note for note in found.notes)
        return
    assert found.interval.lower < found.interval.upper
    assert found.interval.lower <= found.kappa <= found.interval.upper
    assert turned.kappa == pytest.approx(found.kappa, abs=1e-9) and turned.stderr == pytest.approx(
        found.stderr, abs=1e-7
    )
    if first == second:
        assert found.kappa == pytest.approx(1) and found.stderr == pytest.approx(0, abs=1e-7)


def test_independent_raters_agree_by_chance_and_the_interval_covers_it() -> None:
    generator, held = np.random.default_rng(5), 0
    for _ in range(2000):
        first, second = generator.choice(3, 200, p=[0.5, 0.2, 0.3]), generator.choice(3, 200, p=[0.4, 0.3, 0.3])
        interval = cohens_kappa(first.tolist(), second.tolist()).interval
        assert interval is not None
        held += interval.lower <= 0 <= interval.upper
    assert abs(held / 2000 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 2000)


def test_prevalence_is_noted() -> None:
    found = cohens_kappa(["a"] * 97 + ["b"] * 2 + ["a"], ["a"] * 97 + ["a"] * 2 + ["b"])
    assert found.share == 0.97 and found.kappa is not None and found.kappa < 0
    assert any("98% of all ratings are 'a'" in note for note in found.notes)


def test_judge_and_humans_meet_on_shared_pairs() -> None:
    judge = {"1": 1.0, "2": 0.0, "3": 0.5, "4": 1.0, "6": 1.0}
    human = {"1": [1.0, 1.0, 0.0], "2": [1.0, 0.0], "3": [0.5], "4": [1.0], "5": [0.0], "6": []}
    plain, weighted = judge_agreement(judge, human)
    assert plain.n == weighted.n == 4
    assert plain.categories == ["b", "tie", "a"]
    assert plain.table == [[0, 1, 0], [0, 1, 0], [0, 0, 2]]
    assert weighted.observed == pytest.approx(1 - 0.5 / 4)
    assert any("4 items are few" in note for note in plain.notes)


@pytest.mark.parametrize(
    ("first", "second", "categories", "weights", "words"),
    [
        ([], [], None, "none", "gave 0 and 0 ratings"),
        (["a"], ["a", "b"], None, "none", "gave 1 and 2 ratings"),
        (["a"], ["x"], ["a", "b"], "none", "item 0 was rated 'x'"),
        (["a"], ["b"], None, "linear", "needs the categories in their order"),
        (["a"], ["b"], ["a", "b"], "cubic", "weights is 'cubic'"),
    ],
)
def test_bad_ratings_are_named(
    first: list[str], second: list[str], categories: list[str], weights: str, words: str
) -> None:
    with pytest.raises(DataError) as failure:
        cohens_kappa(first, second, categories, weights)  # type: ignore[arg-type]
    assert words in str(failure.value)


def test_votes_that_do_not_meet_are_refused() -> None:
    with pytest.raises(DataError, match="none of the 1 judged pairs has a human vote"):
        judge_agreement({"1": 1.0}, {"2": [1.0]})
    with pytest.raises(DataError, match="an outcome is 2"):
        category(2)


def test_the_interval_over_clusters_holds_the_truth_as_often_as_it_says() -> None:
    """60 requests in two languages, the second much like the first; both raters err: κ is 0.56 by arithmetic."""
    rng = np.random.default_rng(0)
    observed = 0.85 * 0.9 + 0.15 * 0.1
    kappa = (observed - 0.5) / 0.5
    held = {"plain": 0, "clusters": 0}
    for _ in range(600):
        alone = rng.random((60, 1)) < 0.6
        truth, miss_a, miss_b = (
            np.where(np.hstack([alone & False, alone]), one[:, :1], one)
            for one in (rng.random((60, 2)) < 0.5, rng.random((60, 2)) < 0.15, rng.random((60, 2)) < 0.1)
        )
        first, second = ((truth ^ miss).ravel().tolist() for miss in (miss_a, miss_b))
        for name, clusters in (("plain", None), ("clusters", np.repeat(np.arange(60), 2).tolist())):
            interval = cohens_kappa(first, second, (False, True), clusters=clusters).interval
            assert interval is not None
            held[name] += interval.lower <= kappa <= interval.upper
    assert held["plain"] < 0.9 * 600 and 0.92 * 600 < held["clusters"] < 0.97 * 600


def test_clusters_that_are_none() -> None:
    for clusters, says in (([1], "2 ratings and 1 clusters"), ([1, 1], "all items are of one cluster")):
        with pytest.raises(DataError, match=says):
            cohens_kappa("ab", "ba", clusters=clusters)


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
@pytest.mark.parametrize("n", [2, 10, 200])
def test_full_agreement_is_no_certainty(weights: str, n: int) -> None:
    ratings = ["a", "b"] * (n // 2)
    found = cohens_kappa(ratings, ratings, ["b", "tie", "a"], weights)  # type: ignore[arg-type]
    assert found.kappa == 1 and found.interval is not None and found.interval.upper == 1
    # Chance reaches one half, so κ's lower end is twice as far from 1 as that of the share.
    assert 1 - found.interval.lower == pytest.approx(min(2, 2 * (1 - bounded_interval(1.0, 0.0, n).lower)))
    assert any("No spread shows" in note for note in found.notes)


def test_full_disagreement_is_no_certainty() -> None:
    found = cohens_kappa(["a", "b"] * 10, ["b", "a"] * 10)
    assert found.kappa == -1 and found.interval is not None and found.interval.lower == -1
    assert found.interval.upper == pytest.approx(2 * bounded_interval(0.0, 0.0, 20).upper - 1)


def test_a_rater_who_says_one_thing_only_tells_nothing() -> None:
    found = cohens_kappa(["a"] * 15, ["a"] * 10 + ["b"] * 5)
    assert found.kappa == pytest.approx(0) and found.interval is None
    assert any("One rater put every item" in note for note in found.notes)
