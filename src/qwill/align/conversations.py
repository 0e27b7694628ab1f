"""Replies over several turns: the model speaks, its calls are run, it reads the results and goes on.

Tokens go in and come out as they are: what the model said is never made into text and back. Between two turns stand
the ids of the template's text around the tools' results, so that a turn's prompt is the whole sequence so far. Only the
model's own tokens are trained (`mask` 1). Whatever a tool says becomes ordinary ids, special tokens that it imitates
among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qwill.align.tools import Tools
from qwill.engine.generate import Completion, generate
from qwill.engine.sampling import Sampling
from qwill.engine.support import Support
from qwill.model.transformer import Transformer
from qwill.text.chat import render_tool_results
from qwill.text.parse import parse_reply
from qwill.text.tokenizer import Tokenizer

# Random streams of a later turn begin here times its number; those of first turns are places in a step.
TURN = 1 << 32


@dataclass
class Talk:
    """One conversation as it grows: `ids` of all of it, `mask` of what is behind the prompt."""

    ids: list[int]
    start: int
    thinking: bool = False
    mask: list[int] = field(default_factory=list)
    turns: list[Completion] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    calls: int = 0
    failed: int = 0

    @property
    def text(self) -> list[int]:
        """Ids of the last turn."""
        return self.turns[-1].token_ids

    @property
    def said(self) -> int:
        """Tokens of the model's own."""
        return sum(self.mask)

    def values(self, truncated: bool) -> list[float]:
        """The model's own tokens' log-probabilities, over their support where sampling was `truncated`."""
        return [p for c in self.turns for p in (c.sampled_logprobs if truncated else c.logprobs)]

    @property
    def support(self) -> Support | None:
        found = [c.support for c in self.turns if c.support is not None]
        return Support.join(found) if found else None

    @property
    def routing(self) -> Any:
        """Each token's experts when it was first computed."""
        whole = None
        for c in self.turns:
            if c.routing is not None:
                whole = c.routing if whole is None else np.concatenate((whole, c.routing[len(whole) :]))
        return whole


@dataclass(frozen=True)
class Limits:
    """turns: how often the model speaks. tokens: what it may say in all of them. context: length of a sequence."""

    turns: int
    tokens: int
    context: int


def converse(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    tools: Tools,
    max_turns: int,
    thinking: Sequence[bool],
    n: int,
    streams: Sequence[int],
    **how: Any,
) -> list[list[Talk]]:
    """`n` conversations from each prompt, `[prompt][sample]`, all of a round computed together. `sampling.max_tokens`
    is what the model may say in all its turns; `thinking` says of each prompt whether it is asked with it. `how` goes
    to `generate`."""
    limits = Limits(max_turns, sampling.max_tokens, model.config.max_position_embeddings)
    first = generate(model, prompts, sampling, n=n, slots=max(1, len(prompts)) * n, streams=streams, **how)
    groups = [
        [Talk(list(p), len(p), thinking=thought) for _ in group]
        for p, thought, group in zip(prompts, thinking, first, strict=True)
    ]
    talks = [(talk, streams[i] * n + j) for i, group in enumerate(groups) for j, talk in enumerate(group)]
    heard = [c for group in first for c in group]
    active = talks
    for turn in range(1, max_turns + 1):
        goes_on = [
            (talk, stream) for (talk, stream), c in zip(active, heard, strict=True)
            if take_turn(talk, c, tokenizer, tools, limits)
        ]  # fmt: skip
        if not goes_on:
            break
        active, left = goes_on, [limits.tokens - talk.said for talk, _ in goes_on]
        made = generate(
            model, [talk.ids for talk, _ in active], replace(sampling, max_tokens=max(left)), n=1, slots=len(active),
            streams=[turn * TURN + stream for _, stream in active], limits=left, **how,
        )  # fmt: skip
        heard = [group[0] for group in made]
    return groups


def take_turn(talk: Talk, c: Completion, tokenizer: Tokenizer, tools: Tools, limits: Limits) -> bool:
    """Puts what the model said behind the conversation, and the results of its calls behind that. False: it is over."""
    talk.turns.append(c)
    talk.ids += c.token_ids
    talk.mask += [1] * len(c.token_ids)
    reply = parse_reply(tokenizer.decode(c.token_ids), tools=tools.schemas)
    talk.messages.append(reply.message())
    stopped = c.finish_reason == "stop"
    talk.ended = stopped and not reply.tool_calls
    # Behind another stop token the template's text would not be what a chat holds.
    whole = stopped and talk.ids[-1] == tokenizer.specials.get("<|im_end|>")
    if not reply.tool_calls or not whole or len(talk.turns) >= limits.turns or talk.said >= limits.tokens:
        return False
    results = []
    for call in reply.tool_calls:
        text, failed = tools.run(call)
        talk.calls, talk.failed = talk.calls + 1, talk.failed + failed
        talk.messages.append({"role": "tool", "name": call["function"]["name"], "content": text})
        results.append(text)
    between = render_tool_results(results, tokenizer, talk.thinking)
    if len(talk.ids) + len(between) >= limits.context:
        return False
    talk.ids += between
    talk.mask += [0] * len(between)
    return True
