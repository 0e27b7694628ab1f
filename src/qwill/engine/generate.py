"""Batched generation with a slot KV cache: prompts are prefilled once, samples share them, finished slots are
refilled at once.

The sequences that are running always sit in the first slots of the cache, so a decoding step reads no dead
slot and gathers nothing. All bookkeeping of a step is a handful of NumPy operations over the slots; Python
loops only over sequences that start or end. Shape letters: B running sequences, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from qwill.base.errors import DataError, ModelError
from qwill.engine.randomness import uniforms
from qwill.engine.sampler import IN_OUTPUT, IN_PROMPT, Sampling, sample
from qwill.engine.slots import executor_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qwill.model.transformer import Transformer

FREE, RUNNING, FINISHED = 0, 1, 2
DRAWS = 64  # uniform numbers made at a time for a sequence
REFILL_SHARE = 8  # a prefill waits until 1/8 of the slots are free: one pass for several costs little more

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """One generated sequence.

    `token_ids` ends with the stop id when `finish_reason` is "stop" (it was sampled, so a trainer needs it);
    `text` leaves it out. `logprobs` and `sampled_logprobs` hold one float32 value a token: see
    `sampler.Sampled`.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    sampled_logprobs: list[float] = field(default_factory=list)


def check_prompt(prompt: Sequence[int], model: Transformer, name: str) -> None:
    """Raise one sentence (`DataError`) when a prompt is empty, leaves no room for a single new token, or holds
    an id that the model has no embedding for.
    """
    context, vocab = model.config.max_position_embeddings, model.config.vocab_size
    if not prompt:
        raise DataError(f"{name} has no tokens: give at least one to start from")
    if len(prompt) >= context:
        raise DataError(
            f"{name} has {len(prompt)} tokens, but the model's context is {context}: "
            f"shorten it to at most {context - 1} tokens"
        )
    if not 0 <= min(prompt) <= max(prompt) < vocab:
        wrong = next(i for i in prompt if not 0 <= i < vocab)
        raise DataError(
            f"{name} holds the id {wrong}, but the model knows 0 to {vocab - 1}: use its own tokenizer"
        )


def check_sampling(sampling: Sampling) -> None:
    """Raise `DataError` for what only the `Engine` does."""
    if sampling.engine_only:
        raise DataError(
            "frequency_penalty, logit_bias, min_tokens and ignore_eos are the serving engine's: leave them out"
        )


@torch.inference_mode()
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
) -> list[list[Completion]]:
    """Continue every prompt `n` times; the result has the prompts' order, `[prompt][sample]`.

    At most `slots` sequences run at once. A sequence ends after a token of `stop_ids`, after
    `sampling.max_tokens`, or at the model's context (`max_position_embeddings`). `streams[i]` names prompt
    i's random stream (its place in the list unless given), so the same prompt under the same stream is
    continued in the same way whatever else is in the list. Ids from `vocab_size` on are never chosen.
    `progress(finished sequences, generated tokens)` is called whenever sequences finish.

    Raises `DataError` for a prompt that is empty, fills the context or holds a foreign id, `ModelError` when
    the model gives NaN.
    """
    for i, prompt in enumerate(prompts):
        check_prompt(prompt, model, f"prompt {i}")
    check_sampling(sampling)
    if n < 1 or slots < 1:
        raise DataError(f"n is {n} and slots is {slots}: both must be at least 1")
    if streams is not None and len(streams) != len(prompts):
        raise DataError(f"{len(streams)} streams were given for {len(prompts)} prompts: give one each")
    if not prompts:
        return []
    run = _Run(model, prompts, sampling, n, min(slots, n * len(prompts)), stop_ids, seed, streams, vocab_size)
    running, finished = True, 0
    while running:
        running = run.advance()
        if progress and run.finished > finished:
            finished = run.finished
            progress(finished, run.generated)
    return run.results


