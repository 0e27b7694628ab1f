"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them; off unless the server was started with
--allow-adapter-loading, because the client names a folder on this machine."""

from __future__ import annotations

from typing import Literal

from fastapi import Request

from qwill.base.errors import DataError
from qwill.serve.access import service_of
from qwill.serve.client import EngineDied
from qwill.serve.errors import ApiError, unknown_model
from qwill.serve.fields import Body, Name
from qwill.serve.routes import answers, new_router
from qwill.serve.service import ServedModel, Service
from qwill.serve.shapes import Answer

router = new_router()


class LoadAdapter(Body):
    lora_name: Name
    lora_path: Name
    model: Name | None = None


class UnloadAdapter(Body):
    lora_name: Name


class AdapterState(Answer):
    """The adapter is there, or no longer there."""

    lora_name: str
    status: Literal["loaded", "unloaded"]


@router.post("/v1/load_lora_adapter", **answers(AdapterState))
async def load_lora_adapter(body: LoadAdapter, request: Request) -> dict[str, str]:
    """Serve an adapter under a name of its own."""
    service = _allowed(service_of(request))
    name = body.lora_name
    if name in service.names:
        raise ApiError(400, f"The name {name!r} is taken by a model or an adapter; unload it first.", "lora_name")
    model = next(iter(service.models.values())) if body.model is None else service.find(body.model).model
    await _changed(model, "load", name, body.lora_path)
    return {"lora_name": name, "status": "loaded"}


@router.post("/v1/unload_lora_adapter", **answers(AdapterState))
async def unload_lora_adapter(body: UnloadAdapter, request: Request) -> dict[str, str]:
    """Stop serving an adapter; replies that are being made with it are finished."""
    service = _allowed(service_of(request))
    for model in service.models.values():
        if body.lora_name in model.client.adapters:
            await _changed(model, "unload", body.lora_name)
            return {"lora_name": body.lora_name, "status": "unloaded"}
    raise unknown_model(body.lora_name, [name for m in service.models.values() for name in m.client.adapters])


def _allowed(service: Service) -> Service:
    if not service.settings.adapter_loading:
        text = "This server does not change its adapters at run time; start it with --allow-adapter-loading."
        raise ApiError(403, text, code="not_allowed")
    return service


async def _changed(model: ServedModel, what: str, name: str, folder: str = "") -> None:
    try:
        if what == "load":
            await model.client.load_adapter(name, folder)
        else:
            await model.client.unload_adapter(name)
    except DataError as error:
        raise ApiError(400, str(error), "lora_path" if what == "load" else "lora_name") from error
    except EngineDied as error:
        raise ApiError(503, str(error), code="engine_unavailable", retry_after=3) from error
