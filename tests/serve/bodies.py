"""A good body for every route that takes one, and what its protocol says when a field of it is wrong."""

from typing import Any

import httpx

TURN = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
RESULT = {"role": "tool", "tool_call_id": "c9", "content": "3"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "tiny", "messages": [TURN], "max_tokens": 2},
    "/v1/completions": {"model": "tiny", "prompt": "Hi", "max_tokens": 2},
    "/v1/responses": {"model": "tiny", "input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"model": "tiny", "messages": [TURN], "max_tokens": 2},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": [TURN]},
    "/v1/embeddings": {"model": "tiny", "input": "Hi"},
    "/tokenize": {"model": "tiny", "prompt": "Hi"},
    "/detokenize": {"model": "tiny", "tokens": [1]},
}
CHAT, TEXT, RESPONSES, MESSAGES, COUNT, EMBED, TOKENIZE, DETOKENIZE = BODIES
JSON = {"content-type": "application/json"}


def checked(answer: httpx.Response, path: str, status: int, param: str | None, *words: str) -> dict[str, Any]:
    """The error, in the shape of the path's protocol, after its status, type, field and words were compared."""
    assert answer.status_code == status, answer.text
    found = answer.json()
    kinds = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
    if path.startswith("/v1/messages"):
        assert set(found) == {"type", "error", "request_id"} and found["type"] == "error"
        assert found["request_id"] == answer.headers["x-request-id"]
        error = found["error"]
        assert set(error) == {"type", "message"} and error["type"] == kinds.get(status, "invalid_request_error")
        words = (*words, param or "")
    else:
        assert set(found) == {"error"}
        error = found["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["param"] == param, error
        assert error["type"] == kinds.get(status, "invalid_request_error").replace(
            "request_too_large", "invalid_request_error"
        )
    message = error["message"]
    assert message.endswith(".") and "\n" not in message and len(message) < 700, message
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"
    return dict(error)


def body(path: str, **fields: Any) -> dict[str, Any]:
    return {**BODIES[path], **fields}


def assistant_calls(arguments: str, name: str = "f") -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": name, "arguments": arguments}}]}


def tool(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
