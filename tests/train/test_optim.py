"""Schedules, Muon, and who trains which parameter."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from qwill.model.config import ModelConfig
from qwill.model.transformer import Transformer
from qwill.train.optim import make_optimizers, orthogonalize, rate_factor
from qwill.train.settings import OptimizerConfig, ScheduleConfig

CONFIG = ModelConfig("qwen3_moe", 50, 24, 2, 2, 1, 12, 0, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8)


def model(seed: int = 0) -> Transformer:
    made = Transformer(CONFIG)
    made.init_weights(torch.Generator().manual_seed(seed))
    return made


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
