"""POST /v1/chat/completions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from qwill.serve.access import caller_of, service_of
from qwill.serve.chat_schema import ChatCompletion, ChatCompletionChunk, ChatRequest, NamedTool
from qwill.serve.constraints import Wanted, constraint_fields, only
from qwill.serve.conversation import BUDGETS, Chat, Counts, Part, Prepared, parts, prepare
from qwill.serve.errors import ApiError
from qwill.serve.fields import plain_text
from qwill.serve.routes import answers, new_router
from qwill.serve.service import Job
from qwill.serve.shapes import chat_logprob, new_id, now, usage
from qwill.serve.sse import DONE, EventStream, data, unless_gone
from qwill.text.reply_stream import ContentPiece, ReasoningPiece, ToolStart

router = new_router()


@router.post("/v1/chat/completions", **answers(ChatCompletion, ChatCompletionChunk))
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """The next message of a conversation."""
    service = service_of(request)
    target = service.find_with_room(body.model)
    prepared = await prepare(service, target, as_chat(body), new_id("chatcmpl-"))
    job = await service.job(target, [prepared.request], caller_of(request))
    if body.stream:
        return EventStream(_stream(job, prepared, body), job.close)
    async with job:
        return JSONResponse(await unless_gone(request, _whole(job, prepared)))


def as_chat(body: ChatRequest) -> Chat:
    """Raises ApiError for what a text model can't take."""
    options = body.chat_template_kwargs
    thinking = options.enable_thinking if options else None
    budget = body.thinking_budget
    if body.reasoning_effort is not None:
        if thinking is None:
            thinking = body.reasoning_effort != "none"
        budget = BUDGETS[body.reasoning_effort] if budget is None else budget
    choice = body.tool_choice
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", "top_logprobs")
    return Chat(
        messages=plain_messages(body.messages),
        fields=body,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        n=body.n or 1,
        tools=[tool.model_dump(exclude_none=True) for tool in body.tools or ()],
        choice=choice.function.name if isinstance(choice, NamedTool) else choice or "auto",
        parallel=body.parallel_tool_calls is not False,
        thinking=thinking,
        budget=budget,
        constraint=_constraint(body),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        stream=bool(body.stream),
    )


def _constraint(body: ChatRequest) -> Wanted | None:
    form = body.response_format
    found = constraint_fields(body)
    if form is not None and form.type != "text":
        if form.type == "json_object":
            found.append(Wanted("json_object", "", "response_format"))
        else:
            schema = form.json_schema.schema_
            found.append(Wanted("json_schema", json.dumps({} if schema is None else schema), "response_format"))
    return only(found)


def plain_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages as the renderer takes them: text alone, `developer` being `system`. Raises ApiError for other media."""
    plain = []
    for i, message in enumerate(messages):
        made: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
        made["content"] = plain_text(message.content, f"messages[{i}].content")
        for name in ("reasoning_content", "tool_call_id"):
            if (value := getattr(message, name, None)) is not None:
                made[name] = value
        if (thought := getattr(message, "reasoning", None)) is not None:
            made.setdefault("reasoning_content", thought)
        if calls := getattr(message, "tool_calls", None):
            made["tool_calls"] = [call.model_dump(exclude_none=True) for call in calls]
        plain.append(made)
    return plain


class _Sample:
    """One reply as it grows."""

    def __init__(self) -> None:
        self.content, self.reasoning = "", ""
        self.thought = False
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.reason: str | None = None

    def deltas(self, part: Part) -> list[dict[str, Any]]:
        """The part as stream deltas; the sample holds all of them together."""
        deltas: list[dict[str, Any]] = []
        for piece in part.pieces:
            if isinstance(piece, ContentPiece):
                self.content += piece.text
                deltas.append({"content": piece.text})
            elif isinstance(piece, ReasoningPiece):
                self.reasoning += piece.text
                self.thought = True
                deltas.append({"reasoning_content": piece.text})
            elif isinstance(piece, ToolStart):
                function = {"name": piece.name, "arguments": ""}
                call = {"id": new_id("call_"), "type": "function"}
                self.calls.append({**call, "function": function})
                # A copy: the function that is kept goes on growing.
                deltas.append({"tool_calls": [{"index": piece.index, **call, "function": dict(function)}]})
            else:
                self.calls[piece.index]["function"]["arguments"] += piece.text
                deltas.append({"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]})
        if part.event.finish_reason is not None:
            ended = "length" if part.event.finish_reason == "length" else "stop"
            self.reason = "tool_calls" if self.calls and ended == "stop" else ended
        return deltas

    def note_logprobs(self, part: Part, prepared: Prepared) -> list[dict[str, Any]]:
        """Entries of the tokens of this part, without the mark that ends the reply."""
        info, wanted = prepared.target.info, prepared.request.logprobs
        if wanted is None or not part.event.logprobs:
            return []
        entries = part.event.logprobs
        if part.event.finish_reason == "stop" and entries[-1].token in prepared.request.stop_ids:
            entries = entries[:-1]
        shown = [chat_logprob(info.tokenizer, entry, wanted) for entry in entries]
        self.logprobs += shown
        return shown

    def choice(self, index: int, wants_logprobs: bool) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.content, "refusal": None, "annotations": []}
        if self.thought:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = self.calls
            message["content"] = self.content or None
        logprobs = {"content": self.logprobs, "refusal": None} if wants_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.reason}


async def _whole(job: Job, prepared: Prepared) -> dict[str, Any]:
    counts, samples = Counts(), [_Sample() for _ in range(prepared.request.n)]
    async for part in parts(job, prepared, counts):
        samples[part.sample].deltas(part)
        samples[part.sample].note_logprobs(part, prepared)
    wants = prepared.request.logprobs is not None
    return {
        "id": prepared.request.id,
        "object": "chat.completion",
        "created": now(),
        "model": prepared.target.name,
        "choices": [sample.choice(i, wants) for i, sample in enumerate(samples)],
        "usage": usage(counts.prompt, counts.reply, counts.cached, counts.reasoning),
    }


async def _stream(job: Job, prepared: Prepared, body: ChatRequest) -> AsyncIterator[bytes]:
    counts, samples, created = Counts(), [_Sample() for _ in range(prepared.request.n)], now()
    options = body.stream_options
    wants_usage = bool(options and options.include_usage)
    continuous = bool(options and options.continuous_usage_stats)

    def chunk(choices: list[dict[str, Any]], final: bool = False) -> bytes:
        shown: dict[str, Any] = {
            "id": prepared.request.id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": prepared.target.name,
            "choices": choices,
        }
        if wants_usage:
            said = final or continuous
            shown["usage"] = usage(counts.prompt, counts.reply, counts.cached, counts.reasoning) if said else None
        return data(shown)

    def choice(index: int, delta: dict[str, Any], logprobs: list[dict[str, Any]], reason: str | None = None) -> bytes:
        shown = {"content": logprobs, "refusal": None} if logprobs else None
        return chunk([{"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}])

    for i in range(len(samples)):
        yield choice(i, {"role": "assistant", "content": ""}, [])
    held: list[list[dict[str, Any]]] = [[] for _ in samples]  # log-probabilities of tokens whose text is not out yet
    async for part in parts(job, prepared, counts):
        sample, i = samples[part.sample], part.sample
        deltas = sample.deltas(part)
        held[i] += sample.note_logprobs(part, prepared)
        for delta in deltas:
            yield choice(i, delta, held[i])
            held[i] = []
        if sample.reason is not None:
            yield choice(i, {}, held[i], sample.reason)
    if wants_usage:
        yield chunk([], final=True)
    yield DONE
