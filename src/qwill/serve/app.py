"""The FastAPI application over a `Service`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from qwill import __version__
from qwill.base.errors import QwillError
from qwill.serve import chat_completions, errors, health, models
from qwill.serve.access import Front
from qwill.serve.service import Service


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
    for kind in (HTTPException, RequestValidationError, QwillError):
        app.add_exception_handler(kind, errors.handle)
    for module in (chat_completions, models, health):
        app.include_router(module.router)
    return Front(app, service)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.service.close()
