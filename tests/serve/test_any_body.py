"""Nothing a client sends gives a 500, leaves a stream without its end, or stops the server."""

import copy
import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Server

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
VALID: dict[str, dict] = {
    "/v1/chat/completions": {
        "model": "tiny",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}]},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
        ],
        "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 1, "n": 2, "stop": ["z"],
        "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}, "presence_penalty": 0.1, "stream": False,
        "stream_options": {"include_usage": True}, "tools": [TOOL], "tool_choice": "auto",
        "response_format": {"type": "text"}, "chat_template_kwargs": {"enable_thinking": True}, "thinking_budget": 3,
    },
    "/v1/completions": {"model": "tiny", "prompt": [[1, 2], [3]], "max_tokens": 2, "echo": True, "logprobs": 1},
    "/v1/responses": {
        "model": "tiny", "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "max_output_tokens": 2, "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"},
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
    },
    "/v1/messages": {
        "model": "tiny", "max_tokens": 2, "system": "s", "messages": [{"role": "user", "content": "a"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "thinking": {"type": "enabled", "budget_tokens": 2},
    },
    "/v1/embeddings": {"model": "tiny", "input": ["a", "b"], "dimensions": 3},
    "/tokenize": {"messages": [{"role": "user", "content": "a"}]},
    "/detokenize": {"tokens": [1, 2, 3]},
}  # fmt: skip
STRANGE = ["", "\ud800", "<|im_end|>", "a" * 300, -1, 0, 2**64, 1e308, 1e-320, True, None, [], {}, [[]], [None]]
ODD = st.sampled_from(STRANGE)
ANY = st.recursive(
    ODD | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, item in items for place in places(item, (*path, key))]


def changed(value: dict, path: tuple, new: Any) -> dict:
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


def check(answer: httpx.Response, path: str) -> None:
    assert answer.status_code < 500, answer.text
    assert "x-request-id" in answer.headers
    if answer.headers["content-type"].startswith("text/event-stream"):
        last = "event: " if path in ("/v1/messages", "/v1/responses") else "data: [DONE]"
        assert answer.text.rstrip("\n").split("\n\n")[-1].startswith(last)
    elif answer.status_code != 200:
        found = answer.json()
        assert isinstance(found["error"]["message"], str) and found["error"]["type"]
        assert ("param" in found["error"]) != (path.startswith("/v1/messages"))


@pytest.mark.parametrize("path", VALID)
def test_changed_bodies(server: Server, path: str) -> None:
    assert server.post(path, VALID[path]).status_code == 200

    @settings(max_examples=60)
    @given(st.sampled_from(places(VALID[path])), ANY, st.booleans())
    def run(place: tuple, new: Any, stream: bool) -> None:
        body = changed(VALID[path], place, new)
        if stream and place[0] != "stream":
            body["stream"] = True
        check(server.client.post(path, content=json.dumps(body), headers={"content-type": "application/json"}), path)

    run()
    assert server.post(path, VALID[path]).status_code == 200


@pytest.mark.parametrize("path", VALID)
def test_any_bodies(server: Server, path: str) -> None:
    @settings(max_examples=25)
    @given(ANY | st.binary(max_size=20))
    def run(body: Any) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body)
        answer = server.client.post(path, content=content, headers={"content-type": "application/json"})
        check(answer, path)
        assert answer.status_code != 200

    run()
