"""Sampling: prompts → groups of the model's own replies, or conversations with tools, with their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwill.align.conversations import Talk, converse
from qwill.align.format_rewards import ENABLED
from qwill.align.prompts import prompt_ids, thinking_at
from qwill.align.replies import as_messages
from qwill.align.rewards import Rewards
from qwill.align.rollout_engines import RolloutEngine, generate
from qwill.align.rollouts import Rollout, sampling_of
from qwill.align.settings import GRPOConfig
from qwill.align.tools import Tools
from qwill.engine.generate import Completion
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
    tools: Tools | None = None,
) -> list[list[Rollout]]:
    """`samples` replies to each row with their rewards, grouped by row; without `rewards` the rows' own check.
    `streams` are the rows' places in the step, where these are not all of its rows."""
    places = range(len(rows)) if streams is None else streams
    rows = [row | {ENABLED: thinking_at(place, config.thinking)} for place, row in zip(places, rows, strict=True)]
    sampling, own_seed = sampling_of(config), seed * 1_000_003 + step
    if tools is not None:
        assert isinstance(model, Transformer), "settings refuse tools with another engine"
        rows = [row | {"prompt": as_messages(row["prompt"])} for row in rows]
        enabled = [row[ENABLED] for row in rows]
        prompts = [prompt_ids(row["prompt"], tokenizer, row[ENABLED], tools.schemas) for row in rows]
        talks = converse(
            model, tokenizer, prompts, sampling, tools, config.max_turns, enabled, config.samples, places,
            stop_ids=tokenizer.stop_ids, seed=own_seed, vocab_size=tokenizer.vocab_size, support=sampling.truncates,
            routing=config.routing_replay == "rollout", in_place=True,
        )  # fmt: skip
        return [
            [_of_talk(talk, row, tokenizer, rewards, sampling.truncates) for talk in group]
            for row, group in zip(rows, talks, strict=True)
        ]
    prompts = [prompt_ids(row["prompt"], tokenizer, row[ENABLED]) for row in rows]
    groups = generate(model, prompts, sampling, tokenizer, config, own_seed, streams)
    return [
        [_of_reply(c, prompt, row, tokenizer, rewards, sampling.truncates) for c in group]
        for row, prompt, group in zip(rows, prompts, groups, strict=True)
    ]


def _of_reply(
    c: Completion, prompt: list[int], row: dict[str, Any], tokenizer: Tokenizer, rewards: Rewards | None, cut: bool
) -> Rollout:
    text, ended = tokenizer.decode(c.token_ids), c.finish_reason == "stop"
    made = Rollout(
        [*prompt, *c.token_ids], len(prompt), c.sampled_logprobs if cut else c.logprobs, 0.0, row["language"]
    )
    made.support, made.routing = c.support, c.routing
    made.said, made.ended = [{"role": "assistant", "content": text}], ended
    return _rewarded(made, row, text, rewards)


def _of_talk(talk: Talk, row: dict[str, Any], tokenizer: Tokenizer, rewards: Rewards | None, cut: bool) -> Rollout:
    made = Rollout(talk.ids, talk.start, talk.values(cut), 0.0, row["language"])
    made.mask, made.support, made.routing = talk.mask, talk.support, talk.routing
    made.said, made.ended, made.calls, made.failed = talk.messages, talk.ended, talk.calls, talk.failed
    return _rewarded(made, row, tokenizer.decode(talk.text), rewards, made.said)


def _rewarded(
    made: Rollout, row: dict[str, Any], text: str, rewards: Rewards | None, said: list[dict[str, Any]] | None = None
) -> Rollout:
    # A reply that ran into the limit was never finished, whatever it says so far.
    if rewards is None:
        made.parts = {"verifier": float(made.ended and verify(row, text))}
        made.reward = sum(made.parts.values())
    else:
        made.parts = rewards(row, text, made.ended, said)
        made.reward = rewards.total(made.parts)
    return made
