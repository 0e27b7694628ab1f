"""The training loop: resuming at any step changes no bit, a step is what plain PyTorch says, NaN stops it."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.tiny_training import (
    KINDS,
    OPTIMIZERS,
    ROUNDING,
    SCHEDULE,
    STEPS,
    VOCAB,
    Outcome,
    checkpoints,
    context,
    fresh,
    interrupt,
    run,
    saved,
    step_data,
)
from torch.optim.optimizer import register_optimizer_step_pre_hook

from qwill.base.errors import TrainingError
from qwill.model.batch import Batch
from qwill.model.transformer import Transformer, balancing_loss
from qwill.train.loop import LOAD_MEMORY, History, _remember_load, train
from qwill.train.optim import rate_factor
from qwill.train.settings import OptimizerConfig, ScheduleConfig
from qwill.train.step import StepData


@cache
def uninterrupted(kind: str, optimizer: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), kind, optimizer, checkpoint_seconds=1e9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(cuts=st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=3).map(sorted))
def test_an_interrupted_run_ends_as_one_that_was_not(kind: str, optimizer: str, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        interrupt(Path(name), kind, optimizer, cuts)
        assert run(Path(name), kind, optimizer).differences(uninterrupted(kind, optimizer)) == []


def test_checkpoints_stand_at_the_end_unless_none_are_wanted(tmp_path: Path) -> None:
    for name, seconds in (("some", 1e9), ("none", math.inf)):
        (tmp_path / name).mkdir()
        train(
            fresh("dense", seed=0), STEPS, step_data, OptimizerConfig("adamw"), SCHEDULE, 0.0, context(tmp_path / name),
            "test", checkpoint_seconds=seconds,
        )  # fmt: skip
        assert any((tmp_path / name).rglob("checkpoint-*")) == (name == "some")


@pytest.mark.parametrize("cut", range(STEPS))
def test_an_interrupted_run_does_no_step_twice(tmp_path: Path, cut: int) -> None:
    interrupt(tmp_path, "moe", "muon", [cut])
    asked: list[int] = []

    def data(step: int) -> StepData:
        asked.append(step)
        return step_data(step)

    run(tmp_path, "moe", "muon", data)
    assert asked == list(range(cut, STEPS))


def test_a_finished_run_is_found_finished(tmp_path: Path) -> None:
    first = run(tmp_path, "dense", "muon")

    def data(step: int) -> StepData:
        raise AssertionError("nothing is left to train")

    assert run(tmp_path, "dense", "muon", data).differences(first) == []


def test_history_and_log_say_what_happened(tmp_path: Path) -> None:
    whole = run(tmp_path, "moe", "adamw")
    history = History(**whole.history)
    assert [p["step"] for p in history.curve] == list(range(1, STEPS + 1))
    assert [p["step"] for p in history.validation] == [2, 4]  # after the last step the stage itself looks
    assert history.tokens == STEPS * 16
    assert len(history.expert_load) == 2
    assert [sum(layer) for layer in history.expert_load] == pytest.approx([1, 1], rel=1e-6)
    rows = [json.loads(line) for line in whole.metrics.splitlines()]
    for i, (row, point) in enumerate(zip(rows, history.curve, strict=True)):
        assert row == point | {"tokens": 16 * (i + 1)}
        assert row["rate"] == rate_factor(i, STEPS, SCHEDULE)


def test_expert_load_is_averaged_over_the_last_steps() -> None:
    history = History()
    loads = [torch.tensor(x) for x in ([1.5, 0.5], [0.5, 1.5], [2.0, 0.0])]  # two experts a token
    for load in loads:
        _remember_load(history, load[None])
    expected = LOAD_MEMORY * (LOAD_MEMORY * 0.75 + (1 - LOAD_MEMORY) * 0.25) + (1 - LOAD_MEMORY) * 1.0
    assert history.expert_load == [pytest.approx([expected, 1 - expected])]


@given(n=st.integers(1, 60), points=st.integers(1, 20))
def test_thinning_keeps_the_mean_and_the_last_step(n: int, points: int) -> None:
    curve = [{"step": i + 1, "loss": float(i * i)} for i in range(n)]
    thin = History(curve).thinned(points)["curve"]
    assert len(thin) <= points and thin[-1]["step"] == n
    ends = [0, *(p["step"] for p in thin)]
    for a, b, p in zip(ends, ends[1:], thin, strict=False):
        assert p["loss"] == pytest.approx(sum(i * i for i in range(a, b)) / (b - a))


def plain_loss(model: Transformer, data: StepData, balance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(weighted cross-entropy, what is minimised) with the logits held whole."""
    output = model(data.batch)
    logp = torch.log_softmax(output.hidden_ND @ model.head_weight_VD.T, -1)
    loss = -(logp[torch.arange(len(data.targets_N)), data.targets_N] * data.weight_N).sum()
    return loss, loss + balance * balancing_loss(output.router_stats) if output.router_stats else loss


