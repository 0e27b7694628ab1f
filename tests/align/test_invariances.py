"""What must not change what an algorithm computes, for every algorithm: how a step is cut (and that a window may be
shorter than the others), padding, packing, the order of a step, the number of ranks, and being interrupted.

In float64, so that rounding cannot hide a fault. Each property is seen to fail: the tests that end in `_would_be_seen`
seed the fault that it is there for.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align import invariances
from tests.align.invariances import UNITS, WHOLE, Result, alone, cases, label, padded
from tests.train.tiny_training import Killed

from qwill.align import policy_update
from qwill.base.progress import MetricsLog
from qwill.model import transformer

EXACT, SAID = 1e-9, 1e-6
DENSE, SPARSE = ({label(case): case for case in cases(kind)} for kind in ("dense", "moe"))
NAMES = [*DENSE]
WINDOWS = ([*range(UNITS)], [6, 1, 3])  # a full one, and the last of an epoch


@pytest.fixture(scope="module", autouse=True)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], Path] | None]:
    """The two processes of all tests about ranks, which run beside the other tests; None where no test wants them."""
    if not any("ranks" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("ranks")
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_WORLD_SIZE")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.align.invariance_ranks", str(folder)], cwd=Path(__file__).parents[2], text=True,
        env=environment | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    yield process, folder
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@cache
def whole(kind: str, name: str, window: int) -> Result:
    return {"dense": DENSE, "moe": SPARSE}[kind][name].gradient(WINDOWS[window], WHOLE)


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("name", NAMES)
def test_eight_at_once_are_eight_one_by_one_also_in_a_window_that_is_not_full(name: str, kind: str) -> None:
    case = {"dense": DENSE, "moe": SPARSE}[kind][name]
    for window, units in enumerate(WINDOWS):
        assert case.gradient(units, 1).distance(whole(kind, name, window)) < EXACT


@pytest.mark.parametrize("name", NAMES)
def test_with_the_balancing_loss_too(name: str) -> None:
    """Expert load is counted over the whole step."""
    case = next(c for c in cases("moe", 0.3) if label(c) == name)
    one, many = case.gradient(WINDOWS[0], WHOLE), case.gradient(WINDOWS[0], 70)
    assert many.distance(one) < EXACT
    without = whole("moe", name, 0).gradients
    assert not case.balance or Result(one.gradients, {}).distance(Result(without, {})) > 100 * SAID


@pytest.mark.parametrize("name", NAMES)
def test_a_mean_of_means_would_be_seen(name: str) -> None:
    """trl #2995, ms-swift #10084: windows of three and five, each with a mean of its own."""
    parts = [DENSE[name].gradient(units, WHOLE) for units in (WINDOWS[0][:3], WINDOWS[0][3:])]
    mean = {k: (parts[0].gradients[k] + parts[1].gradients[k]) / 2 for k in parts[0].gradients}
    right = whole("dense", name, 0)
    assert Result(mean, right.numbers).distance(right) > 100 * SAID


@pytest.mark.parametrize("kind", ["dense", "moe"])
@pytest.mark.parametrize("name", NAMES)
def test_packed_is_unpacked_and_the_loss_on_paper(name: str, kind: str) -> None:
    case = {"dense": DENSE, "moe": SPARSE}[kind][name]
    for window, units in enumerate(WINDOWS):
        assert told(case.paper(units, alone), whole(kind, name, window)) < SAID


