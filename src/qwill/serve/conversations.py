"""The page's history: conversations and their messages, in the state database; each tenant sees its own.

Messages never change. What is edited or asked again is a sibling: a message names the messages it follows (`parents`),
so that a conversation is a graph whose paths are its branches; a message after two replies side by side follows both.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from qwill.base.errors import DataError
from qwill.base.state import State, reading, writing
from qwill.base.state_rows import Row, delete, get, insert, rows, table, update

TITLE, OBJECT, MESSAGE = 500, 256 * 1024, 2 * 1024 * 1024  # most characters of a title, bytes of JSON
DEPTH = 64  # of nested lists and objects; what is read back must be written as JSON by others
SEARCH_WORDS, SEARCH_CHARACTERS = 8, 200
_SNIPPET = 40  # characters before and behind what was searched for

conversations = table(
    "conversations",
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("search", sa.Text, nullable=False),
    emptied={"title": "", "settings": {}, "search": ""},
)
sa.Index("conversations_latest", conversations.c.tenant, conversations.c.changed, conversations.c.id)

messages = table(
    "messages",
    sa.Column("conversation", sa.String(36), sa.ForeignKey("conversations.id"), nullable=False),
    sa.Column("parents", sa.JSON, nullable=False),
    sa.Column("role", sa.String(20), nullable=False),
    sa.Column("message", sa.JSON, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Column("search", sa.Text, nullable=False),
    emptied={"message": {}, "model": None, "details": {}, "search": ""},
)
sa.Index("messages_conversation", messages.c.conversation, messages.c.id)


def new_conversation(state: State, tenant: str, title: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    with writing(state) as db:
        return _shown(insert(db, conversations, tenant, _values(title, settings)))


def change_conversation(
    state: State, tenant: str, identity: str, title: str | None = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """What is None stays; the result is None when there is no such conversation."""
    with writing(state) as db:
        row = update(db, conversations, tenant, identity, _values(title, settings))
    return None if row is None else _shown(row)


def delete_conversation(state: State, tenant: str, identity: str) -> bool:
    """Tombstones in place of it and its messages; False when there is no such conversation."""
    with writing(state) as db:
        if not delete(db, conversations, tenant, identity):
            return False
        for message in rows(db.connection, messages, tenant, messages.c.conversation == identity):
            delete(db, messages, tenant, message["id"])
        return True


def add_message(
    state: State,
    tenant: str,
    identity: str,
    role: str,
    message: Mapping[str, Any],
    parents: Sequence[str] = (),
    model: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Add a message behind its parents; None when there is no such conversation.

    message: `content` and what else a message has (reasoning, tool_calls, tool_call_id). Raises DataError for a parent
    that is not a message of this conversation.
    """
    parents = list(dict.fromkeys(parents))
    values = {
        "conversation": identity, "parents": parents, "role": role,
        "message": _bounded("the message", message, MESSAGE), "model": None if model is None else _storable(model),
        "details": _bounded("details", details or {}, OBJECT), "search": _folded(str(message.get("content") or "")),
    }  # fmt: skip
    with writing(state) as db:
        if get(db.connection, conversations, tenant, identity) is None:
            return None
        for parent in parents:
            found = get(db.connection, messages, tenant, parent)
            if found is None or found["conversation"] != identity:
                raise DataError(f"parents: {parent[:50]!r} is no message of this conversation.")
        row = insert(db, messages, tenant, values)
        update(db, conversations, tenant, identity, {})  # the latest conversation is listed first
        return _shown_message(row)


def read_conversation(state: State, tenant: str, identity: str) -> dict[str, Any] | None:
    """The conversation with all its messages, oldest first; None when there is none."""
    with reading(state) as connection:
        found = get(connection, conversations, tenant, identity)
        if found is None:
            return None
        there = rows(connection, messages, tenant, messages.c.conversation == identity)
    return _shown(found) | {"messages": [_shown_message(row) for row in there]}


def list_conversations(
    state: State, tenant: str, search: str = "", limit: int = 50, before: str | None = None
) -> tuple[list[dict[str, Any]], bool]:
    """(conversations, whether there are more), latest change first, those after `before` in that order.

    search: each of its words must stand in the title or in a message; upper and lower case, full and half width are
    the same, and a word is found within words, as Chinese needs it. Raises DataError when there is no `before`.
    """
    if len(search) > SEARCH_CHARACTERS:
        raise DataError(f"search: {len(search)} characters; expected at most {SEARCH_CHARACTERS}.")
    words = _folded(search).split()[:SEARCH_WORDS]
    c = conversations.c
    query = conversations.select().where(c.tenant == tenant, c.deleted.is_(None))
    for word in words:
        with_it = sa.select(messages.c.conversation).where(
            messages.c.tenant == tenant, messages.c.deleted.is_(None), messages.c.search.contains(word, autoescape=True)
        )
        query = query.where(c.search.contains(word, autoescape=True) | c.id.in_(with_it))
    with reading(state) as connection:
        if before is not None:
            last = connection.execute(conversations.select().where(c.tenant == tenant, c.id == before)).one_or_none()
            if last is None:
                raise DataError(f"before: there is no conversation {before[:50]!r}.")
            query = query.where((c.changed < last.changed) | (c.changed == last.changed) & (c.id < last.id))
        found = connection.execute(query.order_by(c.changed.desc(), c.id.desc()).limit(limit + 1)).all()
        listed = []
        for row in found[:limit]:
            one = _shown(dict(row._mapping))
            del one["settings"]
            if words:
                one["snippet"] = _snippet(connection, tenant, row.id, words)
            listed.append(one)
    return listed, len(found) > limit


