"""The FastAPI application over a `Service`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from qwill import __version__
from qwill.base.errors import QwillError
from qwill.serve import (
    adapters,
    chat_completions,
    completions,
    embeddings,
    errors,
    health,
    messages,
    models,
    responses,
    tokens,
)  # fmt: skip
from qwill.serve.access import Front, tenant_of
from qwill.serve.openapi import describe
from qwill.serve.service import Service

MODULES = (chat_completions, completions, responses, messages, embeddings, tokens, models, adapters, health)


def make_app(service: Service) -> ASGIApp:
    """Everything that is served. The caller starts the service's engines (`service.start`) and closes them."""
    app = FastAPI(
        title="Qwill",
        version=__version__,
        description="An OpenAI-compatible server of Qwen models.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.service = service
    for kind in (HTTPException, RequestValidationError, QwillError, errors.ClientGone, Exception):
        app.add_exception_handler(kind, errors.handle)
    for module in MODULES:
        app.include_router(module.router)
    if service.state is not None:
        from qwill.serve.page_routes import conversation_routes

        app.include_router(conversation_routes(service.state, tenant_of))
        if service.settings.arena is not None:
            from qwill.serve.arena_routes import arena_routes

            app.include_router(arena_routes(service.state, service.settings.arena))
    describe(app, service.settings.needs_key)
    inner: ASGIApp = app
    if service.settings.origins:
        inner = CORSMiddleware(
            app, allow_origins=service.settings.origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )  # fmt: skip
    return Front(inner, service, _page(service))


def _page(service: Service) -> Callable[[str], Any]:
    if not service.settings.page or find_spec("qwill.serve.page_files") is None:
        return lambda path: None
    from qwill.serve.page_files import page_file

    return page_file


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    arena, purging = service.settings.arena, None
    if service.state is not None and arena is not None and arena.keep_days is not None:
        from qwill.serve.arena_purge import keep_purging

        purging = asyncio.create_task(keep_purging(service.state, arena.keep_days))
    yield
    if purging is not None:
        purging.cancel()
    await service.close()
