"""What goes into the engine and what comes out: plain values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from qwill.engine.sampler import Sampling

FinishReason = Literal["stop", "length", "cancel", "error"]


@dataclass(frozen=True)
class Request:
    id: str
    prompt: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    best_of: int = 1
    seed: int = 0
    stream: int = 0
    stop_ids: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    adapter: str | None = None
    constraint: Any = None
    thinking_budget: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    support: bool = False
    experts: bool = False
    priority: int = 0


@dataclass(frozen=True)
class TokenLogprob:
    token: int
    logprob: float
    sampled: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Event:
    request: str
    sample: int
    token_ids: list[int]
    text: str
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_text: str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob | None] | None = None


@dataclass(frozen=True)
class EngineStats:
    running: int = 0
    waiting: int = 0
    blocks_free: int = 0
    blocks_total: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
