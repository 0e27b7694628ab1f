"""Length-controlled win rates against alpaca_eval's record, and what must hold of any."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate.length_controlled import LengthControlled, length_controlled

RECORD = json.loads((Path(__file__).parents[1] / "oracles" / "judges.json").read_text(encoding="utf-8"))
CASES = RECORD["length_controlled"]
# Reasons for which alpaca_eval's number is another: its solver takes losses alone for wins.
WRONG = ("lost every prompt", "one fifth")


def _fit(case: dict[str, object], **named: float) -> LengthControlled:
    return length_controlled(case["preference"], case["length"], case["rival_length"], **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{len(case['preference'])}-{case['kind'].replace(' ', '-')}")
def test_equals_alpaca_eval_or_names_the_reason(case: dict[str, object]) -> None:
    expected, found = case["result"], _fit(case)
    assert isinstance(expected, dict)
    if "error" in expected:
        assert found.win_rate is None and found.reason
        return
    assert found.raw == pytest.approx(expected["raw"], abs=1e-12)
    assert found.win_rate is not None
    if found.reason and any(words in found.reason for words in WRONG):
        assert abs(found.win_rate - expected["win_rate"]) > 1e-4 and found.reason
    else:
        assert abs(found.win_rate - expected["win_rate"]) < 1e-6
        assert found.strength == pytest.approx(expected["strength"])
    if not expected["converged"]:
        assert found.reason


def test_reason_is_named_exactly_where_the_plain_fit_has_none() -> None:
    for case in CASES:
        found = _fit(case)
        assert (found.unpenalised is None) == (found.interval is None) == (found.stderr is None)
        if found.unpenalised is None:
            assert found.reason and found.reason.endswith(".")
        if found.reason is None:
            assert found.interval is not None and found.unpenalised is not None
            assert 0 < found.interval.lower < found.unpenalised < found.interval.upper < 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("all won", "won every prompt"),
        ("all lost", "lost every prompt"),
        ("separated", "perfect separation"),
        ("one length", "same length for every prompt"),
        ("few wins", "one fifth"),
    ],
)
def test_reasons(kind: str, words: str) -> None:
    cases = [case for case in CASES if case["kind"] == kind]
    assert cases and all(words in (_fit(case).reason or "") for case in cases)


def test_few_prompts_have_a_reason() -> None:
    assert "4 prompts are too few" in (length_controlled([1, 0, 1, 0], [9, 8, 7, 6], [1, 2, 4, 3]).reason or "")


def test_same_difference_everywhere_has_a_reason() -> None:
    found = length_controlled([1, 0, 1, 0.5, 1, 0], [17, 27, 37, 47, 57, 67], [10, 20, 30, 40, 50, 60])
    assert "by the same amount" in (found.reason or "") and found.interval is None


def test_differences_that_are_all_large_have_a_reason() -> None:
    # tanh takes all of them to within 1e-6 of 1: the effect of length would be -2 million with digits of rounding.
    found = length_controlled([0, 0, 0, 0, 1], [1] * 5, [225, 225, 244, 297, 244])
    assert "by the same amount" in (found.reason or "") and found.interval is None


def test_a_judge_that_only_counts_characters_is_seen_through() -> None:
    generator = np.random.default_rng(0)
    rival = generator.integers(200, 800, 3000)
    own = (rival * generator.lognormal(0.5, 0.3, 3000)).astype(int)
    x = np.tanh((rival - own) / (rival - own).std(ddof=1))
    won = generator.random(3000) < 1 / (1 + np.exp(2.5 * x))
    found = length_controlled(won.astype(float), own, rival, resamples=200)
    assert found.raw > 0.65
    assert found.interval is not None and found.interval.lower < 0.5 < found.interval.upper
    assert found.length_effect is not None and found.length_effect_stderr is not None
    assert abs(found.length_effect - 2.5) < 3 * found.length_effect_stderr
    assert found.bootstrap is not None
    assert found.bootstrap.lower == pytest.approx(found.interval.lower, abs=0.01)
    assert found.bootstrap.upper == pytest.approx(found.interval.upper, abs=0.01)
    assert found.bootstrap_stderr == pytest.approx(found.stderr, rel=0.2)


def test_ties_are_surer_than_coin_flips() -> None:
    """Where verdicts vary less than wins and losses of that rate would, so do the ratings: the sandwich's point."""
    generator = np.random.default_rng(3)
    rival = generator.integers(100, 900, 400)
    own = (rival * generator.lognormal(0, 0.4, 400)).astype(int)
    tied = np.full(400, 0.5)
    tied[:40] = generator.integers(0, 2, 40)
    flips = generator.integers(0, 2, 400).astype(float)
    sure, unsure = length_controlled(tied, own, rival, resamples=300), length_controlled(flips, own, rival)
    assert sure.stderr is not None and unsure.stderr is not None
    assert sure.stderr < 0.4 * unsure.stderr
    assert sure.bootstrap_stderr == pytest.approx(sure.stderr, rel=0.15)