@contextmanager
def watched_steps(seen: list[tuple[float, list[float]]]) -> Iterator[None]:
    """Notes (norm of all gradients, rate / peak of each group) of every step of every optimiser."""

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        norm = float(torch.stack([g.norm() for g in gradients]).norm())
        seen.append((norm, [g["lr"] / g["peak"] for g in optimizer.param_groups]))

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_a_step_is_what_plain_pytorch_says(tmp_path: Path, kind: str, clip: float) -> None:
    balance, steps, schedule = 0.3, 5, ScheduleConfig(0.5, 0.5)
    model, twin = fresh(kind).double(), fresh(kind).double()
    seen: list[tuple[float, list[float]]] = []
    optimizer = OptimizerConfig("adamw", clip=clip)
    with watched_steps(seen):
        history = train(model, steps, step_data, optimizer, schedule, balance, context(tmp_path), "test")
    loss, total = plain_loss(twin, step_data(0), balance)
    total.backward()
    norm = float(torch.stack([p.grad.norm() for p in twin.parameters() if p.grad is not None]).norm())
    first = history.curve[0]
    assert first["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
    assert first["gradient_norm"] == pytest.approx(norm, rel=1e-10)
    if kind == "moe":
        assert first["loss"] + balance * first["balance"] == pytest.approx(float(total.detach()), rel=1e-10)
    for step, ((used, rates), point) in enumerate(zip(seen, history.curve, strict=True)):
        # clip_grad_norm_ divides by norm + 1e-6.
        assert used == pytest.approx(min(clip, point["gradient_norm"]), rel=1e-4)
        assert rates == pytest.approx([rate_factor(step, steps, schedule)] * len(rates))


@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=6), seed=st.integers(0, 99), data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_order_packing_and_splitting_change_a_step_by_rounding_only(
    kind: str, lengths: list[int], seed: int, data: st.DataObject
) -> None:
    g = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, VOCAB, (n,), generator=g) for n in lengths]
    targets = [torch.randint(0, VOCAB, (n,), generator=g) for n in lengths]
    weights = [torch.rand(n, generator=g, dtype=torch.float64) / sum(lengths) for n in lengths]
    order = data.draw(st.permutations(range(len(lengths))))
    cut = data.draw(st.integers(1, len(lengths) - 1))

    def packed(chosen: list[int], row_length: int | None = None) -> StepData:
        batch = Batch.pack([ids[i] for i in chosen])
        batch.row_length = row_length
        return StepData(batch, torch.cat([targets[i] for i in chosen]), torch.cat([weights[i] for i in chosen]), "x")

    def trained(batch: StepData) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as name:
            made = fresh(kind).double()
            optimizer = OptimizerConfig("adamw", clip=1e9)
            return train(made, 1, lambda _: batch, optimizer, SCHEDULE, 0.1, context(Path(name)), "t").curve[0]

    def gradients(*batches: StepData) -> list[torch.Tensor]:
        made = fresh(kind).double()
        for batch in batches:
            plain_loss(made, batch, 0.0)[0].backward()
        return [p.grad for p in made.parameters() if p.grad is not None]

    whole = packed(list(range(len(lengths))))
    for other in (packed(order), packed(list(range(len(lengths))), row_length=12)):
        assert trained(other) == pytest.approx(trained(whole), rel=ROUNDING[kind])
    # In parts: the balancing loss is not linear in the tokens, so this holds for the cross-entropy alone.
    for a, b in zip(gradients(whole), gradients(packed(order[:cut]), packed(order[cut:])), strict=True):
        assert float((a - b).norm()) <= ROUNDING[kind] * (1 + float(a.norm()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_not_finite_stops_and_the_last_good_checkpoint_stays(
    tmp_path: Path, optimizer: str, what: str, bad: float
) -> None:
    model = fresh("moe")
    now = 0

    def data(step: int) -> StepData:
        nonlocal now
        now = step
        made = step_data(step)
        if what == "loss" and step == 3:
            made.weight_N[0] = bad
        return made

    if what == "gradient":
        model.norm.weight.register_hook(lambda g: torch.full_like(g, bad) if now == 3 else g)
    ctx = context(tmp_path)
    config = OptimizerConfig(optimizer)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=rf"the {what} of step 3 is not finite \(batch 3\)") as caught:
        train(model, STEPS, data, config, SCHEDULE, 0.01, ctx, "test", checkpoint_seconds=0)
    assert str(ctx.work) in str(caught.value) and "\n" not in str(caught.value)
    assert len(ctx.metrics_path.read_text().splitlines()) == 3
    tensors, metadata = saved(checkpoints(tmp_path)[-1])
    assert metadata["step"] == "3" and all(bool(t.isfinite().all()) for t in tensors.values())
    for name, p in model.named_parameters():
        assert torch.equal(tensors[f"model.{name}"], p), "the bad gradient was applied"
    # What comes after a batch that was mended is as if nothing had happened.
    resumed = train(fresh("moe", 99), STEPS, step_data, config, SCHEDULE, 0.01, ctx, "test")
    straight = train(fresh("moe"), STEPS, step_data, config, SCHEDULE, 0.01, context(tmp_path / "straight"), "test")
    assert vars(resumed) == vars(straight)
