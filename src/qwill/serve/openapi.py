"""The OpenAPI description: what FastAPI derives from the routes, with the events of streams and the need of a key."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from qwill.serve.access import OPEN_PATHS
from qwill.serve.chat_schema import ChatCompletionChunk
from qwill.serve.messages_schema import MessageEvent
from qwill.serve.responses_schema import ResponseEvent

EVENTS = (ChatCompletionChunk, MessageEvent, ResponseEvent)
METHODS = ("get", "post", "patch", "delete", "put")


def describe(app: FastAPI, needs_key: bool) -> None:
    """Complete what `app.openapi()` gives."""
    derived = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = derived()
        template = "#/components/schemas/{model}"
        _, more = models_json_schema([(model, "serialization") for model in EVENTS], ref_template=template)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {}).update(more.get("$defs", {}))
        if needs_key:
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    if method in METHODS and path not in OPEN_PATHS:
                        operation["security"] = [{"bearer": []}, {"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
