"""Server-sent events, and answers that stop when the client is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwill.serve.errors import ClientGone, as_api_error

T = TypeVar("T")
HEARTBEAT = 15.0  # seconds of silence after which a comment keeps proxies from closing the connection
DONE = b"data: [DONE]\n\n"


def data(value: BaseModel | dict[str, Any], event: str | None = None) -> bytes:
    """One event: its name where the protocol names events, and JSON on one line."""
    text = (
        value.model_dump_json(exclude_unset=True)
        if isinstance(value, BaseModel)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {text}\n\n".encode("utf-8", errors="replace")


class EventStream(Response):
    """`parts` sent as they come. `close` is called once whatever happens: the client leaves, an error, the end.

    An exception in mid-stream becomes an event by `failure`, and the stream still ends as the protocol wants.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        parts: AsyncIterator[bytes],
        close: Callable[[], object],
        failure: Callable[[Exception], bytes] | None = None,
    ) -> None:
        self.status_code, self.background = 200, None
        self.parts, self.close, self.failure = parts, close, failure or openai_failure
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(scope, send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await sending
            self.close()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for part in _with_heartbeat(self.parts):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except Exception as error:
            scope["qwill.error"] = str(error)
            if as_api_error(error).status_code == 500:
                scope["qwill.exception"] = error
            await send({"type": "http.response.body", "body": self.failure(error), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def openai_failure(error: Exception) -> bytes:
    return data(as_api_error(error).openai()) + DONE


async def _with_heartbeat(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    following: asyncio.Future[bytes] | None = None
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(_next(parts))
            done, _ = await asyncio.wait({following}, timeout=HEARTBEAT)
            if not done:
                yield b": still here\n\n"
                continue
            part, following = following.result(), None
            if part is None:
                return
            yield part
    finally:
        if following is not None:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await following
        with contextlib.suppress(Exception):
            await parts.aclose()  # type: ignore[attr-defined]


async def _next(parts: AsyncIterator[bytes]) -> Any:
    try:
        return await anext(parts)
    except StopAsyncIteration:
        return None


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves. Raises ClientGone then."""
    working: asyncio.Task[T] = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
