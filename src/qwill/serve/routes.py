"""What the declaration of every route has in common, so that the OpenAPI description says what really happens."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

from qwill.serve.access import parse_json
from qwill.serve.errors import ErrorResponse


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


class StrictRoute(APIRoute):
    """A route whose body is read as strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strictly


def new_router(**more: Any) -> APIRouter:
    return APIRouter(route_class=StrictRoute, **more)


def failures(error: type[BaseModel] = ErrorResponse) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors."""
    return {
        "4XX": {"model": error, "description": "What is wrong, and with which field."},
        "5XX": {"model": error, "description": "The server can't answer now."},
    }


def answers(
    whole: type[BaseModel],
    chunk: type[BaseModel] | None = None,
    error: type[BaseModel] = ErrorResponse,
    status: int = 200,
) -> dict[str, Any]:
    """Keyword arguments for a route: its answer, the data of its stream's events, and the errors' shape."""
    success: dict[str, Any] = {"model": whole, "description": whole.__doc__ or "The answer."}
    if chunk is not None:
        text = "With `stream`: events, each with data of this shape."
        success["content"] = {
            "text/event-stream": {
                "schema": {"type": "string"},
                "x-event-data": {"$ref": f"#/components/schemas/{chunk.__name__}"},
            }
        }
        success["description"] += " " + text
    return {"response_model": None, "status_code": status, "responses": {status: success, **failures(error)}}
