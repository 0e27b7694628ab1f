"""What stands before every route: request ids, who may come in, how much a body may hold, one log line at the end."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwill.serve import errors
from qwill.serve.errors import ApiError, as_api_error

if TYPE_CHECKING:
    from qwill.serve.service import Service

log = logging.getLogger("qwill.serve")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_ESCAPED = re.compile(rb"\\u[dD][89a-fA-F]")
# Answered without a key: whether the server lives, what it can do; the page's own files too.
OPEN_PATHS = ("/health", "/ping", "/version", "/openapi.json")


def service_of(request: Request) -> Service:
    return request.app.state.service


def caller_of(request: Request) -> Caller | None:
    """Who asks, where keys are asked for."""
    return request.scope.get("qwill.caller")


def tenant_of(request: Request) -> str:
    """Whose conversations these are; without keys all are of one, `local`."""
    caller = caller_of(request)
    return "local" if caller is None else caller.tenant


def note(request: Request, **fields: Any) -> None:
    """Put fields into the log line of this request."""
    request.scope.setdefault("qwill.fields", {}).update(fields)


@dataclass
class Caller:
    """A key in use. `meter` counts against its limits (limits.py); None for a key without."""

    key: Any
    meter: Any = None
    reserved: int | None = None

    @property
    def tenant(self) -> str:
        return str(self.key.tenant)

    def reserve(self, tokens: int) -> None:
        """Take so many tokens and one request from the key's limits. Raises ApiError 429 when they are used up."""
        if self.meter is None:
            return
        from qwill.serve.limits import NEVER, check

        wait = check(self.meter, tokens, time.monotonic_ns())
        if wait is None:
            self.reserved = tokens
        elif wait == NEVER:
            text = f"This request may take {tokens:,} tokens, more than the key is allowed in a minute; ask for fewer."
            raise ApiError(400, text, "max_tokens", code="tokens_per_minute")
        else:
            text = f"The key {self.key.name} has used up its limit; try again in {wait} s."
            raise ApiError(429, text, code="rate_limit_exceeded", retry_after=wait)

    def finish(self, used: int) -> None:
        """Give back what was reserved and not used; after this nothing is reserved."""
        if self.meter is not None and self.reserved is not None:
            from qwill.serve.limits import finish

            finish(self.meter, self.reserved, used, time.monotonic_ns())
            self.reserved = None


