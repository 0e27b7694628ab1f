"""What goes into the engine and what comes out: plain values and arrays that travel between processes; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from qwill.engine.constraint import Constraint
from qwill.engine.sampling import Sampling

if TYPE_CHECKING:
    from qwill.engine.routing import Routing
    from qwill.engine.support import Ranges

FinishReason = Literal["stop", "length", "cancel", "error"]


@dataclass(frozen=True)
class Request:
    """`n` samples are given back, the likeliest (mean log-probability) of `best_of`, 0 meaning `n`. `seed` and
    `stream` name the random stream, as in `generate`. `stop` are texts found across token borders; they are not
    part of the reply, `stop_ids` are part of `token_ids` only. `thinking_budget`: tokens of a thinking block before
    `thinking_end` (`</think>` alone where that is empty) is put behind it. `logprobs`: how many alternatives are
    given beside each token's own (None: nothing); `prompt_logprobs` the same for the prompt. `support` and
    `experts` give these of `TokenLogprob`. With `whole` each sample is told once, when it has ended (one that is
    cancelled or fails has no tokens then); else its first token is told at once, then `stride` of them at a time.
    With `embed` nothing is said after the prompt, but the hidden state at its end is given. A greater `priority`
    goes first.
    """

    id: str
    prompt: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    best_of: int = 0
    seed: int = 0
    stream: int = 0
    stop_ids: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    thinking_budget: int | None = None
    thinking_end: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    adapter: str | None = None
    priority: int = 0
    whole: bool = False
    stride: int = 1
    embed: bool = False
    support: bool = False
    experts: bool = False


@dataclass(slots=True)
class TokenLogprob:
    """`logprob`: of the full distribution at the request's temperature (1 when greedy), `sampled`: of the one that was
    drawn from (0 when greedy), `top`: the likeliest ids of the full distribution with theirs. `support`: the ids that
    could be drawn, as rising ranges (first, last + 1), int32 [R, 2]. `experts` [sparse layers, k]: those that the token
    before it passed through, which made this one's distribution, the heaviest first."""

    token: int
    logprob: float
    sampled: float
    top: list[tuple[int, float]]
    support: Ranges | None = None
    experts: list[list[int]] | None = None


@dataclass(slots=True)
class Event:
    """What a pass gave for one sample of a request. `text` is what may be shown now. `prompt_logprobs` (the first is
    None) come with the first event of sample 0. `embedding`: the hidden state after the last norm at the prompt's end,
    of length 1. `routing`: with the last event, of an engine that keeps it (routing.py)."""

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
    embedding: list[float] | None = None
    routing: Routing | None = None


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
    drafted: int = 0
    accepted: int = 0
