"""What GET /v1/models says: vLLM's, and Ray Serve's, which tells less and names adapters MODEL:ADAPTER."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwill.base.errors import ModelError


@dataclass(frozen=True)
class Listing:
    """`model`: its name there. `context`: None where it is not told. `adapters`: {name here: name there}. `folders`:
    {name here: folder}, as far as told. `ray`: whether it is Ray Serve's."""

    model: str
    context: int | None
    adapters: Mapping[str, str]
    folders: Mapping[str, str]
    ray: bool


def read_listing(listed: Sequence[Mapping[str, Any]], name: str, url: str) -> Listing:
    """`listed`: the entries; `name`: what the model is called here, and may be there.

    Raises `ModelError` where it is not plain which of several models is meant.
    """
    own = [entry for entry in listed if _parent(entry) is None]
    named = [entry for entry in own if entry["id"] == name] or own
    if len(named) != 1:
        there = ", ".join(entry["id"] for entry in own) or "no model"
        raise ModelError(f"the server at {url} has {there}, and none is called {name}; give it as NAME=FOLDER.")
    model = str(named[0]["id"])
    context = named[0].get("max_model_len") or _metadata(named[0]).get("max_request_context_length")
    adapters, folders = {}, {}
    for entry in listed:
        if (parent := _parent(entry)) is None or (parent != model and len(own) > 1):
            continue
        there = str(entry["id"])
        here = there if entry.get("parent") else there.removeprefix(f"{parent}:")
        adapters[here] = there
        folders[here] = str(entry.get("root") or _metadata(entry).get("bucket_uri") or there)
    return Listing(model, context, adapters, folders, ray=bool(_metadata(named[0])))


def _parent(entry: Mapping[str, Any]) -> str | None:
    """The model that an adapter belongs to."""
    return entry.get("parent") or _metadata(entry).get("base_model_id")


def _metadata(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What Ray Serve tells of a model, which vLLM does not."""
    found = entry.get("metadata")
    return found if isinstance(found, dict) else {}
