"""Best-fit packing: every example once an epoch, nothing over the limit, hardly any room left over."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from qwill.train.best_fit import pack_best_fit, pack_epoch
from qwill.train.sft import plan_steps

lengths_of_examples = st.lists(st.integers(1, 40), min_size=1, max_size=40)


@given(lengths=lengths_of_examples, room=st.integers(1, 90), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_every_example_once_an_epoch_and_no_step_over_its_room(
    lengths: list[int], room: int, seed: int, epoch: int
) -> None:
    steps = pack_epoch(lengths, room, seed, epoch)
    assert sorted(i for step in steps for i in step) == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in step) for step in steps]
    assert all(steps) and all(len(s) == 1 or size <= room for s, size in zip(steps, sizes, strict=True))
    # Any two steps together would not fit into one, whatever the order: best fit never opens one too early.
    small = sorted(sizes)[:2]
    assert len(steps) == 1 or sum(small) > room
    assert steps == pack_epoch(lengths, room, seed, epoch)


def fullest_first(lengths: list[int], room: int, order: list[int]) -> list[set[int]]:
    """Best fit by looking at every step there is."""
    steps: list[list[int]] = []
    for i in order:
        left = [room - sum(lengths[j] for j in step) - lengths[i] for step in steps]
        fitting = [(space, k) for k, space in enumerate(left) if space >= 0]
        if fitting:
            steps[min(fitting)[1]].append(i)
        else:
            steps.append([i])
    return [set(step) for step in steps]


@given(lengths=lengths_of_examples, room=st.integers(1, 90))
def test_the_fullest_step_with_room_is_taken(lengths: list[int], room: int) -> None:
    got = pack_epoch(lengths, room, 3, 0)
    draw = random.Random("3/sft/0")
    order = list(range(len(lengths)))
    draw.shuffle(order)
    sizes = sorted(sum(lengths[i] for i in step) for step in got)
    assert sizes == sorted(sum(lengths[i] for i in step) for step in fullest_first(lengths, room, order))


def test_steps_are_fuller_than_in_the_order_of_drawing_and_meet_others_in_each_epoch() -> None:
    draw = random.Random(0)
    lengths = [min(512, int(draw.lognormvariate(4.5, 0.8)) + 10) for _ in range(3000)]
    packing = pack_best_fit(lengths, 2048, 7, epochs=2)
    assert packing.fill > 0.99
    drawn = plan_steps(lengths, packing.epoch_steps[0], 2048, 7)
    assert sum(lengths[i] for step in drawn for i in step) / (2048 * len(drawn)) < packing.fill
    first, second = packing.steps[: packing.epoch_steps[0]], packing.steps[packing.epoch_steps[0] :]
    assert not {frozenset(s) for s in first} & {frozenset(s) for s in second}
    # Long examples are not all at the beginning.
    longest = [max(lengths[i] for i in step) for step in first]
    half = len(longest) // 2
    assert abs(sum(longest[:half]) / half - sum(longest[half:]) / (len(longest) - half)) < 60


def test_long_and_short_examples_meet_in_a_step_as_they_are_drawn() -> None:
    """The loss is a mean over a step's tokens: with long examples among themselves (best-fit decreasing: 1.6 here) the
    tokens of short ones would weigh more."""
    draw = random.Random(1)
    lengths = [draw.randint(10, 40) if draw.random() < 0.85 else draw.randint(100, 500) for _ in range(3000)]
    steps = pack_epoch(lengths, 2048, 5, 0)
    trained = [[lengths[i] // 3 if lengths[i] < 100 else lengths[i] // 2 for i in step] for step in steps]
    weight = {i: 1 / sum(own) for step, own in zip(steps, trained, strict=True) for i in step}
    short, long = ([weight[i] for i, n in enumerate(lengths) if (n < 100) == kind] for kind in (True, False))
    assert abs(sum(short) / len(short) / (sum(long) / len(long)) - 1) < 0.1


@given(lengths=lengths_of_examples, steps=st.integers(1, 30), room=st.integers(1, 90))
def test_a_longer_plan_begins_as_a_shorter_one(lengths: list[int], steps: int, room: int) -> None:
    plan = pack_best_fit(lengths, room, 0, steps=steps)
    assert len(plan.steps) == steps and 0 < plan.fill <= 1
    assert pack_best_fit(lengths, room, 0, steps=steps + 3).steps[:steps] == plan.steps
    assert pack_best_fit(lengths, room, 1, epochs=2).steps == [
        s for e in (0, 1) for s in pack_epoch(lengths, room, 1, e)
    ]
