import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request
from tests.base.databases import KINDS, database

from qwill.base.errors import QwillError
from qwill.base.state import close_state, open_state
from qwill.serve import errors
from qwill.serve.page_routes import conversation_routes

AT = "/qwill/conversations"
NOBODY = "01a21106-d45d-758c-a1dd-6ca6e3f17551"


@pytest.fixture(params=KINDS)
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    databases = database(request.param, tmp_path)
    app = FastAPI()

    def tenant_of(asked: Request) -> str:
        return str(asked.headers.get("x-tenant", "local"))

    app.include_router(conversation_routes(open_state(next(databases)), tenant_of))
    for kind in (HTTPException, RequestValidationError, QwillError):
        app.add_exception_handler(kind, errors.handle)
    yield TestClient(app)
    next(databases, None)


def made(page: TestClient, **fields: Any) -> dict[str, Any]:
    answer = page.post(AT, json={"title": "T", **fields})
    assert answer.status_code == 201
    return answer.json()


def said(page: TestClient, identity: str, **fields: Any) -> dict[str, Any]:
    answer = page.post(f"{AT}/{identity}/messages", json={"role": "user", "content": "x", **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_conversation_from_its_beginning_to_its_end(page: TestClient) -> None:
    one = made(page, settings={"system": "Be brief."})
    assert set(one) == {"id", "title", "settings", "created_at", "updated_at"}
    question = said(page, one["id"], content="你好")
    reply = said(
        page, one["id"], role="assistant", content="Hi", parents=[question["id"]], reasoning="Hm.", model="qwen",
        tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        details={"lane": 1, "times": [0.5]},
    )  # fmt: skip
    said(page, one["id"], role="tool", content="2", tool_call_id="c", parents=[reply["id"]])
    whole = page.get(f"{AT}/{one['id']}").json()
    assert whole["messages"][:2] == [question, reply] and whole["messages"][2]["tool_call_id"] == "c"
    assert question == {
        "id": question["id"], "parents": [], "role": "user", "content": "你好", "reasoning": None, "tool_calls": None,
        "tool_call_id": None, "model": None, "details": {}, "created_at": question["created_at"],
    }  # fmt: skip
    changed = page.patch(f"{AT}/{one['id']}", json={"title": "Greetings"}).json()
    assert changed["title"] == "Greetings" and changed["settings"] == {"system": "Be brief."}
    listed = page.get(AT, params={"search": "你好"}).json()
    assert listed["has_more"] is False and listed["data"][0]["snippet"] == "你好"
    exported = page.get(f"{AT}/{one['id']}/export")
    assert exported.headers["content-disposition"] == f'attachment; filename="{one["id"]}.jsonl"'
    assert [json.loads(line)["messages"][0]["role"] for line in exported.text.splitlines()] == ["system"]
    assert "你好" in exported.text and page.get("/qwill/export").text == exported.text
    gone = page.delete(f"{AT}/{one['id']}")
    assert gone.status_code == 204 and gone.content == b""
    assert page.get(AT).json() == {"data": [], "has_more": False}


def test_each_tenant_has_its_own(page: TestClient) -> None:
    one = made(page)
    other = {"x-tenant": "other"}
    assert page.get(AT, headers=other).json()["data"] == []
    for method, path, body in [
        ("GET", "", None), ("PATCH", "", {}), ("DELETE", "", None), ("POST", "/messages", {"role": "user"}),
        ("GET", "/export", None),
    ]:  # fmt: skip
        assert page.request(method, f"{AT}/{one['id']}{path}", json=body, headers=other).status_code == 404
    assert page.get(f"{AT}/{one['id']}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "names"),
    [
        ("GET", f"{AT}/{NOBODY}", None, 404, NOBODY),
        ("GET", f"{AT}/{NOBODY}/export", None, 404, NOBODY),
        ("DELETE", f"{AT}/{NOBODY}", None, 404, NOBODY),
        ("PATCH", f"{AT}/{NOBODY}", {}, 404, NOBODY),
        ("POST", f"{AT}/{NOBODY}/messages", {"role": "user"}, 404, NOBODY),
        ("GET", f"{AT}/x%00y", None, 400, "identity"),
        ("GET", f"{AT}?limit=0", None, 400, "limit"),
        ("GET", f"{AT}?limit=many", None, 400, "limit"),
        ("GET", f"{AT}?before={NOBODY}", None, 400, "before"),
        ("GET", f"{AT}?before=%00", None, 400, "before"),
        ("GET", f"{AT}?search={'x' * 201}", None, 400, "search"),
        ("POST", AT, {"title": 5}, 400, "title"),
        ("POST", AT, {"title": "x" * 501}, 400, "title"),
        ("POST", AT, {"colour": 1}, 400, "colour"),
        ("POST", AT, {"settings": []}, 400, "settings"),
        ("POST", AT, [], 400, ""),
        ("POST", "{one}/messages", {}, 400, "role"),
        ("POST", "{one}/messages", {"role": "system"}, 400, "role"),
        ("POST", "{one}/messages", {"role": "user", "content": ["x"]}, 400, "content"),
        ("POST", "{one}/messages", {"role": "user", "parents": [NOBODY]}, 400, "parents"),
        ("POST", "{one}/messages", {"role": "user", "parents": ["x"]}, 400, "parents"),
        ("POST", "{one}/messages", {"role": "user", "parents": [NOBODY] * 65}, 400, "parents"),
        ("POST", "{one}/messages", {"role": "user", "details": {"x": "y" * 300_000}}, 400, "details"),
        ("GET", "{one}/export?leaf=" + NOBODY, None, 400, "leaf"),
    ],
)
def test_what_is_wrong_is_named_in_openais_shape(
    page: TestClient, method: str, path: str, body: Any, status: int, names: str
) -> None:
    one = made(page)
    answer = page.request(method, path.format(one=f"{AT}/{one['id']}"), json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and names in error["message"]
    assert page.get(f"{AT}/{one['id']}").json() == one | {"messages": []}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff", b'{"title": "\\ud800"}', b'{"settings": {"x": "\\ud800"}}', b'{"settings": {"x": NaN}}',
        b'{"settings": {"x": 1e999}}', b'{"settings": {"x": ' + b"9" * 5000 + b"}}",
        b'{"settings": {"x": ' + b"[" * 62 + b"]" * 62 + b"}}", b'{"settings": {"x": ' + b"[" * 63 + b"]" * 63 + b"}}",
        b'{"settings": {"x": ' + b"[" * 900 + b"]" * 900 + b"}}", b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_bodies_that_are_hardly_json_get_an_answer(page: TestClient, body: bytes) -> None:
    answer = page.post(AT, content=body, headers={"content-type": "application/json"})
    if answer.status_code == 201:
        whole = page.get(f"{AT}/{answer.json()['id']}")
        assert whole.status_code == 200
    else:
        assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_database_that_is_away_is_503_and_says_nothing_of_where_it_lies(
    tmp_path: Path,
) -> None:
    state = open_state(str(tmp_path / "state.db"))
    close_state(state)
    for file in tmp_path.glob("state.db*"):
        file.unlink()
    (tmp_path / "state.db").mkdir()
    app = FastAPI()
    app.include_router(conversation_routes(state, lambda request: "local"))
    app.add_exception_handler(QwillError, errors.handle)
    answer = TestClient(app).get(AT)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert str(tmp_path) not in answer.text


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
fields = [
    "title", "settings", "role", "content", "parents", "reasoning", "tool_calls", "tool_call_id", "model", "details",
]  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(fields), anything | st.sampled_from(["user", "tool"]), max_size=6),
    st.sampled_from([("POST", AT), ("PATCH", "{one}"), ("POST", "{one}/messages")]),
)
def test_any_json_is_taken_or_refused_and_what_was_taken_is_read_back(
    page: TestClient, body: dict[str, Any], where: tuple[str, str]
) -> None:
    one = made(page)
    if where[1].endswith("messages"):
        body.setdefault("role", "user")
    answer = page.request(where[0], where[1].format(one=f"{AT}/{one['id']}"), json=body)
    assert answer.status_code in (200, 201, 400)
    if answer.status_code == 400:
        return
    if where[1].endswith("messages"):
        (read,) = page.get(f"{AT}/{one['id']}").json()["messages"]
    else:
        read = page.get(f"{AT}/{answer.json()['id']}").json()
    assert answer.json().items() <= read.items() or answer.json() == read
    for name, value in body.items():
        if value is not None and name not in ("title", "model"):
            assert read[name] == value
