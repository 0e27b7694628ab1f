"""How to choose tokens: the settings, without torch, so that a server can read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qwill.base.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens.

    Order, as in transformers: penalties, temperature, top-k, top-p, min-p. `temperature=0` is greedy.
    `top_k=0`, `top_p=1`, `min_p=0`, `repetition_penalty=1` and `presence_penalty=0` are off. The repetition
    penalty counts prompt and output (Keskar et al. 2019, arXiv:1909.05858), the presence and frequency
    penalties the output only (as OpenAI's API does). `logit_bias` is added to the logits of these ids; before
    `min_tokens` tokens no stop id is chosen; with `ignore_eos` stop ids don't end a reply.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    min_tokens: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        warm = self.temperature == 0 or 1e-4 <= self.temperature < float("inf")
        _require(warm, "temperature", self.temperature, "0 (greedy), or at least 0.0001")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1 (off)")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 (off) to 1")
        repetition, presence = self.repetition_penalty, self.presence_penalty
        _require(0 < repetition < float("inf"), "repetition_penalty", repetition, "above 0, 1 being off")
        _require(abs(presence) < float("inf"), "presence_penalty", presence, "a finite number")
        frequency = self.frequency_penalty
        _require(abs(frequency) < float("inf"), "frequency_penalty", frequency, "a finite number")
        for token, bias in self.logit_bias.items():
            _require(abs(bias) < float("inf"), f"logit_bias.{token}", bias, "a finite number")
        _require(0 <= self.min_tokens <= self.max_tokens, "min_tokens", self.min_tokens, "from 0 to max_tokens")

    @property
    def truncates(self) -> bool:
        """Whether some tokens can be cut off, so that the sampled distribution isn't the model's own."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def penalises(self) -> bool:
        """Whether it matters which tokens have been seen."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def _require(ok: bool, name: str, value: float, expected: str) -> None:
    if not ok:
        raise ConfigError(f"sampling.{name} is {value}: it must be {expected}")