@pytest.mark.parametrize("name", ["sft", "sigmoid", "gspo", "ppo", "distill_jsd"])
def test_examples_that_see_their_neighbours_would_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention over all that is packed, as if it were one sequence."""
    plan, right = transformer.plan_attention, whole("dense", name, 0)
    one = lambda batch: replace(batch, cu_seqlens=batch.cu_seqlens[[0, -1]])  # noqa: E731
    monkeypatch.setattr(transformer, "plan_attention", lambda batch, *a, **k: plan(one(batch), *a, **k))
    wrong = DENSE[name].gradient(WINDOWS[0], WHOLE)
    assert wrong.distance(right) > 100 * SAID


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_gives_the_same(name: str, side: str) -> None:
    """Rows filled up on either side, to two widths, with a mask and positions, as trainers have them that pad."""
    case = DENSE[name]
    for more in (0, 5):
        assert told(case.paper(WINDOWS[0], padded(case.sequences(), side, more)), whole("dense", name, 0)) < SAID


def test_padding_that_counts_would_be_seen() -> None:
    """Filled places that are attended to."""
    case, masked = DENSE["sigmoid"], invariances.masked_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invariances, "masked_attention", lambda real_BT: masked(torch.ones_like(real_BT)))
        wrong = case.paper(WINDOWS[0], padded(case.sequences(), "left", 3))
    assert told(wrong, whole("dense", "sigmoid", 0)) > 100 * SAID


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_a_step_changes_nothing(name: str) -> None:
    for seed in range(3):
        draw = random.Random(seed)
        units = draw.sample(range(UNITS), UNITS)
        found = DENSE[name].gradient(units, draw.choice([40, 70, 150, WHOLE]))
        assert found.distance(whole("dense", name, 0)) < EXACT


def test_weights_by_place_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right in the order in which replies grow, and in no other."""
    weights, right = policy_update.token_weights, whole("dense", "grpo", 0)
    monkeypatch.setattr(policy_update, "token_weights", lambda lengths, *how: weights(sorted(lengths), *how))
    for units, wrong in (([*range(UNITS)], False), ([*reversed(range(UNITS))], True)):
        found = DENSE["grpo"].gradient(units, WHOLE).gradients
        far = Result(found, {}).distance(Result(right.gradients, {}))
        assert (far > 100 * SAID) if wrong else (far < EXACT)


def told(paper: Result, found: Result) -> float:
    """The distance in what the paper speaks of."""
    return paper.distance(Result(found.gradients, {k: found.numbers[k] for k in paper.numbers}))


# -- ranks


@pytest.fixture(scope="module")
def ranks(running: tuple[subprocess.Popen[str], Path]) -> dict[str, dict[str, float]]:
    """What every algorithm did in two processes."""
    process, folder = running
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said[-4000:]
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_are_one(name: str, ranks: dict[str, dict[str, float]]) -> None:
    """Steps of eight units, of three, and of one, which leaves a rank without; and a training with its numbers for the
    log, rollouts drawn on both ranks where there are any; which one process takes over before the last step."""
    assert ranks[name]["gradient"] < EXACT
    assert ranks[name]["training"] < SAID and ranks[name]["resumed"] < SAID


def test_fine_tuning_on_other_meshes(ranks: dict[str, dict[str, float]]) -> None:
    """Also in a step with one sequence, where a rank takes part with what counts for nothing."""
    assert {*ranks["meshes"]} == {"fsdp", "ep", "cp", "tp"} and max(ranks["meshes"].values()) < EXACT, ranks["meshes"]


def test_units_that_are_computed_twice_and_statistics_of_a_share_would_be_seen(
    ranks: dict[str, dict[str, float]],
) -> None:
    assert min(ranks["faults"].values()) > 100 * SAID, ranks["faults"]


# -- interruption


def numbers(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "logs" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_was_interrupted_ends_as_one_that_was_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit. What goes on is another model in memory, so nothing but the checkpoint can be what it has."""
    case = (SPARSE if NAMES.index(name) % 3 == 0 else DENSE)[name]
    weights, history = case.train(tmp_path / "whole")
    log = MetricsLog.log

    def killed(self: MetricsLog, step: int, **numbers: Any) -> None:
        log(self, step, **numbers)
        if step == 2:  # made, and not yet kept
            raise Killed

    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "log", killed)
        case.train(tmp_path / "cut")
    resumed, other = case.train(tmp_path / "cut", seed=9)
    assert [key for key, w in weights.items() if not torch.equal(w, resumed[key])] == []
    assert vars(history) == vars(other)
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")


def test_what_a_checkpoint_does_not_hold_would_be_seen(tmp_path: Path) -> None:
    """Another model in memory is another training."""
    weights, _ = DENSE["sft"].train(tmp_path / "a")
    other, _ = DENSE["sft"].train(tmp_path / "b", seed=9)
    assert not all(torch.equal(w, other[key]) for key, w in weights.items())
