"""Warnings of reward hacking: histories that hack, those that don't, numbers of a step, once in a resumed run."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from qwill.align.hacking import Watch, found, length_correlation, numbers_of
from qwill.align.rollouts import Rollout
from qwill.align.settings import RewardPart

STEPS = 60


def history(**of: Callable[[float], float]) -> list[dict[str, float]]:
    """Each number as a function of progress from 0 to 1, with noise as a small run has."""
    rng = random.Random(0)
    calm: dict[str, Callable[[float], float]] = {
        "length": lambda t: 20.0, "length_correlation": lambda t: 0.0, "repetition": lambda t: 0.02,
        "truncated": lambda t: 0.05, "checked": lambda t: 0.3 + 0.3 * t,
    }  # fmt: skip
    return [
        {"step": i + 1} | {name: f(i / STEPS) * rng.uniform(0.9, 1.1) for name, f in (calm | of).items()}
        for i in range(STEPS)
    ]


STILL: dict[str, Callable[[float], float]] = {"checked": lambda t: 0.3}


@pytest.mark.parametrize(
    ("of", "warned"),
    [
        (STILL | {"length": lambda t: 20 + 60 * t, "length_correlation": lambda t: 0.6}, {"length"}),
        (STILL | {"length": lambda t: 60 - 50 * t, "length_correlation": lambda t: -0.6}, {"length"}),
        ({"repetition": lambda t: 0.6 * t}, {"repetition"}),
        (STILL | {"form": lambda t: 0.2 + 0.7 * t}, {"format_only"}),
        ({"truncated": lambda t: 0.05 + 0.8 * t}, {"truncated"}),
    ],
)
def test_histories_that_hack(of: dict[str, Any], warned: set[str]) -> None:
    assert found(history(**of)).keys() == warned


@pytest.mark.parametrize(
    "of",
    [
        {},
        STILL,
        {"length": lambda t: 20 + 60 * t, "length_correlation": lambda t: 0.6},  # it thinks longer and gets better
        STILL | {"length": lambda t: 20 + 60 * t},  # longer, but not for the reward
        STILL | {"length_correlation": lambda t: 0.6},
        {"form": lambda t: 0.2 + 0.7 * t},  # form and check together: learnt both
        {"truncated": lambda t: 0.9 - 0.5 * t},  # an untrained model that learns to end
        {"repetition": lambda t: 0.6 - 0.5 * t},
        {"length": lambda t: 24 - 16 * t, "length_correlation": lambda t: -0.5, "truncated": lambda t: 0.5 - 0.4 * t},
    ],
)
def test_histories_that_do_not(of: dict[str, Any]) -> None:
    curve = history(**of)
    assert not any(found(curve[:n]) for n in range(1, STEPS + 1))


def test_each_is_said_once_also_where_a_run_was_resumed() -> None:
    whole = history(**STILL, length=lambda t: 20 + 60 * t, length_correlation=lambda t: 0.6)
    said: list[str] = []
    watch = Watch()
    curve: list[dict[str, float]] = []
    for number, point in enumerate(whole):
        if number == 45:
            watch = Watch(curve)
        curve.append(point)
        flags, sentences = watch.look(curve)
        curve[-1] |= flags
        said += sentences
    assert len(said) == 1 and said[0].startswith("step ") and "the reward goes with their length" in said[0]
    assert curve[-1]["hacking_length"] == 1 and "hacking_length" not in curve[5]


def rollout(reward: float, tokens: int, **more: Any) -> Rollout:
    r = Rollout([0] * (tokens + 1), 1, [0.0] * tokens, reward, "en", parts=more.pop("parts", {}))
    for name, value in more.items():
        setattr(r, name, value)
    return r


def test_correlation_is_within_a_prompts_replies() -> None:
    # Between prompts length goes against reward; within them it goes with it.
    groups = [[rollout(0.0, 10), rollout(1.0, 12)], [rollout(-5.0, 100), rollout(-4.0, 102), rollout(math.nan, 9)]]
    assert length_correlation(groups) == pytest.approx(1.0)
    assert length_correlation([[rollout(1.0, 5), rollout(1.0, 9)]]) == 0.0
    assert length_correlation([[rollout(1.0, 5)], [rollout(0.0, 5), rollout(1.0, 5)]]) == 0.0


def test_numbers_of_a_step() -> None:
    parts = (RewardPart("format"), RewardPart("m", rule="maths"), RewardPart("mine", function="a.py:b"))
    groups = [
        [
            rollout(1.0, 3, parts={"format": 1.0, "m": 0.0, "mine": 9.0}, ended=False, repeated=0.5),
            rollout(math.nan, 5, parts={"format": 0.0, "m": math.nan, "mine": 9.0}),
        ]
    ]
    assert numbers_of(groups, parts) == {
        "length_correlation": 0.0, "repetition": 0.25, "truncated": 0.5, "checked": 0.0, "form": 0.5,
    }  # fmt: skip
    assert numbers_of([[rollout(1.0, 3, parts={"verifier": 1.0})]], ())["checked"] == 1.0
    assert "checked" not in numbers_of([[rollout(1.0, 3, parts={"mine": 1.0})]], parts[2:])
