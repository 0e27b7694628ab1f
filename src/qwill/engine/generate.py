"""Batched generation: what training and evaluation ask of the engine, from a list of prompts to a list of replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from qwill.base.errors import DataError, ModelError
from qwill.engine import native
from qwill.engine.checks import check_prompt
from qwill.engine.engine import Engine
from qwill.engine.engine_settings import EngineSettings
from qwill.engine.request import Event, Request
from qwill.engine.sampler import Sampling
from qwill.engine.support import Support
from qwill.model.project import Quantized
from qwill.model.twin import twin

if TYPE_CHECKING:
    from qwill.engine.routing import Routing
    from qwill.model.transformer import Transformer
    from qwill.text.thinking import ThinkingBudget

PASS = 1024  # tokens of a pass while prompts are computed
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """One generated sequence.

    `token_ids` ends with the stop id when `finish_reason` is "stop" (it was sampled, so a trainer needs it);
    `text` leaves it out. `logprobs` and `sampled_logprobs` hold one float32 value a token: see
    `sampler.Sampled`. If asked for, `support` is what each token was drawn among, and `routing` [tokens, sparse layers,
    experts] the experts that every token of prompt and reply but the last went through.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    sampled_logprobs: list[float] = field(default_factory=list)
    support: Support | None = None
    routing: Routing | None = None


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    n: int = 1,
    slots: int = 64,
    stop_ids: Iterable[int] = (),
    seed: int = 0,
    streams: Sequence[int] | None = None,
    vocab_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    support: bool = False,
    routing: bool = False,
    in_place: bool = False,
    budget: ThinkingBudget | None = None,
    limits: Sequence[int] | None = None,
) -> list[list[Completion]]:
    """Continue every prompt `n` times; the result has the prompts' order, `[prompt][sample]`.

    At most `slots` sequences run at once. A sequence ends after a token of `stop_ids`, after
    `sampling.max_tokens`, or at the model's context (`max_position_embeddings`). `streams[i]` names prompt
    i's random stream (its place in the list unless given), so the same prompt under the same stream is
    continued in the same way whatever else is in the list. Ids from `vocab_size` on are never chosen. The
    model's adapter counts; where it is on quantised weights, these are multiplied out, as in training.
    `progress(finished sequences, generated tokens)` is called whenever sequences finish. `support` and `routing`:
    whether completions have these. `in_place`: no copy is made of float weights (`EngineSettings`); with some dozens of
    sequences at a time that costs next to nothing. `budget`: of thinking, whose end is then put there and not sampled.
    `limits` are the prompts' own numbers of tokens, each at most `sampling.max_tokens`.

    Raises `DataError` for a prompt that is empty, fills the context or holds a foreign id, `ConfigError` for routing of
    a model without experts, `ModelError` when the model gives NaN.
    """
    for i, prompt in enumerate(prompts):
        check_prompt(prompt, model.config, f"prompt {i}")
    if n < 1 or slots < 1:
        raise DataError(f"n is {n} and slots is {slots}: both must be at least 1")
    if streams is not None and len(streams) != len(prompts):
        raise DataError(f"{len(streams)} streams were given for {len(prompts)} prompts: give one each")
    if not prompts:
        return []
    engine = _engine(model, prompts, sampling, n, min(slots, n * len(prompts)), vocab_size, routing, in_place)
    if budget is not None:
        engine.marks = budget.marks
    # Longest first: neighbours in the batch then have similar lengths, and attention pads little.
    stops = frozenset(stop_ids)
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        stream = i if streams is None else int(streams[i])
        more: dict[str, Any] = {"adapter": next(iter(engine.adapters), None), "support": support}
        more |= {"stop_ids": stops, "logprobs": 0, "whole": True}
        if budget is not None:
            more |= {"thinking_budget": budget.tokens, "thinking_end": budget.ending}
        own = sampling if limits is None else replace(sampling, max_tokens=limits[i])
        engine.add(Request(str(i), list(prompts[i]), own, n, seed=seed, stream=stream, **more))
    results = [[Completion()] * n for _ in prompts]
    finished = 0
    while engine.has_work:
        events = engine.step()
        for event in events:
            results[int(event.request)][event.sample] = _completion(event, engine)
        finished += len(events)
        if progress and events:
            progress(finished, engine.stats().tokens)
    return results


def _engine(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    n: int,
    slots: int,
    vocab_size: int | None,
    routing: bool,
    in_place: bool,
) -> Engine:
    """An engine with room for everything that can run at once, so that nothing is ever preempted."""
    context = model.config.max_position_embeddings
    longest = max(min(len(p) + sampling.max_tokens, context) for p in prompts)
    settings = EngineSettings(max_running=slots, token_budget=max(slots, PASS), snapshots=2 * slots if n > 1 else 0)
    blocks = slots * (-(-longest // settings.block_size) + 1)  # the scheduler keeps one free for each that runs
    settings = replace(settings, blocks=blocks, routing=routing, in_place=in_place)
    adapter = model.adapter
    if adapter is None:
        return Engine(model, None, settings, vocab_size)
    # Beside the weights native code can have it; on them nothing but PyTorch can, which multiplies quantised ones out.
    on = any(getattr(module, "updates", None) is not None for module in model.modules())
    plain = twin(model)
    if on and (not native.suits(plain) or any(isinstance(module, Quantized) for module in model.modules())):
        return Engine(model, None, settings, vocab_size)
    engine = Engine(plain, None, settings, vocab_size)
    engine.put_adapter("trained", adapter)
    return engine


def _completion(event: Event, engine: Engine) -> Completion:
    if event.error is not None:
        raise ModelError(f"{event.error} (prompt {event.request})") from engine.failure
    assert event.logprobs is not None and event.finish_reason in ("stop", "length")
    own, sampled = [s.logprob for s in event.logprobs], [s.sampled for s in event.logprobs]
    kept = [s.support for s in event.logprobs if s.support is not None]
    support = Support.of(kept) if kept else None
    return Completion("", event.token_ids, own, event.finish_reason, sampled, support, event.routing)
