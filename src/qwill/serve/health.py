"""GET /health, /metrics, /version, and the page's /qwill/stats."""

from __future__ import annotations

import asyncio
from functools import reduce
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from qwill import __version__
from qwill.serve.access import service_of
from qwill.serve.metrics import CONTENT_TYPE, merged
from qwill.serve.routes import answers, new_router
from qwill.serve.shapes import Answer

router = new_router()


class Health(Answer):
    """`ok` when every model's engine runs; with status 503 `starting` or `stopping`."""

    status: Literal["ok", "starting", "stopping"]


class Version(Answer):
    """The version of qwill."""

    version: str


HEALTH: dict[int | str, dict[str, Any]] = {200: {"model": Health}, 503: {"model": Health}}


@router.get("/health", responses=HEALTH)
@router.get("/ping", responses=HEALTH, include_in_schema=False)
async def health(request: Request) -> Response:
    """Whether the server can answer."""
    service = service_of(request)
    if service.stopping:
        return JSONResponse({"status": "stopping"}, 503)
    alive = all(model.client.alive for model in service.models.values())
    return JSONResponse({"status": "ok" if alive else "starting"}, 200 if alive else 503)


@router.get("/version", **answers(Version))
async def version() -> dict[str, Any]:
    """The version of qwill."""
    return {"version": __version__}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Prometheus metrics, under vLLM's names."""
    service = service_of(request)
    own = await asyncio.gather(*(model.client.own_metrics() for model in service.models.values()))
    text = service.metrics.text(service.models.values()).decode()
    return Response(reduce(merged, own, text), media_type=CONTENT_TYPE)


class Stats(Answer):
    """How the first model's engine stands; rates are those of the last few seconds. arena: there is one here."""

    model: str
    tokens_per_second: float
    prompt_tokens_per_second: float
    running: int
    waiting: int
    cache_used: int
    cache_total: int
    cached_tokens: int
    arena: bool


@router.get("/qwill/stats", **answers(Stats))
async def stats(request: Request) -> dict[str, Any]:
    """What the page shows of the engine."""
    service = service_of(request)
    model = next(iter(service.models.values()))
    found = model.client.stats
    generated, prompts = service.metrics.rates(model.name)
    return {
        "model": model.name,
        "tokens_per_second": generated,
        "prompt_tokens_per_second": prompts,
        "running": found.running,
        "waiting": max(found.waiting, model.in_flight - found.running),
        "cache_used": found.blocks_total - found.blocks_free,
        "cache_total": found.blocks_total,
        "cached_tokens": found.cached_tokens,
        "arena": service.settings.arena is not None,
    }
