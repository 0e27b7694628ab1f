"""Schedules, Muon, and resuming: exact to the step."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import CheckpointError, TrainingError
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.transformer import Transformer
from qwill.train.checkpoint import load_checkpoint, save_checkpoint
from qwill.train.loop import History, StepData, train
from qwill.train.optim import make_optimizers, orthogonalize, rate_factor
from qwill.train.settings import OptimizerConfig, ScheduleConfig

CONFIG = ModelConfig("qwen3_moe", 50, 24, 2, 2, 1, 12, 0, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8)


def model(seed: int = 0) -> Transformer:
    made = Transformer(CONFIG)
    made.init_weights(torch.Generator().manual_seed(seed))
    return made


def context(folder: Path) -> StageContext:
    (folder / "work").mkdir(exist_ok=True, parents=True)
    return StageContext(
        folder / "out", folder / "work", {}, 0, 1, Display(quiet=True), None, folder / "logs" / "metrics.jsonl"
    )


def step_data(step: int) -> StepData:
    g = torch.Generator().manual_seed(step)
    ids = [torch.randint(0, 50, (n,), generator=g) for n in (5, 9, 2)]
    return StepData(
        Batch.pack(ids), torch.randint(0, 50, (16,), generator=g), torch.full((16,), 1 / 16), f"batch {step}"
    )


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 99))
def test_orthogonalize_brings_singular_values_near_one(rows: int, columns: int, seed: int) -> None:
    g = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    singular = torch.linalg.svdvals(g)
    after = torch.linalg.svdvals(orthogonalize(g, 5))
    top = singular.amax(-1, keepdim=True)
    # Below 0.1 % of the norm a direction is noise, and a matrix of nearly nothing is damped on purpose (1e-7).
    well = (singular > 0.005 * top) & (top > 1e-3)
    assert bool(((after[well] - 1).abs() < 0.15).all())


def test_orthogonalize_keeps_directions() -> None:
    g = torch.randn(8, 5)
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    nearest = u @ vh
    assert float((orthogonalize(g, 5) * nearest).sum() / nearest.norm() ** 2) > 0.8


@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.3), decay=st.floats(0, 0.7), final=st.floats(0, 0.5))
def test_rate_rises_stays_and_falls(steps: int, warmup: float, decay: float, final: float) -> None:
    factors = [rate_factor(i, steps, ScheduleConfig(warmup, decay, final)) for i in range(steps)]
    assert all(0 < f <= 1 for f in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_every_parameter_is_trained_by_exactly_one_optimizer() -> None:
    for kind in ("muon", "adamw"):
        made = model()
        owned = [
            id(p) for o in make_optimizers(made, OptimizerConfig(kind)) for g in o.param_groups for p in g["params"]
        ]
        assert sorted(owned) == sorted(id(p) for p in made.parameters())


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("cut", [1, 4, 7])
def test_resume_is_exact(tmp_path: Path, kind: str, cut: int) -> None:
    torch.set_num_threads(1)
    optimizer, schedule = OptimizerConfig(kind), ScheduleConfig(0.2, 0.4)  # type: ignore[arg-type]
    whole, ctx = model(), context(tmp_path / "whole")
    straight = train(whole, 8, step_data, optimizer, schedule, 0.01, ctx, "test")

    class Killed(Exception):
        pass

    def until_cut(step: int) -> StepData:
        if step == cut:
            raise Killed
        return step_data(step)

    ctx = context(tmp_path / "cut")
    with pytest.raises(Killed):
        train(model(), 8, until_cut, optimizer, schedule, 0.01, ctx, "test", checkpoint_seconds=0)
    resumed = model(seed=99)  # whatever was in memory is gone
    history = train(resumed, 8, step_data, optimizer, schedule, 0.01, ctx, "test")
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert vars(history) == vars(straight)
    logs = [(tmp_path / n / "logs" / "metrics.jsonl").read_text() for n in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    def poisoned(step: int) -> StepData:
        data = step_data(step)
        if step == 3:
            data.weight_N[0] = float("nan")
        return data

    ctx = context(tmp_path)
    with pytest.raises(TrainingError, match=r"step 3 .*batch 3"):
        train(model(), 8, poisoned, OptimizerConfig(), ScheduleConfig(), 0.0, ctx, "test", checkpoint_seconds=0)
    made = model(seed=5)
    found = load_checkpoint(ctx.work, made, make_optimizers(made, OptimizerConfig()))
    assert found is not None and found[0] == 3
    assert all(bool(p.isfinite().all()) for p in made.parameters())


def test_a_checkpoint_cut_off_is_passed_over_and_an_unreadable_folder_named(tmp_path: Path) -> None:
    made = model()
    optimizers = make_optimizers(made, OptimizerConfig())
    for step in (1, 2):
        save_checkpoint(tmp_path, step, made, optimizers, vars(History()))
    newest = tmp_path / "checkpoint-00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    found = load_checkpoint(tmp_path, made, optimizers)
    assert found is not None and found[0] == 1
    (tmp_path / "checkpoint-00000001.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path, made, optimizers)
