"""One conversation, token by token: what a chat needs and batched generation does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from qwill.base.errors import ModelError
from qwill.engine.checks import check_prompt
from qwill.engine.engine import Engine
from qwill.engine.engine_settings import EngineSettings
from qwill.engine.generate import PASS
from qwill.engine.request import Request
from qwill.engine.sampler import Sampling

if TYPE_CHECKING:
    from qwill.model.transformer import Transformer
    from qwill.text.thinking import ThinkingBudget

SETTINGS = EngineSettings(max_running=1, token_budget=PASS, snapshots=4)


class Token(NamedTuple):
    """A generated token and its log-probability under the model at the sampling temperature."""

    id: int
    logprob: float


class Session:
    """A cache that lives across turns: what a new prompt shares with earlier ones is not computed again, up to a
    border of blocks. `cached` are the tokens of the conversation so far."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.cached: list[int] = []
        self._engine: Engine | None = None
        self._name = "0"  # of the latest request

    def prepare(self, tokens: int = 1024) -> None:
        """Do now what the first reply would wait for: weights laid out, room for so many tokens."""
        self._room(min(tokens, self.model.config.max_position_embeddings))

    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        stop_ids: Iterable[int] = (),
        seed: int = 0,
        vocab_size: int | None = None,
        budget: ThinkingBudget | None = None,
    ) -> Iterator[Token]:
        """Yield tokens as they are sampled; a stop id is yielded last.

        The same tokens as `generate` gives for a single prompt and the same seed. Leaving the loop early,
        even by an interrupt, is fine: the next call starts from what was completely cached. Raises
        `DataError` for an empty or too long prompt, as `generate` does.
        """
        config = self.model.config
        check_prompt(prompt, config, "the prompt")
        engine = self._room(min(config.max_position_embeddings, len(prompt) + sampling.max_tokens))
        engine.vocab_size = min(config.vocab_size, vocab_size or config.vocab_size)
        engine.cancel(self._name)  # if the last reply was left behind half read
        name = self._name = str(int(self._name) + 1)
        more: dict[str, Any] = {}
        if budget is not None:
            engine.marks, more = budget.marks, {"thinking_budget": budget.tokens, "thinking_end": budget.ending}
        engine.add(Request(name, list(prompt), sampling, seed=seed, stop_ids=frozenset(stop_ids), logprobs=0, **more))
        self.cached = list(prompt)
        try:
            while self._name == name and engine.has_work:
                for event in engine.step():
                    if event.request != name:
                        continue
                    if event.error is not None:
                        raise ModelError(event.error) from engine.failure
                    assert event.logprobs is not None
                    yield Token(event.token_ids[0], event.logprobs[0].logprob)
                    self.cached += event.token_ids
        except GeneratorExit:
            engine.cancel(name)
            raise
        except BaseException:
            # What breaks off a pass ends its requests; anywhere else it may have torn the engine's books.
            if engine.has_work:
                self._engine = None
            raise

    def _room(self, tokens: int) -> Engine:
        """The engine, with room for so many tokens; when it must grow, it at least doubles."""
        size = SETTINGS.block_size
        blocks = -(-tokens // size)
        if self._engine is None:
            self._engine = Engine(self.model, None, replace(SETTINGS, blocks=blocks))
        elif self._engine.pool.blocks < blocks:
            most = -(-self.model.config.max_position_embeddings // size)
            self._engine.grow(min(max(blocks, 2 * self._engine.pool.blocks), most))
        return self._engine


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