class _Run:
    """The state of one `generate` call: slot arrays, the queue of prompts, and what is finished."""

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        n: int,
        slots: int,
        stop_ids: Iterable[int],
        seed: int,
        streams: Sequence[int] | None,
        vocab_size: int | None,
    ) -> None:
        self.prompts, self.sampling, self.seed, self.vocab_size = prompts, sampling, seed, vocab_size
        config, self.device = model.config, model.embed_tokens.weight.device
        context = config.max_position_embeddings
        self.limits = [min(sampling.max_tokens, context - len(p)) for p in prompts]
        capacity = max(len(p) + limit for p, limit in zip(prompts, self.limits, strict=True))
        self.executor = executor_for(model, slots, capacity)
        self.streams = np.arange(len(prompts)) if streams is None else np.asarray(streams, dtype=np.int64)
        self.is_stop: NDArray[np.bool_] = np.zeros(config.vocab_size, dtype=bool)
        self.is_stop[list(stop_ids)] = True

        # Longest first: neighbours in the batch then have similar lengths, and attention pads little.
        self.queue = deque(sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)))
        self.waiting = [n] * len(prompts)
        self.n = n
        self.prompt_logits: dict[int, Tensor] = {}
        self.results = [[Completion()] * n for _ in prompts]
        self.finished = self.generated = self.active = 0

        longest = max(self.limits)
        self.state = np.full(slots, FREE)
        self.prompt, self.sample = np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64)
        self.count, self.limit = np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64)
        self.last = np.zeros(slots, dtype=np.int64)
        self.draws = np.zeros((slots, DRAWS))
        self.tokens = np.zeros((slots, longest), dtype=np.int64)
        self.logprobs = np.zeros((slots, longest), dtype=np.float32)
        self.sampled = np.zeros((slots, longest), dtype=np.float32)
        self.slot_arrays: list[NDArray[Any]] = [self.state, self.prompt, self.sample, self.count, self.limit]
        self.slot_arrays += [self.last, self.draws, self.tokens, self.logprobs, self.sampled]
        self.seen: Tensor | None = None
        if sampling.penalises:
            self.seen = torch.zeros(slots, config.vocab_size, dtype=torch.int8, device=self.device)

    def advance(self) -> bool:
        """Turn slots over, then one decoding step of every running sequence; False when all is done."""
        self._turn_over()
        if self.active == 0:
            return False
        tokens_B = torch.from_numpy(self.last[: self.active]).to(self.device)
        self._choose(self.executor.step(tokens_B), slice(0, self.active))
        return True

    def _choose(self, logits_BV: Tensor, slots: slice | list[int]) -> None:
        """Sample the next token of the sequences in `slots` and note which of them have finished."""
        index = np.arange(len(self.state))[slots]
        count = self.count[index]  # a copy, whatever `slots` is
        fresh = index[count % DRAWS == 0] if self.sampling.temperature else index[:0]
        if len(fresh):
            steps = self.count[fresh, None] + np.arange(DRAWS)
            self.draws[fresh] = uniforms(
                self.seed, self.streams[self.prompt[fresh], None], self.sample[fresh, None], steps
            )
        uniforms_B = torch.from_numpy(self.draws[index, count % DRAWS]).to(self.device)
        seen_BV = None if self.seen is None else self.seen[slots]
        chosen = sample(logits_BV, uniforms_B, self.sampling, seen_BV, self.vocab_size)
        tokens = chosen.tokens_B.cpu().numpy()
        if self.seen is not None:
            self.seen[torch.from_numpy(index), chosen.tokens_B] = IN_OUTPUT
        self.tokens[index, count] = tokens
        self.logprobs[index, count] = chosen.logprobs_B.cpu().numpy()
        self.sampled[index, count] = chosen.sampled_logprobs_B.cpu().numpy()
        self.last[slots] = tokens
        self.count[slots] = count + 1
        self.generated += len(tokens)
        ended = self.is_stop[tokens] | (count + 1 >= self.limit[slots])
        self.state[slots] = np.where(ended, FINISHED, RUNNING)

    def _turn_over(self) -> None:
        """Collect finished sequences, start waiting ones in their slots, and close the holes that remain."""
        ended = np.flatnonzero(self.state == FINISHED).tolist()
        if not ended and not self._worth_prefilling(len(self.state) - self.active):
            return
        while True:
            for slot in ended:
                self._collect(slot)
            started = self._start(ended)
            if not started:
                break
            logits_BV = torch.stack([self.prompt_logits[int(p)] for p in self.prompt[started]])
            self._choose(logits_BV, started)
            self.prompt_logits = {p: logits for p, logits in self.prompt_logits.items() if self.waiting[p]}
            ended = np.flatnonzero(self.state == FINISHED).tolist()
        running = self.state == RUNNING
        self.active = int(running.sum())
        holes = np.flatnonzero(~running[: self.active]).tolist()
        if holes:
            movers = (np.flatnonzero(running[self.active :]) + self.active).tolist()
            self.executor.move(movers, holes)
            for array in self.slot_arrays:
                array[holes] = array[movers]
            self.state[movers] = FREE
            if self.seen is not None:
                self.seen[holes] = self.seen[movers]

    def _worth_prefilling(self, free: int) -> bool:
        return bool(self.queue) and (free == len(self.state) or free * REFILL_SHARE >= len(self.state))

    def _collect(self, slot: int) -> None:
        count = self.count[slot]
        tokens, logprobs = self.tokens[slot, :count].tolist(), self.logprobs[slot, :count]
        prompt, number = int(self.prompt[slot]), int(self.sample[slot])
        if np.isnan(logprobs).any():
            raise ModelError(f"the model gives NaN after prompt {prompt}: its weights are broken")
        reason: FinishReason = "stop" if self.is_stop[tokens[-1]] else "length"
        self.results[prompt][number] = Completion(
            "", tokens, logprobs.tolist(), reason, self.sampled[slot, :count].tolist()
        )
        self.state[slot] = FREE
        self.finished += 1

    def _start(self, ended: list[int]) -> list[int]:
        """Give free slots to waiting samples; returns the slots that hold a prompt and want a first token.

        A slot whose prompt has samples waiting is rewound before anything else, so while samples wait some
        slot always holds their prompt's keys and values.
        """
        started = []
        for slot in ended:
            prompt = int(self.prompt[slot])
            if self.waiting[prompt]:
                self.executor.rewind(slot, len(self.prompts[prompt]))
                started += self._occupy(prompt, [slot])
        free = np.flatnonzero(self.state == FREE).tolist()
        if free and self.queue and self.queue[0] in self.prompt_logits:
            prompt = self.queue[0]
            source = int(np.flatnonzero((self.prompt == prompt) & (self.state == RUNNING))[0])
            targets = free[: self.waiting[prompt]]
            self.executor.copy(source, targets, len(self.prompts[prompt]))
            started += self._occupy(prompt, targets)
            free = free[len(targets) :]
        if self._worth_prefilling(len(free)):
            started += self._prefill(free)
        return started

    def _prefill(self, free: list[int]) -> list[int]:
        self.executor.lengths[free] = 0
        planned: list[tuple[int, list[int]]] = []
        for prompt in self.queue:
            if not free:
                break
            planned.append((prompt, free[: self.waiting[prompt]]))
            free = free[self.waiting[prompt] :]
        prompts = [self.prompts[prompt] for prompt, _ in planned]
        logits_BV = self.executor.prefill(prompts, [places[0] for _, places in planned])
        if self.n > 1:
            self.executor.mark([places[0] for _, places in planned])
        started = []
        for (prompt, places), logits_V in zip(planned, logits_BV, strict=True):
            self.prompt_logits[prompt] = logits_V
            if places[1:]:
                self.executor.copy(places[0], places[1:], len(self.prompts[prompt]))
            started += self._occupy(prompt, places)
        return started

    def _occupy(self, prompt: int, slots: list[int]) -> list[int]:
        first = self.n - self.waiting[prompt]
        self.waiting[prompt] -= len(slots)
        if not self.waiting[prompt]:
            self.queue.remove(prompt)
        self.prompt[slots], self.sample[slots] = prompt, range(first, first + len(slots))
        self.count[slots], self.limit[slots], self.state[slots] = 0, self.limits[prompt], RUNNING
        if self.seen is not None:
            self.seen[slots] = 0
            ids = torch.tensor(self.prompts[prompt], device=self.device)
            self.seen[torch.tensor(slots)[:, None], ids[None, :]] = IN_PROMPT
        return slots
