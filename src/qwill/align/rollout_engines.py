"""Where rollouts come from: Qwill's engine, which reads the trainer's weights where they lie, or vLLM on a model
folder of them. Both are two functions: take the weights over, and continue prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qwill.align.rounded import rollout_weights
from qwill.align.settings import GRPOConfig
from qwill.engine.generate import Completion
from qwill.engine.generate import generate as own_generate
from qwill.engine.sampler import Sampling
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class RolloutEngine:
    """load_weights(model): from now on replies are of these weights, an adapter that is on them included.

    generate(prompts, sampling, n, seed, streams): n completions of each prompt, [prompt][sample], with token ids (the
    one that ends a reply too) and each token's log-probability under the distribution at the sampling's temperature.
    The same seed and stream (a prompt's place unless given) give the same replies of the same weights.
    """

    load_weights: Callable[[Transformer], None]
    generate: Callable[[Prompts, Sampling, int, int, Sequence[int] | None], list[list[Completion]]]


def generate(
    source: Transformer | RolloutEngine,
    prompts: Prompts,
    sampling: Sampling,
    tokenizer: Tokenizer,
    config: GRPOConfig,
    seed: int,
    streams: Sequence[int] | None = None,
) -> list[list[Completion]]:
    """A step's replies, from an engine or from a model by Qwill's own."""
    if isinstance(source, RolloutEngine):
        return source.generate(prompts, sampling, config.samples, seed, streams)
    return own_generate(
        source, prompts, sampling, n=config.samples, slots=max(1, len(prompts)) * config.samples,
        stop_ids=tokenizer.stop_ids, seed=seed, streams=streams, vocab_size=tokenizer.vocab_size,
        support=sampling.truncates, routing=config.routing_replay == "rollout", in_place=True,
    )  # fmt: skip


def rollout_source(
    model: Transformer, tokenizer: Tokenizer, config: GRPOConfig, work: Path, seed: int
) -> Callable[[], Transformer | RolloutEngine]:
    """What to call before each step's rollouts: it hands the weights over, and gives what to generate with. Raises
    ModelError when vLLM is asked for and is not there."""
    if config.rollout_engine == "own":
        return rollout_weights(model, config.rollout_dtype)
    from qwill.align.vllm_rollouts import vllm_engine

    engine: RolloutEngine = vllm_engine(model, tokenizer, config.vllm, work / "vllm", seed)

    def handed_over(engine: RolloutEngine) -> RolloutEngine:
        engine.load_weights(model)
        return engine

    found: Any = partial(handed_over, engine)
    return found  # type: ignore[no-any-return]
