"""What a LoRA adapter is made of; apart from the code, so that reading a recipe does not import torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwill.base.errors import ConfigError

EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraConfig:
    """`targets` are ends of released module names (PEFT's `target_modules`; its list form); `parameters` (its
    `target_parameters`) name stacked experts, `experts.gate_up_proj` and `experts.down_proj`, and matrices.

    scale = alpha / rank, or alpha / √rank with `rslora` (arXiv 2312.03732). `ranks` and `alphas` override both for
    modules whose names match a pattern (PEFT's `rank_pattern` and `alpha_pattern`).
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = EVERY
    parameters: tuple[str, ...] = ()
    rslora: bool = False
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rank in (self.rank, *self.ranks.values()):
            if rank < 1:
                raise ConfigError(f"rank is {rank}; expected 1 or more.")

    def spelled(self, module: str) -> str:
        """The name that PEFT compares with patterns: a matrix that it has as a parameter ends in `.weight`."""
        return f"{module}.weight" if named(f"{module}.weight", self.parameters) else module

    def rank_of(self, module: str) -> int:
        return int(_matched(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        rank, alpha = self.rank_of(module), _matched(self.alphas, module, self.alpha)
        return float(alpha / (math.sqrt(rank) if self.rslora else rank))


def _matched(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that is an end of the name, as PEFT matches them."""
    return next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), otherwise)


def named(module: str, ends: tuple[str, ...]) -> bool:
    """PEFT's rule for lists of targets: a whole name, or the end of one from a dot on."""
    return any(module == end or module.endswith(f".{end}") for end in ends)
