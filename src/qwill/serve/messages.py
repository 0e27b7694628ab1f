"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from qwill.serve.access import caller_of, note, service_of
from qwill.serve.conversation import Chat, Counts, Part, Prepared, parts, prepare
from qwill.serve.errors import AnthropicErrorResponse, ApiError, as_api_error
from qwill.serve.fields import SamplingFields
from qwill.serve.messages_schema import (
    AnthropicMessage,
    AssistantTurn,
    CountRequest,
    MediaBlock,
    MessageEvent,
    MessagesRequest,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    TokenCount,
    ToolResultBlock,
    ToolUseBlock,
)  # fmt: skip
from qwill.serve.reply_blocks import Block, Blocks
from qwill.serve.routes import answers, new_router
from qwill.serve.service import Job
from qwill.serve.shapes import new_id
from qwill.serve.sse import EventStream, data, unless_gone

router = new_router()


@router.post("/v1/messages", **answers(AnthropicMessage, MessageEvent, AnthropicErrorResponse))
async def create_message(body: MessagesRequest, request: Request) -> Response:
    """The next message of a conversation, in Anthropic's protocol."""
    service = service_of(request)
    target = service.find_with_room(body.model)
    fields = SamplingFields(
        temperature=body.temperature, top_k=body.top_k, top_p=body.top_p, stop=body.stop_sequences or None
    )
    prepared = await prepare(service, target, as_chat(body, fields, body.max_tokens), new_id("msg_"))
    note(request, model=target.name, prompt_tokens=len(prepared.request.prompt))
    job = await service.job(target, [prepared.request], caller_of(request))
    reply = _Reply(prepared)
    if body.stream:
        request_id = request.scope.get("qwill.id")
        return EventStream(reply.stream(job), job.close, lambda error: _failure(error, request_id))
    async with job:
        return JSONResponse(await unless_gone(request, reply.whole(job)))


@router.post("/v1/messages/count_tokens", **answers(TokenCount, error=AnthropicErrorResponse))
async def count_tokens(body: CountRequest, request: Request) -> dict[str, int]:
    """How many tokens the prompt of a conversation has."""
    service = service_of(request)
    target = service.find(body.model)
    prepared = await prepare(service, target, as_chat(body, SamplingFields(), None), "count")
    return {"input_tokens": len(prepared.request.prompt)}


def as_chat(body: CountRequest, fields: SamplingFields, max_tokens: int | None) -> Chat:
    """Raises ApiError for what a text model can't take."""
    messages, places = _messages(body)
    tools = []
    for tool in body.tools or ():
        function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
        function["strict"] = tool.strict
        tools.append({"type": "function", "function": {k: v for k, v in function.items() if v is not None}})
    choice, parallel = "auto", True
    if body.tool_choice is not None:
        kind = body.tool_choice.type
        if kind == "tool" and body.tool_choice.name is None:
            raise ApiError(400, "tool_choice of type tool needs the tool's name.", "tool_choice.name")
        choice = {"any": "required", "tool": body.tool_choice.name or ""}.get(kind, kind)
        parallel = not body.tool_choice.disable_parallel_tool_use
    thinking, budget = None, None
    if body.thinking is not None:
        thinking = body.thinking.type != "disabled"
        budget = body.thinking.budget_tokens
    return Chat(
        messages, fields, max_tokens, tools=tools, choice=choice, parallel=parallel, thinking=thinking, budget=budget,
        places=places, stream=isinstance(body, MessagesRequest) and bool(body.stream),
    )  # fmt: skip


