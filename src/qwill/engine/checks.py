"""What can't be served is said before anything is computed, in one sentence each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from qwill.base.errors import DataError

if TYPE_CHECKING:
    from qwill.engine.request import Request
    from qwill.model.config import ModelConfig


def check_prompt(prompt: Sequence[int], config: ModelConfig, name: str) -> None:
    """Raise one sentence (`DataError`) when a prompt is empty, leaves no room for a single new token, or holds
    an id that the model has no embedding for.
    """
    context = config.max_position_embeddings
    if not prompt:
        raise DataError(f"{name} has no tokens: give at least one to start from")
    if len(prompt) >= context:
        raise DataError(
            f"{name} has {len(prompt)} tokens, but the model's context is {context}: "
            f"shorten it to at most {context - 1} tokens"
        )
    check_ids(prompt, config, name)


def check_ids(prompt: Sequence[int], config: ModelConfig, name: str) -> None:
    """Raise `DataError` for an id that the model has no embedding for; there is at least one."""
    vocab = config.vocab_size
    if not 0 <= min(prompt) <= max(prompt) < vocab:
        wrong = next(i for i in prompt if not 0 <= i < vocab)
        raise DataError(f"{name} holds the id {wrong}, but the model knows 0 to {vocab - 1}: use its own tokenizer")


def check_request(
    request: Request, config: ModelConfig, vocab_size: int, room: int, has_tokenizer: bool, marks: Collection[int]
) -> None:
    """The same for a whole request. `room`: tokens that the cache holds; `marks`: the ids of `<think>` and
    `</think>`, −1 where there is none."""
    check_prompt(request.prompt, config, "the prompt")
    if len(request.prompt) >= room:
        raise DataError(
            f"the prompt has {len(request.prompt)} tokens, but the cache holds {room}: shorten it or raise memory"
        )
    if request.n < 1 or (request.best_of and request.best_of < request.n):
        raise DataError(f"n is {request.n} and best_of {request.best_of}: n is at least 1, best_of at least n or 0")
    if request.embed and (request.n, request.best_of) not in ((1, 0), (1, 1)):
        raise DataError(f"n is {request.n} and best_of {request.best_of}: there is one embedding of a prompt")
    if request.experts and not config.num_experts:
        raise DataError("experts were asked for, but this model has none: leave that out")
    if not has_tokenizer and (request.stop or request.constraint):
        raise DataError("stop texts and constraints need a tokenizer: give the engine one")
    if any(not text for text in request.stop):
        raise DataError("a stop text is empty: leave it out")
    if request.thinking_budget is not None and (request.thinking_budget < 0 or min(marks) < 0):
        raise DataError("thinking_budget must be 0 or more, and the tokenizer must know <think> and </think>")
    if request.thinking_end and request.thinking_end.count([*marks][1]) != 1:
        raise DataError("thinking_end must hold </think> exactly once")
    wrong = [i for i in request.sampling.logit_bias if not 0 <= i < vocab_size]
    if wrong:
        raise DataError(f"logit_bias names the id {wrong[0]}, but the model knows 0 to {vocab_size - 1}")