class Front:
    """The outermost ASGI application: nothing that happens inside it goes out in another shape than ours."""

    def __init__(self, app: ASGIApp, service: Service, page: Callable[[str], Any]) -> None:
        """`page(path)`: the page's own file at a path (`body`, `headers`), which needs no key; None for other paths."""
        self.app, self.service, self.page = app, service, page
        self.meters: dict[str, Any] = {}
        self.open = 0
        # Running and waiting replies, and those who upload or are just being told to come back.
        self.most = max(64, 4 * service.settings.waiting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        headers = Headers(scope=scope)
        request_id = scope["qwill.id"] = _id(headers.get("x-request-id"))

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        self.open += 1
        try:
            if self.open > self.most and scope["path"] not in OPEN_PATHS:
                text = f"{self.most} requests are open, the most that this server takes; try again in 1 s."
                raise ApiError(429, text, code="too_many_requests", retry_after=1)
            await self._inside(scope, headers, receive, answer)
        except Exception as error:
            found = as_api_error(error)
            scope["qwill.error"] = found.message
            if found.status_code == 500:
                scope["qwill.exception"] = error
            if not status:
                await errors.response(found, scope["path"], request_id)(scope, receive, answer)
        finally:
            self.open -= 1
            self._log(scope, request_id, status, time.monotonic() - began)

    async def _inside(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        settings, path = self.service.settings, scope["path"]
        if not settings.needs_key:
            _check_host(headers.get("host", ""))
        file = self.page(path) if scope["method"] in ("GET", "HEAD") else None
        if file is not None:
            same = headers.get("if-none-match") == file.headers.get("ETag")
            body = b"" if same or scope["method"] == "HEAD" else file.body
            await Response(body, 304 if same else 200, headers=file.headers)(scope, receive, send)
            return
        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if settings.needs_key and path not in OPEN_PATHS and not preflight:
            scope["qwill.caller"] = await self._caller(headers)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > settings.body_bytes:
            raise _too_large(settings.body_bytes)
        await self.app(scope, _limited(receive, settings.body_bytes, settings.upload_seconds), send)

    async def _caller(self, headers: Headers) -> Caller:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        challenge = {"WWW-Authenticate": "Bearer"}
        if not secret:
            text = "An API key is needed: send it as `Authorization: Bearer KEY`."
            raise ApiError(401, text, code="missing_api_key", headers=challenge)
        from qwill.serve.keys import find_key
        from qwill.serve.limits import Meter

        key = await asyncio.to_thread(find_key, self.service.state, secret)
        if key is None:
            text = "This API key is wrong, revoked or out of date; `qwill serve keys create` makes a new one."
            raise ApiError(401, text, code="invalid_api_key", headers=challenge)
        return Caller(key, self.meters.setdefault(key.id, Meter(key.limits)))

    def _log(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        caller, route = scope.get("qwill.caller"), scope.get("route")
        handler = getattr(route, "path", "none")
        self.service.metrics.http.labels(scope["method"] if route else "other", handler, str(status)).inc()
        fields: dict[str, Any] = {
            "id": request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status or 499,  # the client left before an answer
            "seconds": round(seconds, 4),
            "key": caller.key.id if caller else None,
            "error": scope.get("qwill.error"),
            **scope.get("qwill.fields", {}),
        }
        shown = {name: value for name, value in fields.items() if value is not None}
        exception = scope.get("qwill.exception")
        if exception is not None:
            log.error("request", extra={"fields": shown}, exc_info=exception)
        else:
            log.info("request", extra={"fields": shown})


def _id(given: str | None) -> str:
    """The client's own id where it is one that a log can hold, else a new one."""
    if given and len(given) <= 128 and given.isascii() and all(c.isalnum() or c in "-_.:" for c in given):
        return given
    return "req_" + secrets.token_hex(12)


def _check_host(host: str) -> None:
    """Without keys only this machine's names are answered: a page on the web can point its own name here, and would
    then be let in by the browser."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name.strip("[]").lower() not in LOCAL_NAMES:
        text = f"This server answers to localhost, not to {host!r:.100}; start it with --api-key-required."
        raise ApiError(421, text, code="wrong_host")


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The body is larger than {limit:,} bytes, the most that this server takes.", code="too_large")


def _limited(receive: Receive, most: int, seconds: float) -> Receive:
    """`receive` that ends a body which is too large or too slow. Raises ApiError 413, 408."""
    got, complete, began = 0, False, time.monotonic()

    async def limited() -> Message:
        nonlocal got, complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout(max(0.01, seconds - (time.monotonic() - began))):
                message = await receive()
        except TimeoutError:
            text = f"The body was not there after {seconds:g} s."
            raise ApiError(408, text, code="timeout", headers={"Connection": "close"}) from None
        if message["type"] == "http.request":
            got += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if got > most:
                raise _too_large(most)
        return message

    return limited


def parse_json(body: bytes) -> Any:
    """JSON as the standard has it, without NaN. Raises ApiError 400 saying where it breaks."""

    def refuse(name: str) -> Any:
        raise ApiError(400, f"The body is not JSON: {name} is not a number that JSON knows.", code="invalid_json")

    try:
        value = json.loads(body, parse_constant=refuse)
        if _ESCAPED.search(body):
            # Half a character, which JSON can spell and UTF-8 can't: what a client cut off is a replacement mark.
            text = json.dumps(value, ensure_ascii=False)
            value = json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
        return value
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.", code="invalid_json") from None
    except UnicodeDecodeError:
        raise ApiError(400, "The body is not UTF-8.", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"The body is not JSON: {error}.", code="invalid_json") from None
