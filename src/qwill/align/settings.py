"""Settings of the reinforcement learning stage, apart from the code so that reading a recipe does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from qwill.base.errors import ConfigError
from qwill.train.settings import OptimizerConfig, ScheduleConfig, need_positive


def _gentle() -> OptimizerConfig:
    return OptimizerConfig(learning_rate=3e-4, matrix_rate=3e-3)


@dataclass(frozen=True)
class GRPOConfig:
    """`steps` × `prompts` prompts, `samples` replies each of at most `max_tokens`; `updates` optimiser steps on each.

    Each step draws half its prompts from each language. Groups that are all right or all wrong teach nothing and are
    left out of the update (DAPO's dynamic sampling, without drawing again). The policy that is sampled and trained is
    softmax(logits / temperature): below 1 it is nearer to the greedy replies that users see.
    """

    steps: int = 60
    prompts: int = 32
    samples: int = 8
    updates: int = 1
    max_tokens: int = 24
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    scale_advantages: bool = True
    balance: float = 0.0
    train_tokens: int = 8192
    optimizer: OptimizerConfig = field(default_factory=_gentle)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(warmup=0.05, decay=0.3))

    def __post_init__(self) -> None:
        need_positive(self, "steps", "prompts", "updates", "max_tokens", "temperature", "train_tokens")
        if self.samples < 2:
            raise ConfigError(f"samples is {self.samples}; a group needs at least 2 to compare.")
