"""Sampling: prompts → groups of the model's own replies, or conversations with tools, with their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwill.align.conversations import Talk, converse
from qwill.align.format_rewards import ENABLED
from qwill.align.prompts import prompt_ids
from qwill.align.replies import as_messages
from qwill.align.rewards import Rewards
from qwill.align.rollout_engines import RolloutEngine, generate
from qwill.align.rollouts import Rollout, sampling_of
from qwill.align.rule_rewards import Made, repeated_share
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
    A row says under `ENABLED` whether it is asked with thinking; one that says nothing is not. `streams` are the rows'
    places in the step, where these are not all of its rows."""
    places = range(len(rows)) if streams is None else streams
    rows = [row | {ENABLED: bool(row.get(ENABLED))} for row in rows]
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
        groups = [
            [_of_talk(talk, row["language"], sampling.truncates) for talk in group]
            for row, group in zip(rows, talks, strict=True)
        ]
        texts = [tokenizer.decode(talk.text) for group in talks for talk in group]
    else:
        prompts = [prompt_ids(row["prompt"], tokenizer, row[ENABLED]) for row in rows]
        found = generate(model, prompts, sampling, tokenizer, config, own_seed, streams)
        groups = [
            [_of_reply(c, prompt, row["language"], sampling.truncates) for c in group]
            for row, prompt, group in zip(rows, prompts, found, strict=True)
        ]
        texts = [tokenizer.decode(c.token_ids) for group in found for c in group]
    _reward(groups, rows, texts, config, rewards)
    return groups


def _of_reply(c: Completion, prompt: list[int], language: str, cut: bool) -> Rollout:
    made = Rollout([*prompt, *c.token_ids], len(prompt), c.sampled_logprobs if cut else c.logprobs, 0.0, language)
    made.support, made.routing, made.ended = c.support, c.routing, c.finish_reason == "stop"
    return made


def _of_talk(talk: Talk, language: str, cut: bool) -> Rollout:
    made = Rollout(talk.ids, talk.start, talk.values(cut), 0.0, language)
    made.mask, made.support, made.routing = talk.mask, talk.support, talk.routing
    made.said, made.ended, made.calls, made.failed = talk.messages, talk.ended, talk.calls, talk.failed
    return made


def _reward(
    groups: list[list[Rollout]],
    rows: list[dict[str, Any]],
    texts: list[str],
    config: GRPOConfig,
    rewards: Rewards | None,
) -> None:
    """Gives every rollout its parts and reward, all of a step together; `texts` are last turns."""
    every = [(row, r) for row, group in zip(rows, groups, strict=True) for r in group]
    made = [
        Made(row, text, r.ended, r.tokens, config.max_tokens, r.said or None)
        for (row, r), text in zip(every, texts, strict=True)
    ]
    earned = rewards.of_all(made) if rewards is not None else [_verified(one) for one in made]
    for (_, r), one, parts in zip(every, made, earned, strict=True):
        r.parts, r.repeated = parts, repeated_share(one.reply)
        r.reward = sum(parts.values()) if rewards is None else rewards.total(parts)
        r.said = r.said or [{"role": "assistant", "content": one.reply}]


def _verified(one: Made) -> dict[str, float]:
    # A reply that ran into the limit was never finished, whatever it says so far.
    return {"verifier": float(one.ended and verify(one.row, one.reply))}