def _messages(body: CountRequest) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages as the renderer takes them, and the field that each came from."""
    made: list[dict[str, Any]] = []
    places: list[str] = []
    if body.system:
        system = body.system if isinstance(body.system, str) else "\n\n".join(block.text for block in body.system)
        made.append({"role": "system", "content": system})
        places.append("system")
    for i, turn in enumerate(body.messages):
        before, where = len(made), f"messages[{i}]"
        if isinstance(turn.content, str):
            made.append({"role": turn.role, "content": turn.content})
        elif isinstance(turn, AssistantTurn):
            made.append(_assistant(turn.content))
        else:
            made += _user(turn.content, where)
        places += [where] * (len(made) - before)
    return made, places


def _assistant(blocks: Sequence[Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls = []
    for block in blocks:
        if isinstance(block, TextBlock):
            message["content"] += block.text
        elif isinstance(block, ThinkingBlock):
            message["reasoning_content"] = message.get("reasoning_content", "") + block.thinking
        elif isinstance(block, ToolUseBlock):
            arguments = json.dumps(block.input, ensure_ascii=False)
            calls.append({"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}})
        else:
            assert isinstance(block, RedactedThinkingBlock)  # nobody can read it
    return message | ({"tool_calls": calls} if calls else {})


def _user(blocks: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """Results of tools first, each a message of its own, then what the user said."""
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    for i, block in enumerate(blocks):
        place = f"{where}.content[{i}]"
        if isinstance(block, ToolResultBlock):
            parts = block.content or []
            text = parts if isinstance(parts, str) else "".join(_text(part, place) for part in parts)
            results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
        else:
            texts.append(_text(block, place))
    said = [{"role": "user", "content": "".join(texts)}] if texts else []
    return results + said


def _text(block: Any, place: str) -> str:
    if isinstance(block, MediaBlock):
        text = f"{place} is of type {block.type}, but this model reads text only; describe it in words."
        raise ApiError(400, text, place, code="unsupported_content")
    return str(block.text)


class _Reply:
    """The message as it grows."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.counts, self.blocks = (
            prepared,
            Counts(prompt=len(prepared.request.prompt)),
            Blocks("toolu_"),
        )
        self.reason: str | None = None
        self.stop: str | None = None

    def _end(self, part: Part) -> None:
        event = part.event
        if event.finish_reason == "length":
            self.reason = "max_tokens"
        elif event.stop_text is not None and event.stop_text in self.prepared.request.stop:
            self.reason, self.stop = "stop_sequence", event.stop_text
        else:
            self.reason = "tool_use" if self.blocks.calls else "end_turn"

    def _usage(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "input_tokens": counts.prompt - counts.cached,
            "output_tokens": counts.reply,
            "cache_read_input_tokens": counts.cached,
            "cache_creation_input_tokens": 0,
            "cache_creation": None,
            "inference_geo": None,
            "output_tokens_details": None,
            "server_tool_use": None,
            "service_tier": "standard",
        }

    def message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.prepared.request.id,
            "type": "message",
            "role": "assistant",
            "model": self.prepared.target.name,
            "content": content,
            "stop_reason": self.reason,
            "stop_sequence": self.stop,
            "stop_details": None,
            "container": None,
            "usage": self._usage(),
        }

    async def whole(self, job: Job) -> dict[str, Any]:
        async for part in parts(job, self.prepared, self.counts):
            self.blocks.push(part.pieces)
            if part.event.finish_reason is not None:
                self._end(part)
        return self.message([_shown(block) for block in self.blocks.blocks])

    async def stream(self, job: Job) -> AsyncIterator[bytes]:
        yield _event("message_start", message=self.message([]))
        yield _event("ping")
        async for part in parts(job, self.prepared, self.counts):
            changes = self.blocks.push(part.pieces)
            if part.event.finish_reason is not None:
                changes += self.blocks.finish()
                self._end(part)
            for change in changes:
                index = change.block.index
                if change.what == "begun":
                    yield _event("content_block_start", index=index, content_block=_shown(change.block, empty=True))
                elif change.what == "grown":
                    yield _event("content_block_delta", index=index, delta=_delta(change.block, change.text))
                else:
                    yield _event("content_block_stop", index=index)
        yield _event(
            "message_delta", delta={"stop_reason": self.reason, "stop_sequence": self.stop}, usage=self._usage()
        )
        yield _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    return data({"type": kind, **fields}, kind)


def _shown(block: Block, empty: bool = False) -> dict[str, Any]:
    text = "" if empty else block.text
    if block.kind == "thinking":
        return {"type": "thinking", "thinking": text, "signature": ""}
    if block.kind == "text":
        return {"type": "text", "text": text, "citations": None}
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    # Cut off or broken arguments are shown as they are.
    arguments = value if isinstance(value, dict) else {"unreadable_arguments": text}
    direct = {"type": "direct"}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": arguments, "caller": direct}


def _delta(block: Block, text: str) -> dict[str, Any]:
    if block.kind == "thinking":
        return {"type": "thinking_delta", "thinking": text}
    if block.kind == "text":
        return {"type": "text_delta", "text": text}
    return {"type": "input_json_delta", "partial_json": text}


def _failure(error: Exception, request_id: str | None) -> bytes:
    return data(as_api_error(error).anthropic(request_id), "error")
