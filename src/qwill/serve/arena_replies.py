"""One side of a battle as it is written: a stream that does not say which model it is, and is kept when it is whole.

The seed is that of the battle's side, so that a stream which broke off gives the same reply again; a reply that is
whole is sent as it was kept.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from qwill.base.state import State
from qwill.base.state_rows import Row
from qwill.serve.arena_log import Side, said_to, save_reply, turn_of
from qwill.serve.chat_completions import plain_messages
from qwill.serve.conversation import Chat, Counts, Prepared, parts, prepare
from qwill.serve.errors import ApiError, as_api_error
from qwill.serve.fields import SamplingFields
from qwill.serve.service import Job, Service
from qwill.serve.shapes import new_id, now
from qwill.serve.sse import DONE, EventStream, data
from qwill.text.reply_stream import ContentPiece, ReasoningPiece

# What can go wrong, said without the names and numbers that would tell the models apart.
_SENTENCES = {
    400: "One of the two models can't answer this; make it shorter or ask something else.",
    408: "The reply took too long; begin a new battle.",
    429: "The arena is busy, or your limit is used up; try again in a while.",
    503: "One of this battle's models does not answer now; try again, or begin a new battle.",
}

Running = dict[tuple[str, Side], Job]


async def reply_stream(
    service: Service, state: State, battle: Row, side: Side, running: Running, caller: Any, max_tokens: int | None
) -> EventStream:
    """Raises ApiError where the reply can't begin. A stream that is opened again ends the one before."""
    chunk = _chunks()
    if (kept := battle[f"reply_{side}"]) is not None:
        return EventStream(_again(kept, chunk), lambda: None)
    place = (battle["id"], side)
    if (other := running.get(place)) is not None:
        other.fail(ApiError(409, "This reply was asked for again elsewhere.", code="superseded"))
    try:
        target = service.find(battle[f"model_{side}"])
        turn = turn_of(battle)
        name = f"{battle['id']}/{side}" + (f"/{turn}" if turn > 1 else "")
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1
        chat = Chat(said_to(battle, side), SamplingFields(seed=seed), max_tokens=max_tokens)
        prepared = await prepare(service, target, chat, new_id("battle-"))
        job = await service.job(target, [prepared.request], caller)
    except Exception as error:
        raise anonymous(error) from error
    running[place] = job

    def close() -> None:
        job.close()
        if running.get(place) is job:
            del running[place]

    where = (state, battle["tenant"], battle["id"], side)
    keep = lambda reply: asyncio.to_thread(save_reply, *where, reply, turn)  # noqa: E731
    return EventStream(_stream(job, prepared, chunk, keep), close, _failure)


def anonymous(error: Exception) -> ApiError:
    """The same status and code without what it says of the model."""
    found = as_api_error(error)
    status = 503 if found.status_code == 404 else found.status_code
    text = _SENTENCES.get(status, "The reply could not be made; begin a new battle.")
    after = found.headers.get("Retry-After") if found.headers else None
    return ApiError(status, text, code=found.code, retry_after=None if after is None else int(after))


def conversation(prompt: str | None, messages: list[Any] | None) -> list[dict[str, Any]]:
    """What both models answer: the user's words last. Raises ApiError naming the field."""
    if (prompt is None) == (messages is None):
        raise ApiError(400, "Give either prompt or messages.", "prompt")
    plain = [{"role": "user", "content": prompt}] if prompt is not None else plain_messages(messages or [])
    for i, message in enumerate(plain):
        expected = ("user", "assistant")[i % 2]
        if message["role"] != expected:
            place = f"messages[{i}].role"
            raise ApiError(400, f"{place} is {message['role']!r}; {expected!r} is expected there.", place)
        if not str(message["content"]).strip():
            place = "prompt" if prompt is not None else f"messages[{i}]"
            raise ApiError(400, "There is nothing in it to answer.", place)
    if plain[-1]["role"] != "user":
        raise ApiError(400, "messages must end with the user's.", "messages")
    return plain


async def _stream(
    job: Job, prepared: Prepared, chunk: Callable[..., bytes], keep: Callable[[dict[str, Any]], Any]
) -> AsyncIterator[bytes]:
    counts, content, reasoning = Counts(), "", ""
    yield chunk({"role": "assistant", "content": ""})
    async for part in parts(job, prepared, counts):
        for piece in part.pieces:
            if isinstance(piece, ContentPiece):
                content += piece.text
                yield chunk({"content": piece.text})
            elif isinstance(piece, ReasoningPiece):
                reasoning += piece.text
                yield chunk({"reasoning_content": piece.text})
        if part.event.finish_reason is not None:
            reason = "length" if part.event.finish_reason == "length" else "stop"
            # Kept before it is said to be whole: a vote that follows at once finds it.
            await keep({"content": content, "reasoning": reasoning, "finish_reason": reason, "tokens": counts.reply})
            yield chunk({}, reason)
    yield DONE


async def _again(reply: dict[str, Any], chunk: Callable[..., bytes]) -> AsyncIterator[bytes]:
    yield chunk({"role": "assistant", "content": ""})
    if reply["reasoning"]:
        yield chunk({"reasoning_content": reply["reasoning"]})
    if reply["content"]:
        yield chunk({"content": reply["content"]})
    yield chunk({}, reply["finish_reason"])
    yield DONE


def _chunks() -> Callable[..., bytes]:
    head = {"id": new_id("battle-"), "object": "chat.completion.chunk", "created": now()}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        return data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    return chunk


def _failure(error: Exception) -> bytes:
    found = as_api_error(error)
    return data((found if found.code == "superseded" else anonymous(error)).openai()) + DONE
