"""GET /v1/models: the models and the adapters that are loaded."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import Request

from qwill.serve.access import service_of
from qwill.serve.routes import answers, new_router
from qwill.serve.service import Target
from qwill.serve.shapes import Answer

router = new_router()


class Model(Answer):
    """A model, or an adapter on the model that `parent` names."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelList(Answer):
    """All models, adapters among them."""

    object: Literal["list"]
    data: list[Model]


@router.get("/v1/models", **answers(ModelList))
async def list_models(request: Request) -> dict[str, Any]:
    """The models that requests may name."""
    service = service_of(request)
    return {"object": "list", "data": [_model(service.find(name)) for name in service.names]}


@router.get("/v1/models/{model:path}", **answers(Model))
async def retrieve_model(model: str, request: Request) -> dict[str, Any]:
    """One model."""
    return _model(service_of(request).find(model))


def _model(target: Target) -> dict[str, Any]:
    adapter = target.adapter
    return {
        "id": target.name,
        "object": "model",
        "created": target.model.created,
        "owned_by": "qwill",
        "root": adapter or target.model.reference or target.model.name,
        "parent": target.model.name if adapter else None,
        "max_model_len": target.info.context,
    }
