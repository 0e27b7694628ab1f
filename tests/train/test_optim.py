"""Schedules, Muon, and who trains which parameter."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train.tiny_training import CONFIGS

from qwill.base.config import parse, to_dict
from qwill.base.errors import ConfigError, TrainingError
from qwill.model.config import ModelConfig
from qwill.model.initial import init_weights
from qwill.model.transformer import Transformer
from qwill.train.optim import make_optimizers, orthogonalize, rate_factor
from qwill.train.settings import OptimizerConfig, ScheduleConfig

CONFIG = ModelConfig("qwen3_moe", 50, 24, 2, 2, 1, 12, 0, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8)


def model(seed: int = 0) -> Transformer:
    made = Transformer(CONFIG)
    init_weights(made, torch.Generator().manual_seed(seed))
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


SHAPES = st.sampled_from(["linear", "cosine"])


@given(
    steps=st.integers(1, 500),
    warmup=st.floats(0, 0.3),
    decay=st.floats(0, 0.7),
    final=st.floats(0, 0.5),
    shape=SHAPES,
)
def test_rate_rises_stays_and_falls(steps: int, warmup: float, decay: float, final: float, shape: str) -> None:
    factors = [rate_factor(i, steps, ScheduleConfig(warmup, decay, final, shape)) for i in range(steps)]  # type: ignore[arg-type]
    assert all(0 < f <= 1 for f in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_the_cosine_is_pytorchs() -> None:
    steps, final = 40, 0.1
    rate = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(rate, T_max=steps + 1, eta_min=final)
    for step in range(steps):
        rate.step()
        scheduler.step()
        mine = rate_factor(step, steps, ScheduleConfig(0.0, 1.0, final, "cosine"))
        assert mine == pytest.approx(rate.param_groups[0]["lr"], rel=1e-6)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"warmup": 1.5}, "warmup is 1.5; expected a share from 0 to 1."),
        ({"final": -0.1}, "final is -0.1; expected a share from 0 to 1."),
        ({"warmup": 0.5, "decay": 0.7}, "warmup (0.5) and decay (0.7) are more than the whole run; lower one"),
        ({"shape": "square"}, "shape is 'square' (text); expected one of linear, cosine"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse(ScheduleConfig, given_, "recipe.yaml: base.schedule")


def test_a_linear_schedule_is_written_down_as_before() -> None:
    assert to_dict(ScheduleConfig()) == {"warmup": 0.02, "decay": 0.4, "final": 0.0}
    assert to_dict(ScheduleConfig(shape="cosine"))["shape"] == "cosine"


@given(
    frozen=st.sets(st.integers(0, 24)),
    kind=st.sampled_from(["muon", "adamw"]),
)
def test_frozen_parameters_are_left_alone(frozen: set[int], kind: str) -> None:
    made = model()
    parameters = list(made.parameters())
    assert len(parameters) < 25
    for i, p in enumerate(parameters):
        p.requires_grad_(i not in frozen)
        p.grad = torch.ones_like(p) if i not in frozen else None
    before = [p.detach().clone() for p in parameters]
    if not any(p.requires_grad for p in parameters):
        with pytest.raises(TrainingError, match="nothing to train"):
            make_optimizers(made, OptimizerConfig(kind))  # type: ignore[arg-type]
        return
    for o in make_optimizers(made, OptimizerConfig(kind)):  # type: ignore[arg-type]
        o.step()
    for i, (p, old) in enumerate(zip(parameters, before, strict=True)):
        assert torch.equal(p, old) == (i in frozen)


def test_weights_of_few_bits_are_refused_unless_frozen() -> None:
    made = model().bfloat16()
    with pytest.raises(TrainingError, match=r"embed_tokens.weight is bfloat16.*load the model as float32"):
        make_optimizers(made, OptimizerConfig())
    for name, p in made.named_parameters():
        p.requires_grad_(name == "norm.weight")
    made.norm.float()
    (only,) = make_optimizers(made, OptimizerConfig())
    assert [len(g["params"]) for g in only.param_groups] == [1]


HYBRID = CONFIGS["hybrid"].with_(mtp_layers=1)


@pytest.mark.parametrize("config", [CONFIG, HYBRID], ids=["moe", "hybrid"])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_parameter_is_trained_by_exactly_one_optimizer(kind: str, config: ModelConfig) -> None:
    made = Transformer(config)
    optimizers = make_optimizers(made, OptimizerConfig(kind))  # type: ignore[arg-type]
    owned = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    trained = [p for name, p in made.named_parameters() if not name.startswith("mtp.")]
    assert sorted(owned) == sorted(id(p) for p in trained)


def test_muon_takes_the_matrices_of_the_model_and_nothing_else() -> None:
    """By the names and shapes of the released files: each fused parameter is cut where they are cut."""
    made = Transformer(HYBRID)
    init_weights(made, torch.Generator().manual_seed(0))
    _, muon = make_optimizers(made, OptimizerConfig())
    names = {id(p): name for name, p in made.named_parameters()}
    cut = {names[id(p)]: tuple(g["parts"]) for g in muon.param_groups for p in g["params"]}
    assert cut == {
        "layers.0.linear_attn.in_proj.weight": (12, 12, 16, 16, 4, 4),
        "layers.0.linear_attn.out_proj.weight": (24,),
        "layers.1.self_attn.qkv_proj.weight": (24, 12, 12, 24),
        "layers.1.self_attn.o_proj.weight": (24,),
    } | {
        f"layers.{i}.mlp.{name}": parts
        for i in range(2)
        for name, parts in {
            "gate_up": (8, 8),
            "down": (24,),
            "shared_expert.gate_up_proj.weight": (8, 8),
            "shared_expert.down_proj.weight": (24,),
        }.items()
    }
    for p in made.parameters():
        p.grad = torch.randn_like(p)
    muon.step()
