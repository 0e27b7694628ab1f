"""Bodies made to break what reads them: nested as deep as JSON goes, characters cut in half."""

import json
from typing import Any

import pytest
from bodies import (
    BODIES,
    CHAT,
    EMBED,
    JSON,
    MESSAGES,
    RESPONSES,
    TEXT,
    TOKENIZE,
    TURN,
    assistant_calls,
    body,
    form,
    tool,
)
from serving import Server

DEEP_MARK = "where it is deep"


def deep_text(body: dict[str, Any], levels: int) -> str:
    """JSON with the mark replaced; `json.dumps` itself ends before 1,000 levels."""
    value = '{"a":[' * levels + "1" + "]}" * levels
    inner = json.dumps(value)[1:-1]
    return json.dumps(body).replace(json.dumps(f"in text {DEEP_MARK}"), f'"{inner}"').replace(f'"{DEEP_MARK}"', value)


DEEP: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"tools": [tool({"a": DEEP_MARK})]}),
    (CHAT, {"response_format": form({"a": DEEP_MARK})}),
    (CHAT, {"response_format": form({"properties": DEEP_MARK})}),
    (CHAT, {"nobody_knows_this": DEEP_MARK}),
    (CHAT, {"messages": [{**TURN, "extra": DEEP_MARK}]}),
    (CHAT, {"messages": [{"role": "user", "content": DEEP_MARK}]}),
    (CHAT, {"messages": [assistant_calls(f"in text {DEEP_MARK}")]}),
    (RESPONSES, {"tools": [{"type": "function", "name": "f", "parameters": {"a": DEEP_MARK}}]}),
    (RESPONSES, {"metadata": {"a": DEEP_MARK}}),
    (RESPONSES, {"input": DEEP_MARK}),
    (MESSAGES, {"tools": [{"name": "f", "input_schema": {"a": DEEP_MARK}}]}),
    (MESSAGES, {"tools": [{"name": "f", "input_schema": {"a": DEEP_MARK}}], "tool_choice": {"type": "any"}}),
    (
        MESSAGES,
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": DEEP_MARK}}],
                }
            ]
        },
    ),
    (TEXT, {"guided_json": {"a": DEEP_MARK}}),
    (TEXT, {"guided_json": {"const": DEEP_MARK}}),
    (TEXT, {"guided_json": {"properties": {"a": {"enum": [DEEP_MARK]}}}}),
    (TEXT, {"guided_json": f"in text {DEEP_MARK}"}),
    (TEXT, {"prompt": DEEP_MARK}),
    (EMBED, {"input": DEEP_MARK}),
    (TOKENIZE, {"messages": [TURN], "prompt": None, "tools": [tool({"a": DEEP_MARK})]}),
]


@pytest.mark.parametrize("levels", [20, 60, 120, 200, 250, 320, 400, 480, 496])
@pytest.mark.parametrize(("path", "fields"), DEEP)
def test_what_is_nested_deeply_is_answered_or_refused(
    server: Server, path: str, fields: dict[str, Any], levels: int
) -> None:
    """Two levels each; the JSON reader itself ends near 1,000."""
    asked = {name: value for name, value in body(path, **fields).items() if value is not None}
    answer = server.client.post(path, content=deep_text(asked, levels), headers=JSON)
    assert answer.status_code in (200, 400), answer.text[:300]
    if answer.status_code == 400:
        message = answer.json()["error"]["message"]
        assert message and len(message) < 1000


SURROGATE = "\ud800"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": SURROGATE}]}),
        (CHAT, {"messages": [{"role": SURROGATE, "content": "x"}]}),
        (CHAT, {"model": SURROGATE}),
        (CHAT, {"stop": SURROGATE}),
        (CHAT, {SURROGATE: 1}),
        (CHAT, {"guided_regex": SURROGATE}),
        (CHAT, {"guided_choice": [SURROGATE]}),
        (CHAT, {"guided_json": {"const": SURROGATE}}),
        (CHAT, {"guided_json": {"properties": {SURROGATE: {}}}}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "description": SURROGATE}}]}),
        (CHAT, {"messages": [assistant_calls(SURROGATE, SURROGATE)]}),
        (TEXT, {"prompt": SURROGATE, "echo": True}),
        (RESPONSES, {"input": SURROGATE, "instructions": SURROGATE, "metadata": {SURROGATE: SURROGATE}}),
        (MESSAGES, {"system": SURROGATE, "stop_sequences": [SURROGATE]}),
        (EMBED, {"input": SURROGATE}),
        (TOKENIZE, {"prompt": SURROGATE}),
    ],
)
def test_half_a_character_is_answered_or_refused(server: Server, path: str, fields: dict[str, Any]) -> None:
    for stream in (False, True):
        text = json.dumps(body(path, **fields) | ({"stream": True} if stream else {}))
        answer = server.client.post(path, content=text, headers=JSON)
        assert answer.status_code in (200, 400, 404), answer.text
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]


def test_after_all_this_the_server_answers(server: Server) -> None:
    for path, asked in BODIES.items():
        if path != EMBED:
            assert server.post(path, asked).status_code == 200
    assert server.client.get("/health").json() == {"status": "ok"}
