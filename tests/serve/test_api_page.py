"""docs/en/api.md says all that the server has: routes, fields, errors, limits; and its requests are taken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from serving import Server

import qwill.serve
from qwill.base.state import open_state
from qwill.serve.adapters import LoadAdapter, UnloadAdapter
from qwill.serve.app import make_app
from qwill.serve.arena_routes import NewBattle, NewTurn, NewVote
from qwill.serve.chat_schema import ChatRequest
from qwill.serve.completions import CompletionRequest
from qwill.serve.embeddings import EmbeddingRequest
from qwill.serve.fields import StructuredOutputs
from qwill.serve.messages_schema import MessagesRequest
from qwill.serve.responses_schema import ResponsesRequest
from qwill.serve.service import Service
from qwill.serve.settings import ArenaSettings, ServeSettings
from qwill.serve.tokens import DetokenizeRequest, TokenizeChat, TokenizeText

PAGE = (Path(__file__).parents[2] / "docs/en/api.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.S))
NAMED = set(re.findall(r"[\w/{}.\-]+", " ".join(SPANS)))
BODIES: list[type[BaseModel]] = [
    ChatRequest, CompletionRequest, ResponsesRequest, MessagesRequest, EmbeddingRequest, StructuredOutputs,
    LoadAdapter, UnloadAdapter, NewBattle, NewTurn, NewVote, TokenizeText, TokenizeChat, DetokenizeRequest,
]  # fmt: skip


def test_every_route_is_there(tmp_path: Path) -> None:
    settings = ServeSettings(arena=ArenaSettings())
    app = make_app(Service([], settings, state=open_state(f"sqlite:///{tmp_path / 'state.db'}"))).app  # type: ignore[attr-defined]
    assert isinstance(app, FastAPI)
    served = app.openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in served.items() for method in methods}
    told = {span for span in SPANS if re.match(r"[A-Z]+ /", span)}
    assert told == routes | {"GET /openapi.json"}


@pytest.mark.parametrize("body", BODIES)
def test_every_field_is_there(body: type[BaseModel]) -> None:
    names = {field.alias or name for name, field in body.model_fields.items()}
    assert names <= NAMED, f"docs/en/api.md lacks {sorted(names - NAMED)} of {body.__name__}"


def test_every_code_of_an_error_is_there() -> None:
    folder = Path(qwill.serve.__file__).parent
    codes = {code for path in folder.glob("*.py") for code in re.findall(r'\bcode="(\w+)"', path.read_text("utf-8"))}
    assert len(codes) > 15 and codes <= NAMED, sorted(codes - NAMED)


def test_the_defaults_are_those_that_hold() -> None:
    settings = ServeSettings()
    for text in (
        f"{settings.body_bytes >> 20} MiB",
        f"{settings.seconds:g} s",
        f"{settings.waiting}",
        f"{settings.upload_seconds:g} s",
    ):
        assert re.search(rf"^\|.*\| {text} \|", PAGE, re.M), text
    assert f"| {settings.drain:g} s | `--drain`" in PAGE


ASKED = re.findall(r"curl (?:-N )?http://127\.0\.0\.1:8000(\S+) .*?-d '(.*?)'\n", PAGE, re.S)


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_its_requests_are_answered(server: Server, number: int) -> None:
    path, text = ASKED[number]
    body: dict[str, Any] = json.loads(text) | {"model": "tiny"}
    answer = server.post(path, body)
    shown = re.findall(r"```json\n(\{.*?\})\n```", PAGE, re.S)
    assert len(ASKED) == 3 and len(shown) == 2
    if answer.status_code == 400:
        assert answer.json() == json.loads(shown[1])
    else:
        assert answer.status_code == 200
        if not body.get("stream"):
            assert answer.json().keys() == json.loads(shown[0]).keys()
