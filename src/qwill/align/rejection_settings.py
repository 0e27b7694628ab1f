"""Settings of the stage `rejection`, apart from the code so that reading a recipe does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from qwill.align.settings import RewardPart, hashes_of, need_own_names
from qwill.base.config import LATER, need_positive
from qwill.base.errors import ConfigError


@dataclass(frozen=True)
class RejectionConfig:
    """`samples` replies to each of `problems` problems a language (0: all), with `thinking` or without; of those that
    are right at most `keep` are kept, the `shortest` or `random` ones.

    A reply is right when it ended by itself, has the form of its mode, and passes the problems' own check; with
    `rewards` when their weighted sum is at least `least`. thinking_budget: tokens of thinking; replies that were cut
    there are not kept, as they hold words that aren't the model's. batch: problems that are answered at a time, and the
    most that is lost when the process is killed. heldout_share: of the problems. too_long: as in GRPOConfig.
    """

    problems: int = 0
    samples: int = 8
    keep: int = 2
    choose: Literal["shortest", "random"] = "random"
    thinking: bool = True
    thinking_budget: int | None = None
    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    batch: int = 32
    rewards: tuple[RewardPart, ...] = ()
    least: float = 1.0
    heldout_share: float = 0.05
    too_long: Literal["leave_out", "refuse"] = field(default="leave_out", metadata=LATER)

    def outside(self) -> dict[str, str]:
        """The hashes of the files that rewards name."""
        return hashes_of(self.rewards)

    def __post_init__(self) -> None:
        need_own_names(self.rewards)
        need_positive(self, "samples", "keep", "max_tokens", "temperature", "batch")
        if self.problems < 0:
            raise ConfigError(f"problems is {self.problems}; expected 0 (all) or more.")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ConfigError(
                f"top_p is {self.top_p} and top_k {self.top_k}; expected above 0 to 1, and 0 (off) or more."
            )
        if not 0 < self.heldout_share < 1:
            raise ConfigError(f"heldout_share is {self.heldout_share}; expected a share between 0 and 1.")
        if self.thinking_budget is not None and (self.thinking_budget < 1 or not self.thinking):
            raise ConfigError("thinking_budget must be 1 or more, and thinking true.")