def test_intervals_cover() -> None:
    """600 draws of 200 prompts: a nominal 95 % is within three standard errors of the share covered."""
    generator, held = np.random.default_rng(1), 0
    for _ in range(600):
        rival = generator.integers(100, 1000, 200)
        own = (rival * generator.lognormal(0.2, 0.5, 200)).astype(int)
        x = np.tanh((rival - own) / (rival - own).std(ddof=1))
        won = generator.random(200) < 1 / (1 + np.exp(x - 0.4))
        interval = _plain(won.astype(float), own, rival)
        held += interval[0] < 1 / (1 + np.exp(-0.4)) < interval[1]
    assert abs(held / 600 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 600)


def _plain(votes: np.ndarray, own: np.ndarray, rival: np.ndarray) -> tuple[float, float]:
    """The interval alone: cross-validation would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwill.evaluate.length_controlled._cross_validated", lambda x, y: (0.5, 1.0, True))
        interval = length_controlled(votes, own, rival).interval
    assert interval is not None
    return interval


votes = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 400), st.integers(1, 400)), min_size=5, max_size=40
)


@given(votes)
@settings(max_examples=60, deadline=None)
def test_never_fails_on_sound_rows(rows: list[tuple[float, int, int]]) -> None:
    found = length_controlled(*map(list, zip(*rows, strict=True)))  # type: ignore[arg-type]
    if found.win_rate is not None:
        assert 0 <= found.win_rate <= 1
    assert found.win_rate is not None or found.reason
    if found.unpenalised is not None:
        assert found.interval is not None and np.isfinite([*found.interval, found.stderr or 0]).all()


@given(votes)
@settings(max_examples=60, deadline=None)
def test_the_rivals_win_rate_is_the_rest(rows: list[tuple[float, int, int]]) -> None:
    """Turning all pairs round: plain likelihood has no side."""
    preference, own, rival = map(np.array, zip(*rows, strict=True))
    found, turned = length_controlled(preference, own, rival), length_controlled(1 - preference, rival, own)
    assert (found.unpenalised is None) == (turned.unpenalised is None)
    if found.unpenalised is not None and turned.unpenalised is not None:
        assert found.unpenalised + turned.unpenalised == pytest.approx(1, abs=1e-6)
        assert found.length_effect == pytest.approx(turned.length_effect, abs=1e-4)
        assert found.stderr == pytest.approx(turned.stderr, abs=1e-5)


@pytest.mark.parametrize(
    ("preference", "own", "rival", "words"),
    [
        ([1, float("nan"), 0, 1, 0], [1] * 5, [2] * 5, "preference[1] is nan"),
        ([1, 0, 1, 0, 1], [1, 2, float("nan"), 4, 5], [2] * 5, "length[2] is nan"),
        ([1, 0, 1, 0, 1], [1] * 5, [2, 2, 2, 2, float("inf")], "rival_length[4] is inf"),
        ([1, 0, 1, 0, 2], [1] * 5, [2] * 5, "preference[4] is 2"),
        ([1, 0, 1, 0, 1], [1, 2, 3, -4, 5], [2] * 5, "length[3] is -4"),
        ([1, 0, 1, 0, 1], [1, 2, 3], [2] * 5, "length has shape (3,)"),
        ([1, 0, 1, "a", 1], [1] * 5, [2] * 5, "preference holds something that is no number"),
        ([], [], [], "no judged prompts"),
    ],
)
def test_bad_rows_are_named(preference: list[float], own: list[float], rival: list[float], words: str) -> None:
    with pytest.raises(DataError) as failure:
        length_controlled(preference, own, rival)
    assert words in str(failure.value)


@pytest.mark.parametrize("said", [0.5, 0.7])
def test_a_judge_without_any_spread_is_no_certainty(said: float) -> None:
    found = length_controlled([said] * 20, list(range(1, 21)), [5, 30] * 10, resamples=20)
    assert found.unpenalised == pytest.approx(said) and found.interval is not None
    assert found.interval.lower < said - 0.15 and found.interval.upper > said + 0.1
    assert "no spread shows" in (found.reason or "")
