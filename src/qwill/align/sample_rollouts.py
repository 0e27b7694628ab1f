"""Sampling: prompts → groups of the model's own replies with their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwill.align.format_rewards import ENABLED
from qwill.align.prompts import prompt_ids, thinking_at
from qwill.align.rewards import Rewards
from qwill.align.rollout_engines import RolloutEngine, generate
from qwill.align.rollouts import Rollout, sampling_of
from qwill.align.rule_rewards import Made, repeated_share
from qwill.align.settings import GRPOConfig
from qwill.evaluate.tasks import verify
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer


def roll_out(
    model: Transformer | RolloutEngine,
    tokenizer: Tokenizer,
    rows: list[dict[str, Any]],
    config: GRPOConfig,
    step: int,
    seed: int,
    rewards: Rewards | None = None,
    streams: Sequence[int] | None = None,
) -> list[list[Rollout]]:
    """`samples` replies to each row with their rewards, grouped by row; without `rewards` the rows' own check.
    `streams` are the rows' places in the step, where these are not all of its rows."""
    places = range(len(rows)) if streams is None else streams
    rows = [row | {ENABLED: thinking_at(place, config.thinking)} for place, row in zip(places, rows, strict=True)]
    prompts, sampling = [prompt_ids(row["prompt"], tokenizer, row[ENABLED]) for row in rows], sampling_of(config)
    groups = generate(model, prompts, sampling, tokenizer, config, seed * 1_000_003 + step, streams)
    # A reply that ran into the limit was never finished, whatever it says so far.
    said = [
        Made(row, tokenizer.decode(c.token_ids), c.finish_reason == "stop", len(c.token_ids), config.max_tokens)
        for row, group in zip(rows, groups, strict=True)
        for c in group
    ]
    earned = iter(zip(said, rewards.of_all(said) if rewards is not None else map(_verified, said), strict=True))
    out = []
    for row, prompt, group in zip(rows, prompts, groups, strict=True):
        made = []
        for c in group:
            one, parts = next(earned)
            reward = sum(parts.values()) if rewards is None else rewards.total(parts)
            logprobs = c.sampled_logprobs if sampling.truncates else c.logprobs
            ids = [*prompt, *c.token_ids]
            made.append(Rollout(ids, len(prompt), logprobs, reward, row["language"], parts=parts))
            made[-1].support, made[-1].routing = c.support, c.routing
            made[-1].ended, made[-1].repeated = one.ended, repeated_share(one.reply)
        out.append(made)
    return out


def _verified(one: Made) -> dict[str, float]:
    return {"verifier": float(one.ended and verify(one.row, one.reply))}
