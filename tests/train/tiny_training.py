"""Tiny models and batches for the tests of training, and a run that is interrupted at chosen steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.model.batch import Batch
from qwill.model.config import ModelConfig
from qwill.model.initial import init_weights
from qwill.model.transformer import Transformer
from qwill.train.loop import History, train
from qwill.train.settings import OptimizerConfig, ScheduleConfig, StepConfig
from qwill.train.step import StepData

VOCAB = 50
STEPS = 6
KINDS = ("dense", "moe", "hybrid")
OPTIMIZERS = ("muon", "adamw")
CONFIGS = {
    "dense": ModelConfig("qwen3", VOCAB, 24, 2, 2, 1, 12, 32, attention_bias=True),
    "moe": ModelConfig(
        "qwen3_moe", VOCAB, 24, 2, 2, 1, 12, 0, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8
    ),
    # Heads that the native attention takes on any processor.
    "wide": ModelConfig("qwen3", VOCAB, 24, 2, 2, 1, 16, 32),
    # Both kinds of layers, gates, a shared expert: for tests of what no layer may change.
    "hybrid": ModelConfig(
        "qwen3_next", VOCAB, 24, 2, 2, 1, 12, 16, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=8, layer_types=("linear_attention", "full_attention"), linear_num_key_heads=2,
        linear_num_value_heads=4, linear_key_head_dim=6, linear_value_head_dim=4, linear_conv_kernel_dim=3,
    ),
}  # fmt: skip
SCHEDULE = ScheduleConfig(0.2, 0.4)
# What rounding may do to a model in float64: routers compute in float32 whatever the rest does.
ROUNDING = {"dense": 1e-10, "moe": 1e-6, "hybrid": 1e-6}


class Killed(Exception):
    """What ends an interrupted run in place of `kill -9`."""


@dataclass
class Outcome:
    """Everything that an interruption must not change."""

    weights: dict[str, Tensor]
    checkpoint: dict[str, Tensor]  # the last one: weights and the optimisers' state
    metadata: dict[str, str]
    history: dict[str, Any]
    metrics: bytes

    def differences(self, other: Outcome) -> list[str]:
        """Names of what is not the same to the last bit."""
        found = []
        for mine, theirs in ((self.weights, other.weights), (self.checkpoint, other.checkpoint)):
            assert mine.keys() == theirs.keys()
            found += [name for name in mine if not torch.equal(mine[name], theirs[name])]
        for name in ("metadata", "history", "metrics"):
            if getattr(self, name) != getattr(other, name):
                found.append(name)
        return found


def fresh(kind: str, seed: int = 0) -> Transformer:
    model = Transformer(CONFIGS[kind])
    init_weights(model, torch.Generator().manual_seed(seed))
    return model


def context(folder: Path, inputs: dict[str, Path] | None = None, seed: int = 0) -> StageContext:
    for name in ("out", "work"):
        (folder / name).mkdir(exist_ok=True, parents=True)
    display = Display(quiet=True)
    return StageContext(
        folder / "out", folder / "work", inputs or {}, seed, 1, display, None, folder / "logs" / "metrics.jsonl"
    )


def step_data(step: int) -> StepData:
    """Three sequences of random tokens and targets; not all tokens weigh the same, some nothing."""
    g = torch.Generator().manual_seed(step)
    ids = [torch.randint(0, VOCAB, (n,), generator=g) for n in (5, 9, 2)]
    weight = torch.randint(0, 4, (16,), generator=g).float()
    targets = torch.randint(0, VOCAB, (16,), generator=g)
    return StepData(Batch.pack(ids), targets, weight / weight.sum(), f"batch {step}")


def saved(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint."""
    with safe_open(path, framework="pt") as f:
        return {name: f.get_tensor(name) for name in f.keys()}, f.metadata()  # noqa: SIM118 (not a dict)


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "work").glob("checkpoint-*.safetensors"))


def outcome(folder: Path, model: Transformer, history: History) -> Outcome:
    tensors, metadata = saved(checkpoints(folder)[-1])
    weights = {name: p.detach() for name, p in model.named_parameters()}
    metrics = (folder / "logs" / "metrics.jsonl").read_bytes()
    metrics = re.sub(rb', "tokens_per_second": [^,}]+', b"", metrics)  # how fast it was may differ
    return Outcome(weights, tensors, metadata, vars(history), metrics)


def run(
    folder: Path,
    kind: str,
    optimizer: str,
    data: Callable[[int], StepData] = step_data,
    checkpoint_seconds: float = 0.0,
    how: StepConfig = StepConfig(),  # noqa: B008 (frozen)
) -> Outcome:
    """One attempt. Where a checkpoint is there, the model in memory is another one, as nothing of it may survive."""
    model = fresh(kind, seed=99 if checkpoints(folder) else 0)

    def validate(step: int) -> dict[str, Any]:
        return {"norm": float(model.norm.weight.detach().sum())}

    history = train(
        model, STEPS, data, OptimizerConfig(optimizer, clip=0.5), SCHEDULE, 0.01, context(folder), "test",
        validate, 2, checkpoint_seconds, how,
    )  # type: ignore[arg-type]  # fmt: skip
    return outcome(folder, model, history)


def interrupt(folder: Path, kind: str, optimizer: str, cuts: Sequence[int]) -> None:
    """Attempts that each end by an exception when they ask for the data of a step in `cuts`."""
    for cut in cuts:

        def data(step: int, cut: int = cut) -> StepData:
            if step == cut:
                raise Killed
            return step_data(step)

        try:
            run(folder, kind, optimizer, data)
        except Killed:
            continue
        raise AssertionError(f"the run was not interrupted at step {cut}")
