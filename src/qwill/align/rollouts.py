"""Rollouts of reinforcement learning: what was sampled, from which prompts, and how it is packed for training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwill.align.prompts import Mode, mode_at
from qwill.align.replies import parts_of
from qwill.align.settings import GRPOConfig
from qwill.engine.sampling import Sampling
from qwill.engine.support import Support
from qwill.train.replicas import Replicas

if TYPE_CHECKING:
    from qwill.engine.routing import Routing


@dataclass
class Rollout:
    """One sampled reply: the whole sequence, where the reply starts, and what the sampler thought of each token.

    Where the tokens of a reply have advantages of their own, `token_advantages` holds them. `reference` is what the
    starting model thought of each token, where there is a KL to it; `old` what the trainer did before its first update,
    where that isn't taken from the sampler. `parts` are the rewards that `reward` is the sum of;
    NaN is one that failed. `values` and `returns` are a critic's, token by token. `support` is what each token of the
    reply was drawn among, where sampling was truncated; then `logprobs` are over it. `routing` [tokens − 1, sparse
    layers, k] are the experts that every token but the last went through, where they are replayed.

    Where a reply had several turns, `mask` is 1 for each id behind `start` that the model said and 0 for what tools and
    template wrote; everything that is one a token is one a token of the model's own. `said` is the reply as messages;
    `ended` is false where it ran into a limit; `repeated` is the share of phrases that it had said before; `calls` of
    tools were made, `failed` of them failed.
    """

    ids: list[int]
    start: int
    logprobs: list[float]
    reward: float
    language: str
    advantage: float = 0.0
    token_advantages: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    old: list[float] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    support: Support | None = None
    routing: Routing | None = None
    mask: list[int] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = True
    repeated: float = 0.0
    calls: int = 0
    failed: int = 0

    def told(self) -> dict[str, Any]:
        """What other ranks are told of it."""
        support = None if self.support is None else [self.support.ranges_R2, self.support.counts_N]
        return vars(self) | {"support": support}

    @classmethod
    def heard(cls, told: dict[str, Any]) -> Rollout:
        return cls(**told | {"support": None if told["support"] is None else Support(*told["support"])})

    @property
    def tokens(self) -> int:
        """That the model said, and that are trained."""
        return sum(self.mask) if self.mask else len(self.ids) - self.start

    @property
    def loss_mask(self) -> list[int]:
        """Of all `ids`."""
        return [0] * self.start + (self.mask or [1] * (len(self.ids) - self.start))

    @property
    def advantages(self) -> list[float]:
        """One for each token of the reply."""
        return self.token_advantages or [self.advantage] * self.tokens


def sampling_of(config: GRPOConfig) -> Sampling:
    """How rollouts are drawn."""
    return Sampling(config.max_tokens, config.temperature, config.top_k, config.top_p, config.min_p)


def draw_prompts(rows: list[dict[str, Any]], step: int, count: int, seed: int) -> list[int]:
    """Indices of step `step`'s prompts: each language's rows in seeded order, taken in turn, epoch after epoch."""
    chosen: list[int] = []
    for language, turns in language_turns(rows, step, count).items():
        mine = [i for i, r in enumerate(rows) if r["language"] == language]
        orders: dict[int, list[int]] = {}
        for j in turns:
            epoch, place = divmod(j, len(mine))
            if epoch not in orders:
                orders[epoch] = random.Random(f"{seed}/grpo/{language}/{epoch}").sample(mine, len(mine))
            chosen.append(orders[epoch][place])
    return chosen


def prompt_modes(
    rows: Sequence[dict[str, Any]], step: int, count: int, thinking: float, switched: float = 0.0
) -> list[Mode]:
    """How each of `draw_prompts`'s is asked: over the steps each language has its shares (`mode_at`)."""
    return [mode_at(j, thinking, switched) for turns in language_turns(rows, step, count).values() for j in turns]


def language_turns(rows: Sequence[dict[str, Any]], step: int, count: int) -> dict[str, range]:
    """The numbers (from 0, over all steps) of the prompts that each language has in a step of `count`. Where these do
    not divide evenly, one language after the other has one more."""
    languages = sorted({r["language"] for r in rows})
    each, over = divmod(count, len(languages))

    def before(step: int, k: int) -> int:
        return step * each + (step * over + len(languages) - 1 - k) // len(languages)

    return {language: range(before(step, k), before(step + 1, k)) for k, language in enumerate(languages)}


def micro_batches(rollouts: list[Rollout], limit: int) -> list[list[Rollout]]:
    """Rollouts of like length together, at most `limit` tokens a part, where one alone isn't longer."""
    return parts_of(rollouts, lambda r: len(r.ids), limit)


def of_all_ranks(groups: list[list[Rollout]], replicas: Replicas) -> list[list[Rollout]]:
    """Every rank's groups, which it made of its `places`, in the order of the step's prompts."""
    if replicas.count == 1:
        return groups
    told = replicas.in_order([[r.told() for r in group] for group in groups])
    return [[Rollout.heard(r) for r in group] for group in told]
