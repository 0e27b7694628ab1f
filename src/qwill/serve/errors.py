"""Every error as the client expects it: OpenAI's shape, or Anthropic's under /v1/messages; never a framework's own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from qwill.base.errors import QwillError, StateError

log = logging.getLogger("qwill.serve")
ANTHROPIC_PATH = "/v1/messages"
# OpenAI's `type` and Anthropic's `type` of each status.
TYPES = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    408: ("timeout_error", "timeout_error"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "invalid_request_error"),
    421: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"),
    500: ("server_error", "api_error"),
    503: ("server_error", "overloaded_error"),
}


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """What every status from 400 on answers."""

    error: ErrorBody


class AnthropicErrorBody(BaseModel):
    type: str
    message: str


class AnthropicErrorResponse(BaseModel):
    """What every status from 400 on answers on /v1/messages."""

    type: str
    error: AnthropicErrorBody
    request_id: str | None


class ClientGone(Exception):
    """The client has closed the connection; no one is there to answer."""


class ApiError(HTTPException):
    """A sentence for the client: status, the field meant (`messages[0].content`), OpenAI's `type` and `code`."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        type: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        headers = dict(headers or {})
        if retry_after is not None:
            headers["Retry-After"] = str(retry_after)
        super().__init__(status, message, headers)
        self.message, self.param, self.code = message, param, code
        self.type = type or _types(status)[0]

    def openai(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def anthropic(self, request_id: str | None = None) -> dict[str, Any]:
        where = f"{self.param}: " if self.param and self.param not in self.message else ""
        error = {"type": _types(self.status_code)[1], "message": where + self.message}
        return {"type": "error", "error": error, "request_id": request_id}


def _types(status: int) -> tuple[str, str]:
    return TYPES.get(status, TYPES[500] if status >= 500 else TYPES[400])


def as_api_error(error: BaseException) -> ApiError:
    """The answer to any exception; a bug is 500 and says nothing of what is inside."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return invalid(error.errors(), error.body)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {}))
    if isinstance(error, StateError):
        log.warning("state", extra={"fields": {"error": str(error)}})  # where it lies is not for the client
        return ApiError(503, "The database of keys and conversations does not answer; try again.", retry_after=2)
    if isinstance(error, QwillError):
        return ApiError(400, str(error))
    if isinstance(error, RecursionError):  # nothing here recurses but over what a client has nested
        return ApiError(400, "The request is nested too deeply; make it flatter.", code="invalid_value")
    return ApiError(500, "The server met an error of its own; the request id finds it in the server's log.")


def response(error: ApiError, path: str, request_id: str | None) -> JSONResponse:
    shown = error.anthropic(request_id) if path.startswith(ANTHROPIC_PATH) else error.openai()
    return JSONResponse(shown, error.status_code, headers=error.headers)


async def handle(request: Request, error: Exception) -> Response:
    """FastAPI's exception handler."""
    if isinstance(error, ClientGone):
        return Response(status_code=499)  # as nginx has it in its logs; nobody reads this
    answer = as_api_error(error)
    if answer.message == "Not Found":  # the framework's own words
        answer.message = f"Nothing is at {request.url.path!r:.200}; GET /openapi.json lists what is served."
    elif answer.message == "Method Not Allowed":
        allowed = ", ".join(_methods(request))
        answer.headers = {"Allow": allowed}
        answer.message = f"{request.url.path:.200} takes {allowed}, not {request.method:.20}."
    request.scope["qwill.error"] = answer.message
    return response(answer, request.url.path, request.scope.get("qwill.id"))


def _methods(request: Request) -> list[str]:
    """What may be done at the path of a request, by all of its routes; the framework names the first one's."""
    scopes = [{**request.scope, "method": method} for method in ("DELETE", "GET", "PATCH", "POST", "PUT")]
    return [s["method"] for s in scopes if any(r.matches(s)[0] == Match.FULL for r in request.app.routes)]


def invalid(found: Sequence[Any], body: Any) -> ApiError:
    """One sentence for what pydantic found: of several, that which got deepest into the body."""
    if not found:
        return ApiError(400, "The request is not valid.")
    paths = [_path(one["loc"], body, one["type"]) for one in found]
    # Of a union's members that was probably meant whose type the value has, and then the one with the fewest
    # complaints, or whose first comes last.
    members = [tuple(part for part in one["loc"] if isinstance(part, str) and "[" in part) for one in found]

    def meant(i: int) -> tuple[int, bool, int, list[int]]:
        fits = not found[i]["type"].endswith(("_type", "missing"))
        return len(paths[i]), fits, -members.count(members[i]), [part for part in paths[i] if isinstance(part, int)]

    place = max(range(len(found)), key=meant)
    best, path = found[place], paths[place]
    where = best["loc"][0] if best["loc"] else "body"
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or None
    if best["type"] == "missing" and not path:
        return ApiError(400, "The request has no body: send a JSON object.")
    if where == "body" and isinstance(body, bytes):
        return ApiError(415, "The body must be JSON: set the header Content-Type: application/json.")
    message = best["msg"][:1].lower() + best["msg"][1:]
    if best["type"] == "missing":
        return ApiError(400, f"{param} is required and missing.", param, code="missing_required_parameter")
    shown = repr(best.get("input"))
    given = f" (given: {shown[:80]}{'…' if len(shown) > 80 else ''})"
    return ApiError(400, f"{param or 'The body'}: {message}{given}.", param, code="invalid_value")


def _path(loc: Sequence[Any], body: Any, kind: str) -> list[str | int]:
    """The parts of a location that are names and places in the body; pydantic mixes names of union members in."""
    path: list[str | int] = []
    current = body
    if loc[:1] != ("body",):  # of the query, which has no members
        return [part for part in loc[1:] if isinstance(part, str | int)]
    for i, part in enumerate(loc[1:], start=2):
        if (isinstance(current, dict) and part in current) or (
            isinstance(current, list) and isinstance(part, int) and 0 <= part < len(current)
        ):
            current = current[part]
        elif not (kind == "missing" and i == len(loc)):
            continue
        path.append(part)
    return path


def unknown_model(name: str, known: Sequence[str]) -> ApiError:
    """404 as OpenAI's, with what there is."""
    there = ", ".join(known[:20])
    return ApiError(
        404, f"The model {name!r:.200} does not exist here; there is {there}.", "model", code="model_not_found"
    )
