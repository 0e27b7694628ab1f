"""From messages to a reply taken apart, whatever the protocol: chat completions, responses and Anthropic's messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from qwill.base.errors import DataError
from qwill.engine.constraint import Constraint
from qwill.engine.request import Event, Request
from qwill.engine.template import conversation_ids
from qwill.serve.constraints import Wanted, checked
from qwill.serve.errors import ApiError
from qwill.serve.fields import STRIDE, SamplingFields, engine_request, room, sampling_of
from qwill.serve.service import Job, Service, Target
from qwill.text.reply_stream import Piece, ReasoningPiece, ReplyStream, prompt_opens_thinking, tool_form
from qwill.text.thinking import thinking_budget

# Tokens of thinking that OpenAI's `reasoning_effort` stands for; None: as many as the reply may have.
BUDGETS: dict[str, int | None] = {"none": 0, "minimal": 256, "low": 1024, "medium": 4096, "high": None, "xhigh": None}
LONG = 20_000  # characters from which a conversation is rendered in a thread, and not in the loop


@dataclass
class Chat:
    """A conversation and how to answer it. `tools` have OpenAI's form, `choice` is auto, none, required or a tool's
    name; `thinking` None leaves it to the server."""

    messages: list[dict[str, Any]]
    fields: SamplingFields
    max_tokens: int | None = None
    n: int = 1
    tools: list[dict[str, Any]] = field(default_factory=list)
    choice: str = "auto"
    parallel: bool = True
    thinking: bool | None = None
    budget: int | None = None
    constraint: Wanted | None = None
    logprobs: int | None = None
    stream: bool = True
    param: str = "messages"  # the field that holds the messages
    places: list[str] | None = None  # the field that each message came from, where they are not one to one


@dataclass
class Prepared:
    chat: Chat
    target: Target
    request: Request
    thinking_open: bool
    tools: Sequence[Mapping[str, Any]] | None

    def parser(self) -> ReplyStream:
        return ReplyStream(thinking_open=self.thinking_open, tools=self.tools)


async def prepare(service: Service, target: Target, chat: Chat, request_id: str) -> Prepared:
    """The engine's request for a conversation. Raises ApiError for what can't be answered."""
    info = target.info
    check_order(chat.messages, chat.places or [f"{chat.param}[{i}]" for i in range(len(chat.messages))])
    tools = [] if chat.choice == "none" else chat.tools
    if chat.choice not in ("auto", "none", "required") and chat.choice not in {t["function"]["name"] for t in tools}:
        raise ApiError(400, f"tool_choice names {chat.choice!r:.100}, which is not among the tools.", "tool_choice")
    if chat.choice == "required" and not tools:
        raise ApiError(400, "tool_choice is required, but there are no tools.", "tool_choice")
    wanted = service.settings.thinking if chat.thinking is None else chat.thinking
    if chat.thinking is None and chat.budget:
        wanted = True
    thinking = wanted and info.thinks and chat.budget != 0
    size = sum(len(str(message.get("content", ""))) for message in chat.messages)
    arguments = (chat.messages, info.tokenizer, tools or None, thinking)
    try:
        prompt = conversation_ids(*arguments) if size < LONG else await asyncio.to_thread(conversation_ids, *arguments)
    except DataError as error:
        raise ApiError(400, str(error), chat.param) from error
    left = room(prompt, info, chat.param)
    defaults = dict(info.thinking_sampling if thinking else info.sampling)
    usual = int(defaults.pop("max_tokens", 1024))
    sampling = sampling_of(chat.fields, defaults, min(left, chat.max_tokens or usual))
    opens = prompt_opens_thinking(info.tokenizer, prompt)
    constraint = await constraint_of(
        chat, tools, info.tokenizer.chat_template, "open" if opens else "allowed" if thinking else "none"
    )
    budget = None
    if chat.budget is not None and info.thinks and (thinking or opens):
        budget = thinking_budget(info.tokenizer, chat.budget)
        if constraint is not None:  # which says itself what stands behind </think>
            budget = replace(budget, ending=budget.ending[: budget.ending.index(budget.marks[1]) + 1])
    request = engine_request(
        request_id, prompt, chat.fields, sampling, info, chat.n,
        adapter=target.adapter, constraint=constraint, logprobs=chat.logprobs,
        thinking_budget=budget.tokens if budget else None, thinking_end=budget.ending if budget else (),
        # Tokens of reasoning are counted by the event, which then must hold one only.
        stride=1 if chat.stream or thinking or opens else STRIDE,
    )  # fmt: skip
    return Prepared(chat, target, request, opens, tools or None)


async def constraint_of(
    chat: Chat, tools: list[dict[str, Any]], template: str, thinking: Literal["none", "allowed", "open"]
) -> Constraint | None:
    """Raises ApiError for a schema or grammar that can't be kept to, naming the field."""
    wanted = chat.constraint
    strict = any(tool["function"].get("strict") for tool in tools)
    if tools and (chat.choice != "auto" or (strict and wanted is None)):
        if wanted is not None:
            raise ApiError(400, f"A tool call is asked for, which can't also keep to {wanted.param}.", wanted.param)
        form = tool_form(template)
        spec = {"tools": tools, "choice": chat.choice, "parallel": chat.parallel, "form": form}
        wanted = Wanted("tools", json.dumps(spec), "tools")
    return None if wanted is None else await checked(wanted, thinking)


def check_order(messages: Sequence[Mapping[str, Any]], places: Sequence[str]) -> None:
    """A tool's result needs the call that it answers. `places`: where each message stands. Raises ApiError."""
    open_calls: set[str] = set()
    for message, place in zip(messages, places, strict=True):
        if message["role"] == "assistant":
            open_calls = {call["id"] for call in message.get("tool_calls") or ()}
        elif message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                raise ApiError(
                    400,
                    f"{place} is the result of the tool call {message['tool_call_id']!r:.100}, but the assistant's "
                    "message before it has no open call with this id.",
                    place,
                )
            open_calls.discard(message["tool_call_id"])
        else:
            open_calls = set()


@dataclass
class Part:
    """What one engine event gave for one sample."""

    sample: int
    pieces: list[Piece]
    event: Event


@dataclass
class Counts:
    """Tokens of a reply so far."""

    prompt: int = 0
    cached: int = 0
    reply: int = 0
    reasoning: int = 0


async def parts(job: Job, prepared: Prepared, counts: Counts) -> AsyncIterator[Part]:
    """The reply of every sample, taken apart as it comes; `counts` grows with it."""
    parsers = [prepared.parser() for _ in range(prepared.request.n)]
    reasoning = [prepared.thinking_open] * prepared.request.n
    counts.prompt = len(prepared.request.prompt)
    async for _, event in job.events():
        parser = parsers[event.sample]
        pieces = parser.push(event.text) if event.text else []
        if event.finish_reason is not None:
            pieces += parser.finish()
        if pieces:
            reasoning[event.sample] = isinstance(pieces[-1], ReasoningPiece)
        counts.cached = max(counts.cached, event.cached_tokens)
        counts.reply += len(event.token_ids)
        if reasoning[event.sample]:
            counts.reasoning += len(event.token_ids)
        if not prepared.chat.parallel:
            pieces = [piece for piece in pieces if getattr(piece, "index", 0) == 0]
        yield Part(event.sample, pieces, event)
