import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate.scores import BETTER, UNCLEAR, WORSE, accuracy, compare, judged, pass_rate, summarise

grades = st.lists(st.booleans(), min_size=1, max_size=60)


def rows(correct: list[bool], model: str = "sft", kind: str = "greedy", language: str = "en") -> list[dict]:
    return [
        {"model": model, "kind": kind, "language": language, "family": "split", "id": f"{language}{i}", "correct": [c]}
        for i, c in enumerate(correct)
    ]


@given(grades)
def test_accuracy_lies_in_its_interval(correct: list[bool]) -> None:
    score = accuracy(rows(correct))
    assert score["accuracy"] == sum(correct) / len(correct)
    assert 0 <= score["lower"] <= score["accuracy"] <= score["upper"] <= 1


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=40))
def test_pass_at_k_is_the_mean_at_one_and_any_at_all(samples: list[list[bool]]) -> None:
    graded = [{"correct": sample} for sample in samples]
    one, four = pass_rate(graded, 1), pass_rate(graded, 4)
    assert one["value"] == pytest.approx(sum(map(sum, samples)) / (4 * len(samples)))
    assert four["value"] == pytest.approx(sum(map(any, samples)) / len(samples))
    assert one["value"] <= four["value"] + 1e-12
    for score in (one, four):
        assert 0 <= score["lower"] <= score["value"] + 1e-12 and score["value"] - 1e-12 <= score["upper"] <= 1


def test_samples_of_one_problem_are_not_counted_as_independent() -> None:
    """Problems that are always or never solved: 16 samples of each say no more than one does."""
    repeated = [{"correct": [i % 2 == 0] * 16} for i in range(40)]
    width = pass_rate(repeated, 1)["upper"] - pass_rate(repeated, 1)["lower"]
    assert width > 0.28  # as independent trials, 640 of them, it would be 0.08


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_verdict_needs_the_paired_test(gained: int, lost: int, same: int) -> None:
    before = [False] * gained + [True] * lost + [True] * (same + 1)
    after = [True] * gained + [False] * lost + [True] * (same + 1)
    pair = compare(rows(before), rows(after), alpha=0.01)
    assert (pair["gained"], pair["lost"], pair["total"]) == (gained, lost, len(before))
    assert pair["difference"] == pytest.approx((gained - lost) / len(before))
    assert pair["lower"] <= pair["difference"] <= pair["upper"]
    shown = pair["p_value"] < 0.01 and not pair["lower"] <= 0 <= pair["upper"]
    assert verdict(before, after) == ((BETTER if gained > lost else WORSE) if shown else UNCLEAR)
    mirrored = compare(rows(after), rows(before), alpha=0.01)
    assert mirrored["p_value"] == pair["p_value"] and mirrored["difference"] == -pair["difference"]


def verdict(before: list[bool], after: list[bool]) -> str:
    (only,) = judged([compare(rows(before), rows(after), 0.01)], 0.01)
    return str(only["verdict"])


def test_a_large_gain_is_better_and_a_small_one_is_not_called_so() -> None:
    assert verdict([False] * 20, [True] * 20) == BETTER
    assert verdict([True] * 20, [False] * 20) == WORSE
    assert verdict([False] * 5, [True] * 5) == UNCLEAR


def test_a_table_of_many_lines_finds_no_winner_by_chance() -> None:
    """Ten problems gained and none lost: p is 0.002, enough for one line and not for ten."""
    line = compare(rows([False] * 10 + [True] * 20), rows([True] * 30), 0.01, count=10)
    assert [pair["verdict"] for pair in judged([line], 0.01)] == [BETTER]
    many = judged([line, *[compare(rows([True] * 30), rows([True] * 30), 0.01)] * 9], 0.01)
    assert {pair["verdict"] for pair in many} == {UNCLEAR} and many[0]["adjusted"] == 10 * line["p_value"]


def test_other_problems_are_no_pair() -> None:
    with pytest.raises(DataError, match="same problems"):
        compare(rows([True]), rows([True, False]), 0.01)
    with pytest.raises(DataError, match="same problems"):
        compare([], [], 0.01)


def test_the_order_of_rows_does_not_matter() -> None:
    rng = random.Random(1)
    before, after = ([rng.random() < share for _ in range(50)] for share in (0.3, 0.6))
    shuffled = rng.sample(rows(after), 50)
    assert compare(rows(before), rows(after), 0.01) == compare(rows(before), shuffled, 0.01)


def test_the_summary_compares_each_model_with_the_one_before_in_each_language() -> None:
    everything = []
    for model, share in (("base", 0.0), ("sft", 0.4), ("aligned", 1.0)):
        for language in ("en", "zh"):
            correct = [i < share * 30 for i in range(30)]
            everything += rows(correct, model, "greedy", language)
            everything += [
                row | {"kind": "sampled", "correct": row["correct"] * 4}
                for row in rows(correct, model, language=language)
            ]
    summary = summarise(everything, ["base", "sft", "aligned"], 0.01)
    pairs = [(c["before"], c["after"], c["language"]) for c in summary["comparisons"]]
    assert pairs == [(a, b, la) for a, b in (("base", "sft"), ("sft", "aligned")) for la in ("en", "zh")]
    assert {c["verdict"] for c in summary["comparisons"]} == {BETTER}
    assert summary["accuracy"]["sft"]["zh"]["split"]["correct"] == 12
    assert summary["accuracy"]["sft"]["zh"]["all"] == summary["accuracy"]["sft"]["zh"]["split"]
    assert set(summary["pass_at_k"]["aligned"]["en"]["all"]) == {"pass@1", "pass@4"}
