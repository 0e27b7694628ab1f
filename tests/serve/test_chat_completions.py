"""/v1/chat/completions: whole and streamed replies are the same, in the shape that OpenAI's clients read."""

import pytest
from serving import Server, counts

from qwill.serve.chat_schema import ChatCompletion, ChatCompletionChunk

ASK = [{"role": "user", "content": "Hello"}]
PATH = "/v1/chat/completions"


def body(**fields: object) -> dict:
    return {"model": "tiny", "messages": ASK, "max_tokens": 24, "seed": 7, "temperature": 1.0, **fields}


def assembled(chunks: list, index: int = 0) -> dict:
    message: dict = {"content": "", "reasoning_content": "", "calls": {}}
    reason, logprobs = None, []
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                kept = message["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
                for name, text in call["function"].items():
                    kept[name] += text
            logprobs += (choice["logprobs"] or {}).get("content") or []
            assert reason is None, "something comes after the finish reason"
            reason = choice["finish_reason"]
    return {**message, "reason": reason, "logprobs": logprobs}


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_adds_up_to_the_whole_reply(server: Server, seed: int) -> None:
    fields = body(seed=seed, logprobs=True, top_logprobs=1, n=2, max_tokens=40)
    whole = server.post(PATH, fields).json()
    ChatCompletion.model_validate(whole)
    *chunks, done = server.events(PATH, fields | {"stream": True, "stream_options": {"include_usage": True}})
    assert done == "[DONE]"
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == [] and counts(chunks[-1]["usage"]) == counts(whole["usage"])
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    for i, choice in enumerate(whole["choices"]):
        got = assembled(chunks, i)
        message = choice["message"]
        assert got["content"] == (message["content"] or "")
        assert got["reasoning_content"] == message.get("reasoning_content", "")
        assert got["reason"] == choice["finish_reason"]
        assert got["logprobs"] == choice["logprobs"]["content"]
        calls = [call["function"] for call in message.get("tool_calls", [])]
        assert list(got["calls"].values()) == calls


def test_a_seed_gives_the_same_reply_and_another_seed_another(server: Server) -> None:
    texts = [server.post(PATH, body(seed=s)).json()["choices"][0]["message"]["content"] for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_max_tokens_and_usage(server: Server) -> None:
    found = server.post(PATH, body(max_tokens=3, ignore_eos=True, logit_bias={})).json()
    assert found["usage"]["completion_tokens"] <= 3
    newer = server.post(PATH, body(max_tokens=None, max_completion_tokens=3)).json()
    assert counts(newer["usage"]) == counts(found["usage"])


def test_stop_text_is_cut_off(server: Server) -> None:
    plain = server.post(PATH, body(max_tokens=40, seed=3)).json()["choices"][0]["message"]["content"]
    assert len(plain) > 6
    stop = plain[3:5]
    cut = server.post(PATH, body(max_tokens=40, seed=3, stop=[stop])).json()["choices"][0]
    assert cut["message"]["content"] == plain[: plain.index(stop)] and cut["finish_reason"] == "stop"


def test_content_parts_and_developer_are_the_same_as_text_and_system(server: Server) -> None:
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]},
        {"role": "user", "content": [{"type": "text", "text": "Go"}]},
    ]
    texts = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go"},
    ]
    got = [server.post(PATH, body(messages=m)).json() for m in (parts, texts)]
    assert got[0]["choices"] == got[1]["choices"] and counts(got[0]["usage"]) == counts(got[1]["usage"])


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"model": "nothing"}, 404, "model", "tiny"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": None}, 400, "messages", "list"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0]", "wizard"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "required"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content", "string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "messages[0].content[0]",
            "text only",
        ),
        (
            {"messages": [*ASK, {"role": "tool", "tool_call_id": "c1", "content": "3"}]},
            400,
            "messages[1]",
            "c1",
        ),
        (
            {
                "messages": [
                    *ASK,
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "c2", "content": "3"},
                ]
            },
            400,
            "messages[2]",
            "c2",
        ),
        ({"temperature": -1}, 400, "temperature", "-1"),
        ({"temperature": "hot"}, 400, "temperature", "hot"),
        ({"temperature": True}, 400, "temperature", "number"),
        ({"temperature": 1e-6}, 400, "temperature", "0.0001"),
        ({"top_p": 0}, 400, "top_p", "greater than 0"),
        ({"max_tokens": 0}, 400, "max_tokens", "1"),
        ({"n": 0}, 400, "n", "1"),
        ({"n": 1.5}, 400, "n", "integer"),
        ({"top_logprobs": 3}, 400, "top_logprobs", "logprobs"),
        ({"logit_bias": {"99999": 3}}, 400, "logit_bias", "99999"),
        ({"tool_choice": "required"}, 400, "tool_choice", "no tools"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            400,
            "tool_choice",
            "'g'",
        ),
        ({"response_format": {"type": "yaml"}}, 400, "response_format", "yaml"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, 400, "response_format", "both"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, 400, "messages", "2000"),
    ],
)
def test_bad_input_is_told_in_openais_shape(server: Server, fields: dict, status: int, param: str, words: str) -> None:
    answer = server.post(PATH, body(**fields))
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param and words in error["message"]


def test_too_long_a_prompt_is_told_with_both_numbers(server: Server) -> None:
    error = server.post(PATH, body(messages=[{"role": "user", "content": "x" * 3000}])).json()["error"]
    assert error["code"] == "context_length_exceeded" and "has 30" in error["message"] and "is 2000" in error["message"]


@pytest.mark.parametrize("name", ["tool_call_id", "id"])  # the second is qwen-agent's
def test_a_tools_result_with_its_call_is_taken(server: Server, name: str) -> None:
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", name: "c1", "content": [{"type": "text", "text": "3"}]},
    ]
    assert server.post(PATH, body(messages=messages, tools=[TOOL])).status_code == 200
