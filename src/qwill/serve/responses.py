"""POST /v1/responses: OpenAI's newer protocol, without a memory of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from qwill.serve.access import caller_of, note, service_of
from qwill.serve.constraints import Wanted, constraint_fields, only
from qwill.serve.conversation import BUDGETS, Chat, Counts, Part, Prepared, parts, prepare
from qwill.serve.errors import ApiError, as_api_error
from qwill.serve.fields import plain_text
from qwill.serve.reply_blocks import Block, Blocks, Change
from qwill.serve.responses_schema import (
    FunctionCallItem,
    FunctionChoice,
    FunctionOutputItem,
    FunctionTool,
    InputMessage,
    ReasoningItem,
    ResponseEvent,
    ResponseObject,
    ResponsesRequest,
    SchemaFormat,
)  # fmt: skip
from qwill.serve.routes import answers, new_router
from qwill.serve.service import Job
from qwill.serve.shapes import new_id, now
from qwill.serve.sse import EventStream, data, unless_gone

router = new_router()
PREFIXES = {"thinking": "rs_", "text": "msg_", "call": "fc_"}


@router.post("/v1/responses", **answers(ResponseObject, ResponseEvent))
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """A reply as items: thinking, messages, function calls."""
    service = service_of(request)
    target = service.find_with_room(body.model)
    if body.previous_response_id is not None:
        text = "previous_response_id is not supported: nothing is stored here; send the whole conversation as input."
        raise ApiError(400, text, "previous_response_id")
    if body.background:
        raise ApiError(400, "background is not supported: wait for the answer, or stream it.", "background")
    prepared = await prepare(service, target, as_chat(body), new_id("resp_"))
    note(request, model=target.name, prompt_tokens=len(prepared.request.prompt))
    job = await service.job(target, [prepared.request], caller_of(request))
    reply = _Reply(prepared, body)
    if body.stream:
        return EventStream(reply.stream(job), job.close, reply.failure)
    async with job:
        return JSONResponse(await unless_gone(request, reply.whole(job)))


def as_chat(body: ResponsesRequest) -> Chat:
    """Raises ApiError for what a text model can't take."""
    messages, places = _messages(body)
    tools = [
        {"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"type"})}
        for tool in body.tools or ()
    ]
    choice = body.tool_choice
    effort = body.reasoning.effort if body.reasoning else None
    found = constraint_fields(body)
    form = body.text.format if body.text else None
    if isinstance(form, SchemaFormat):
        found.append(Wanted("json_schema", json.dumps(form.schema_), "text.format"))
    elif form is not None and form.type == "json_object":
        found.append(Wanted("json_object", "", "text.format"))
    return Chat(
        messages,
        body,
        body.max_output_tokens,
        stream=bool(body.stream),
        tools=tools,
        choice=choice.name if isinstance(choice, FunctionChoice) else choice or "auto",
        parallel=body.parallel_tool_calls is not False,
        thinking=None if effort is None else effort != "none",
        budget=None if effort is None else BUDGETS[effort],
        constraint=only(found),
        param="input",
        places=places,
    )


def _messages(body: ResponsesRequest) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages as the renderer takes them, and the field that each came from: the items that an assistant gave one
    after the other (thinking, words, calls) are one message."""
    made: list[dict[str, Any]] = []
    places: list[str] = []

    def add(place: str, message: dict[str, Any]) -> None:
        if message["role"] == "assistant" and made and made[-1]["role"] == "assistant":
            last = made[-1]
            last["content"] += message["content"]
            if "reasoning_content" in message:
                last["reasoning_content"] = last.get("reasoning_content", "") + message["reasoning_content"]
            if "tool_calls" in message:
                last.setdefault("tool_calls", []).extend(message["tool_calls"])
            return
        made.append(message)
        places.append(place)

    if body.instructions:
        add("instructions", {"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        add("input", {"role": "user", "content": body.input})
        return made, places
    for i, item in enumerate(body.input):
        place = f"input[{i}]"
        if isinstance(item, InputMessage):
            role = "system" if item.role == "developer" else item.role
            add(place, {"role": role, "content": plain_text(item.content, f"{place}.content")})
        elif isinstance(item, FunctionCallItem):
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            add(place, {"role": "assistant", "content": "", "tool_calls": [call]})
        elif isinstance(item, FunctionOutputItem):
            text = plain_text(item.output, f"{place}.output")
            add(place, {"role": "tool", "tool_call_id": item.call_id, "content": text})
        else:
            assert isinstance(item, ReasoningItem)
            text = plain_text(item.content or [], f"{place}.content")
            add(place, {"role": "assistant", "content": "", "reasoning_content": text})
    return made, places


class _Reply:
    """The response as it grows."""

    def __init__(self, prepared: Prepared, body: ResponsesRequest) -> None:
        self.prepared, self.body, self.created = prepared, body, now()
        self.counts, self.blocks = Counts(prompt=len(prepared.request.prompt)), Blocks("call_")
        self.ids: dict[int, str] = {}
        self.status, self.number = "in_progress", -1

    def _take(self, part: Part) -> list[Change]:
        changes = self.blocks.push(part.pieces)
        if part.event.finish_reason is not None:
            changes += self.blocks.finish()
            self.status = "incomplete" if part.event.finish_reason == "length" else "completed"
        return changes

    async def whole(self, job: Job) -> dict[str, Any]:
        async for part in parts(job, self.prepared, self.counts):
            self._take(part)
        return self.shown()

    def shown(self, error: dict[str, Any] | None = None) -> dict[str, Any]:
        """The response object as it stands."""
        body, sampling, ended = self.body, self.prepared.request.sampling, self.status != "in_progress"
        counts = self.counts
        used = {
            "input_tokens": counts.prompt,
            "input_tokens_details": {"cached_tokens": counts.cached},
            "output_tokens": counts.reply,
            "output_tokens_details": {"reasoning_tokens": counts.reasoning},
            "total_tokens": counts.prompt + counts.reply,
        }
        dumped = body.model_dump(exclude_none=True, by_alias=True, include={"tool_choice", "text", "reasoning"})
        return {
            "id": self.prepared.request.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": now() if self.status == "completed" else None,
            "background": False,
            "status": self.status,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.prepared.target.name,
            "output": [self.item(block, ended) for block in self.blocks.blocks] if ended else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None} | dumped.get("reasoning", {}),
            "store": False,
            "temperature": sampling.temperature,
            "text": dumped.get("text", {"format": {"type": "text"}}),
            "tool_choice": dumped.get("tool_choice", "auto"),
            "tools": [_tool(tool) for tool in body.tools or ()],
            "max_tool_calls": None,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "top_logprobs": 0,
            "truncation": "disabled",
            "usage": used if ended else None,
            "user": None,
            "service_tier": "default",
            "safety_identifier": None,
            "prompt_cache_key": None,
            "metadata": body.metadata or {},
        }

    def item(self, block: Block, ended: bool) -> dict[str, Any]:
        item_id = self.ids.setdefault(block.index, new_id(PREFIXES[block.kind]))
        cut = self.status == "incomplete" and block is self.blocks.blocks[-1]
        status = "in_progress" if not ended else "incomplete" if cut else "completed"
        if block.kind == "call":
            text = block.text if ended else ""
            call = {"call_id": block.id, "name": block.name, "arguments": text}
            return {"type": "function_call", "id": item_id, "status": status, **call}
        content = [_part(block, block.text)] if ended else []
        if block.kind == "thinking":
            return {"type": "reasoning", "id": item_id, "summary": [], "content": content, "status": status}
        return {"type": "message", "id": item_id, "role": "assistant", "status": status, "content": content}

    def event(self, kind: str, **fields: Any) -> bytes:
        self.number += 1
        return data({"type": kind, "sequence_number": self.number, **fields}, kind)

    async def stream(self, job: Job) -> AsyncIterator[bytes]:
        yield self.event("response.created", response=self.shown())
        yield self.event("response.in_progress", response=self.shown())
        async for part in parts(job, self.prepared, self.counts):
            for change in self._take(part):
                for event in self._events(change):
                    yield event
        yield self.event(f"response.{self.status}", response=self.shown())

    def _events(self, change: Change) -> list[bytes]:
        block = change.block
        began = self.item(block, False)
        where = {"item_id": began["id"], "output_index": block.index}
        inner = where if block.kind == "call" else {**where, "content_index": 0}
        name = {"call": "function_call_arguments", "thinking": "reasoning_text", "text": "output_text"}[block.kind]
        extra: dict[str, Any] = {"logprobs": []} if block.kind == "text" else {}
        if change.what == "begun":
            events = [self.event("response.output_item.added", output_index=block.index, item=began)]
            if block.kind != "call":
                events.append(self.event("response.content_part.added", **inner, part=_part(block, "")))
            return events
        if change.what == "grown":
            return [self.event(f"response.{name}.delta", **inner, delta=change.text, **extra)]
        field = "arguments" if block.kind == "call" else "text"
        whole: dict[str, Any] = {field: block.text, **({"name": block.name} if block.kind == "call" else extra)}
        events = [self.event(f"response.{name}.done", **inner, **whole)]
        if block.kind != "call":
            events.append(self.event("response.content_part.done", **inner, part=_part(block, block.text)))
        return [*events, self.event("response.output_item.done", output_index=block.index, item=self.item(block, True))]

    def failure(self, error: Exception) -> bytes:
        """The last event of a stream that an error ends."""
        found = as_api_error(error)
        self.status = "failed"
        shown = {"code": found.code or "server_error", "message": found.message}
        return self.event("response.failed", response=self.shown(shown))


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {name: getattr(tool, name) for name in ("type", "name", "description", "parameters", "strict")}


def _part(block: Block, text: str) -> dict[str, Any]:
    if block.kind == "thinking":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
