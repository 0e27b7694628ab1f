"""One conversation, token by token: what a chat needs and batched generation does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from qwill.engine.generate import check_prompt, check_sampling
from qwill.engine.randomness import uniforms
from qwill.engine.sampler import IN_OUTPUT, IN_PROMPT, Sampling, sample
from qwill.engine.slots import Slots, executor_for

if TYPE_CHECKING:
    from qwill.model.transformer import Transformer


class Token(NamedTuple):
    """A generated token and its log-probability under the model at the sampling temperature."""

    id: int
    logprob: float


class Session:
    """A cache that lives across turns: what a new prompt shares with the last one is not computed again."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.cached: list[int] = []
        self._executor: Slots | None = None

    @torch.inference_mode()
    def prepare(self, tokens: int = 1024) -> None:
        """Do now what the first reply would wait for: weights laid out, room for so many tokens."""
        self._room(min(tokens, self.model.config.max_position_embeddings))

    @torch.inference_mode()
    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        stop_ids: Iterable[int] = (),
        seed: int = 0,
        vocab_size: int | None = None,
    ) -> Iterator[Token]:
        """Yield tokens as they are sampled; a stop id is yielded last.

        The same tokens as `generate` gives for a single prompt and the same seed. Leaving the loop early,
        even by an interrupt, is fine: the next call starts from what was completely cached. Raises
        `DataError` for an empty or too long prompt, as `generate` does.
        """
        context = self.model.config.max_position_embeddings
        check_prompt(prompt, self.model, "the prompt")
        check_sampling(sampling)
        weight, stop = self.model.embed_tokens.weight, frozenset(stop_ids)
        executor = self._room(min(context, len(prompt) + sampling.max_tokens))
        shared = _common_prefix(self.cached, prompt)
        shared = min(shared, len(prompt) - 1)  # the last token is always computed: its logits are needed
        executor.lengths[0] = shared
        self.cached = list(prompt[:shared])
        logits_BV = executor.prefill([prompt[shared:]], [0])
        self.cached = list(prompt)
        seen_BV = None
        if sampling.penalises:
            seen_BV = torch.zeros(1, self.model.config.vocab_size, dtype=torch.int8, device=weight.device)
            seen_BV[0, torch.tensor(prompt, device=weight.device)] = IN_PROMPT
        limit = min(sampling.max_tokens, context - len(prompt))
        for step in range(limit):
            uniforms_B = torch.from_numpy(uniforms(seed, 0, 0, [step])).to(weight.device)
            chosen = sample(logits_BV, uniforms_B, sampling, seen_BV, vocab_size)
            token = int(chosen.tokens_B)
            if seen_BV is not None:
                seen_BV[0, token] = IN_OUTPUT
            yield Token(token, float(chosen.logprobs_B))
            if token in stop or step + 1 == limit:
                return
            logits_BV = executor.step(chosen.tokens_B)
            self.cached.append(token)

    def _room(self, tokens: int) -> Slots:
        """The executor, with room for so many tokens; when it must grow, its capacity at least doubles."""
        context = self.model.config.max_position_embeddings
        if self._executor is None:
            self._executor = executor_for(self.model, 1, tokens)
        elif self._executor.capacity < tokens:
            self._executor.grow(min(max(tokens, 2 * self._executor.capacity), context))
        return self._executor


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    shared = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        shared += 1
    return shared


def stream(
    model: Transformer,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    stop_ids: Iterable[int] = (),
    seed: int = 0,
    vocab_size: int | None = None,
) -> Iterator[Token]:
    """`Session(model).stream(…)` for a single reply."""
    return Session(model).stream(prompt_ids, sampling, stop_ids, seed, vocab_size)