def export_conversation(
    state: State, tenant: str, identity: str, leaf: str | None = None
) -> list[dict[str, Any]] | None:
    """`{"messages": [...]}` for each branch, or for the one that ends in `leaf`; None when there is no conversation.

    The form that `qwill sft` reads: the system prompt first (settings.system), `reasoning_content`, tool calls whose
    arguments are objects. Raises DataError when `leaf` is no message of it.
    """
    whole = read_conversation(state, tenant, identity)
    if whole is None:
        return None
    there = {message["id"]: message for message in whole["messages"]}
    if leaf is not None and leaf not in there:
        raise DataError(f"leaf: {leaf[:50]!r} is no message of this conversation.")
    followed = {parent for message in there.values() for parent in message["parents"]}
    leaves = [leaf] if leaf is not None else [one for one in there if one not in followed]
    system = whole["settings"].get("system")
    opening = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    return [{"messages": opening + [_exported(m) for m in _branch(there, there[one])]} for one in leaves]


def export_all(state: State, tenant: str) -> Iterator[dict[str, Any]]:
    """Every branch of every conversation, the oldest conversation first."""
    with reading(state) as connection:
        identities = [row["id"] for row in rows(connection, conversations, tenant)]
    for identity in identities:
        yield from export_conversation(state, tenant, identity) or []


def _branch(there: Mapping[str, dict[str, Any]], leaf: dict[str, Any]) -> list[dict[str, Any]]:
    """From the first message to `leaf`. Of several parents the one of the leaf's own lane or model is followed."""
    path = [leaf]
    while parents := [there[parent] for parent in path[-1]["parents"] if parent in there]:
        lane = leaf["details"].get("lane")
        own = [p for p in parents if lane is not None and p["details"].get("lane") == lane]
        own = own or [p for p in parents if leaf["model"] is not None and p["model"] == leaf["model"]]
        path.append((own or parents)[0])
    return path[::-1]


def _exported(message: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message["role"], "content": message["content"] or ""}
    if message["reasoning"]:
        out["reasoning_content"] = message["reasoning"]
    if message["tool_calls"]:
        out["tool_calls"] = [_with_object(call) for call in message["tool_calls"]]
    if message["tool_call_id"]:
        out["tool_call_id"] = message["tool_call_id"]
    return out


def _with_object(call: Any) -> Any:
    """OpenAI's wire has a call's arguments as text, conversations in files as an object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _values(title: str | None, settings: Mapping[str, Any] | None) -> Row:
    values: Row = {}
    if title is not None:
        if len(title) > TITLE:
            raise DataError(f"title: {len(title)} characters; expected at most {TITLE}.")
        values |= {"title": _storable(title), "search": _folded(title)}
    if settings is not None:
        values["settings"] = _bounded("settings", settings, OBJECT)
    return values


def _bounded(what: str, value: Mapping[str, Any], most: int) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, RecursionError):
        raise DataError(
            f"{what}: nested too deep, or holds NaN, an infinite number or half of a surrogate pair; change that."
        ) from None
    level: list[Any] = [value]
    for _ in range(DEPTH):
        level = [one for v in level if isinstance(v, dict | list) for one in (v.values() if isinstance(v, dict) else v)]
    if level:
        raise DataError(f"{what}: nested deeper than {DEPTH} levels; flatten it.")
    if size > most:
        raise DataError(f"{what}: {size:,} bytes of JSON; expected at most {most:,}.")
    return dict(value)


def _storable(text: str) -> str:
    """What no text column can hold becomes the replacement character, as decoders do it."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", _storable(text)).casefold()


def _snippet(connection: sa.Connection, tenant: str, identity: str, words: Sequence[str]) -> str | None:
    """The surroundings of the first word in the earliest message that has it; None where only the title does."""
    for word in words:
        found = connection.execute(
            sa.select(messages.c.message, messages.c.search)
            .where(messages.c.conversation == identity, messages.c.tenant == tenant, messages.c.deleted.is_(None))
            .where(messages.c.search.contains(word, autoescape=True))
            .order_by(messages.c.id)
            .limit(1)
        ).one_or_none()
        if found is not None:
            text, at = str(found.message["content"]), found.search.find(word)
            text = text if len(text) == len(found.search) else found.search  # folding may change the length
            start, end = max(0, at - _SNIPPET), at + len(word) + _SNIPPET
            shown = " ".join(text[start:end].split())
            return ("…" if start else "") + shown + ("…" if end < len(text) else "")
    return None


def _shown(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"], "title": row["title"], "settings": row["settings"], "created_at": row["created"] / 1000,
        "updated_at": row["changed"] / 1000,
    }  # fmt: skip


def _shown_message(row: Row) -> dict[str, Any]:
    said = {key: row["message"].get(key) for key in ("content", "reasoning", "tool_calls", "tool_call_id")}
    return {
        "id": row["id"], "parents": row["parents"], "role": row["role"], **said, "model": row["model"],
        "details": row["details"], "created_at": row["created"] / 1000,
    }  # fmt: skip
