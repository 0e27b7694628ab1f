"""The page's history over HTTP. JSON both ways; a key's tenant sees its own conversations only.

    GET    /qwill/conversations?search=TEXT&limit=50&before=ID
           → {"data": [{id, title, created_at, updated_at, snippet}], "has_more": bool}, latest first;
             `before`: the last conversation that was listed; `snippet`: null where no message has a word of `search`
    POST   /qwill/conversations {title, settings} → 201 {id, title, settings, created_at, updated_at}
    GET    /qwill/conversations/ID → the same and "messages": [message…], all branches, oldest first
    PATCH  /qwill/conversations/ID {title?, settings?} → the conversation
    DELETE /qwill/conversations/ID → 204
    POST   /qwill/conversations/ID/messages
           {role: user|assistant|tool, content, parents: [ID…], reasoning, tool_calls, tool_call_id, model, details}
           → 201 the message: these fields (all but role may be left out), id and created_at
    GET    /qwill/conversations/ID/export?leaf=ID → JSON lines, {"messages": [...]} for each branch or that one
    GET    /qwill/export → the same of all conversations

Times are Unix seconds. `settings` and `details` are the page's own objects (`settings.system` is the system prompt,
`details.lane` the column of a reply side by side). Errors have OpenAI's shape: 400 names the field, 404 the id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from qwill.base.state import State
from qwill.serve import conversations as history
from qwill.serve.routes import failures, new_router

UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
Identity = Annotated[str, Path(pattern=UUID)]
Reference = Annotated[str, Field(pattern=UUID)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewConversation(_Body):
    title: str = Field("", max_length=history.TITLE)
    settings: dict[str, Any] = {}


class ConversationChange(_Body):
    title: str | None = Field(None, max_length=history.TITLE)
    settings: dict[str, Any] | None = None


class NewMessage(_Body):
    role: Literal["user", "assistant", "tool"]
    content: str | None = None
    parents: list[Reference] = Field([], max_length=64)
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    model: str | None = Field(None, max_length=500)
    details: dict[str, Any] = {}


class Listed(BaseModel):
    id: str
    title: str
    created_at: float
    updated_at: float
    snippet: str | None = None


class Listing(BaseModel):
    data: list[Listed]
    has_more: bool


class Conversation(BaseModel):
    id: str
    title: str
    settings: dict[str, Any]
    created_at: float
    updated_at: float


class Message(BaseModel):
    id: str
    parents: list[str]
    role: str
    content: str | None
    reasoning: str | None
    tool_calls: list[dict[str, Any]] | None
    tool_call_id: str | None
    model: str | None
    details: dict[str, Any]
    created_at: float


class WholeConversation(Conversation):
    messages: list[Message]


def conversation_routes(state: State, tenant_of: Callable[[Request], str]) -> APIRouter:
    """The routes above on `state`. tenant_of: whose conversations a request may see; raises where it may see none."""
    router = new_router(prefix="/qwill", tags=["page"], responses=failures())

    @router.get("/conversations", response_model=Listing)
    def ls(
        request: Request,
        search: str = "",
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[str | None, Query(pattern=UUID)] = None,
    ) -> Any:
        data, more = history.list_conversations(state, tenant_of(request), search, limit, before)
        return {"data": data, "has_more": more}

    @router.post("/conversations", status_code=201, response_model=Conversation)
    def create(request: Request, body: NewConversation) -> Any:
        return history.new_conversation(state, tenant_of(request), body.title, body.settings)

    @router.get("/export", response_class=StreamingResponse)
    def export_all(request: Request) -> Any:
        return _json_lines(history.export_all(state, tenant_of(request)), "conversations")

    @router.get("/conversations/{identity}", response_model=WholeConversation)
    def read(request: Request, identity: Identity) -> Any:
        return _there(identity, history.read_conversation(state, tenant_of(request), identity))

    @router.patch("/conversations/{identity}", response_model=Conversation)
    def change(request: Request, identity: Identity, body: ConversationChange) -> Any:
        changed = history.change_conversation(state, tenant_of(request), identity, body.title, body.settings)
        return _there(identity, changed)

    @router.delete("/conversations/{identity}", status_code=204)
    def remove(request: Request, identity: Identity) -> None:
        _there(identity, history.delete_conversation(state, tenant_of(request), identity) or None)

    @router.post("/conversations/{identity}/messages", status_code=201, response_model=Message)
    def add(request: Request, identity: Identity, body: NewMessage) -> Any:
        said = body.model_dump(include={"content", "reasoning", "tool_calls", "tool_call_id"}, exclude_none=True)
        added = history.add_message(
            state, tenant_of(request), identity, body.role, said, body.parents, body.model, body.details
        )
        return _there(identity, added)

    @router.get("/conversations/{identity}/export", response_class=StreamingResponse)
    def export(request: Request, identity: Identity, leaf: Annotated[str | None, Query(pattern=UUID)] = None) -> Any:
        lines = _there(identity, history.export_conversation(state, tenant_of(request), identity, leaf))
        return _json_lines(lines, identity)

    return router


def _there(identity: str, found: Any) -> Any:
    if found is None:
        raise HTTPException(404, f"There is no conversation {identity} here; it may have been deleted.")
    return found


def _json_lines(lines: Iterable[dict[str, Any]], name: str) -> StreamingResponse:
    def text() -> Iterator[str]:
        for line in lines:
            yield json.dumps(line, ensure_ascii=False) + "\n"

    headers = {"Content-Disposition": f'attachment; filename="{name}.jsonl"'}
    return StreamingResponse(text(), media_type="application/x-ndjson", headers=headers)
