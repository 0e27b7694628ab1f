"""What a client may get wrong, on every route that takes it: the protocol's error, the field, a sentence that helps."""

import json
from typing import Any

import pytest
from bodies import (
    BODIES,
    CALL,
    CHAT,
    COUNT,
    DETOKENIZE,
    EMBED,
    JSON,
    MESSAGES,
    RESPONSES,
    RESULT,
    TEXT,
    TOKENIZE,
    TOOL,
    TURN,
    assistant_calls,
    body,
    checked,
)
from serving import Server, serving

from qwill.serve.settings import ServeSettings


@pytest.mark.parametrize("path", BODIES)
def test_models_that_are_not_there_are_404_with_those_that_are(server: Server, path: str) -> None:
    checked(server.post(path, body(path, model="qwen-900b")), path, 404, "model", "'qwen-900b'", "tiny")
    for kind in (3, None, ["tiny"], "", "x" * 300):
        if kind is None and path in (TOKENIZE, DETOKENIZE):
            continue  # there it may be left out
        answer = server.post(path, body(path, model=kind))
        checked(answer, path, 400, "model")
    del_model = {name: value for name, value in BODIES[path].items() if name != "model"}
    if path not in (TOKENIZE, DETOKENIZE):
        checked(server.post(path, del_model), path, 400, "model", "required and missing")


def test_models_that_are_asked_for_by_name_alone(server: Server) -> None:
    checked(server.client.get("/v1/models/none"), "/v1/models", 404, "model", "'none'", "tiny")
    checked(server.client.get("/tokenizer_info?model=none"), "/tokenizer_info", 404, "model", "tiny")


LONG = "x" * 3000
TOO_LONG = [
    (CHAT, {"messages": [{"role": "user", "content": LONG}]}, "messages"),
    (TEXT, {"prompt": LONG}, "prompt"),
    (TEXT, {"prompt": [1] * 2001}, "prompt"),
    (RESPONSES, {"input": LONG}, "input"),
    (MESSAGES, {"messages": [{"role": "user", "content": LONG}]}, "messages"),
    (EMBED, {"input": ["a", LONG]}, "input[1]"),
]


@pytest.mark.parametrize(("path", "fields", "param"), TOO_LONG)
def test_a_context_that_is_too_short_is_said_with_both_numbers(
    server: Server, path: str, fields: dict[str, Any], param: str
) -> None:
    error = checked(server.post(path, body(path, **fields)), path, 400, param if path != MESSAGES else None, "2000")
    numbers = [int(word) for word in error["message"].replace(";", " ").split() if word.isdigit()]
    assert numbers[0] == 2000 and 2000 < numbers[1] < 3100
    assert error.get("code", "context_length_exceeded") == "context_length_exceeded"


BROKEN = [
    (b"{", "not JSON"),
    (b"", "body"),
    (b'{"model": "tiny",}', "not JSON"),
    (b'{"model": NaN}', "NaN is not a number"),
    (b'{"model": "tiny", "x": -Infinity}', "Infinity is not a number"),
    (b'{"model": "\xff"}', "UTF-8"),
    (b"[" * 50_000, "nested too deeply"),
    (b'{"a":' * 50_000, "nested too deeply"),
    (b"[1, 2]", "body"),
    (b'"tiny"', "body"),
    (b"null", "body"),
    (b'{"x": ' + b"9" * 5000 + b"}", "not JSON"),
]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("sent", "words"), BROKEN)
def test_what_is_no_json_object(server: Server, path: str, sent: bytes, words: str) -> None:
    answer = server.client.post(path, content=sent, headers=JSON)
    error = checked(answer, path, 400, None)
    assert words in error["message"] or "required" in error["message"] or "object" in error["message"], error


@pytest.mark.parametrize("path", BODIES)
def test_what_is_no_json_by_its_header(server: Server, path: str) -> None:
    answer = server.client.post(path, content=json.dumps(BODIES[path]), headers={"content-type": "text/plain"})
    checked(answer, path, 415, None, "Content-Type")


@pytest.mark.parametrize("path", BODIES)
def test_methods_and_paths_that_are_not_there(server: Server, path: str) -> None:
    answer = server.client.get(path)
    checked(answer, path, 405, None)
    assert answer.headers["allow"] == "POST"
    checked(server.post(path + "/nothing", {}), path, 404, None)


def test_a_path_of_several_routes_names_all_their_methods(guarded: Server) -> None:
    path = "/qwill/conversations/00000000-0000-0000-0000-000000000000"
    for at, allowed in (("/qwill/conversations", "GET, POST"), (path, "DELETE, GET, PATCH"), ("/qwill/export", "GET")):
        answer = guarded.client.put(at, headers=guarded.keys)  # type: ignore[attr-defined]
        checked(answer, at, 405, None, allowed)
        assert answer.headers["allow"] == allowed


SAMPLING: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"temperature": 1e9}, "temperature", "less than or equal to"),
    ({"temperature": "1"}, "temperature", "number"),
    ({"temperature": True}, "temperature", "number"),
    ({"temperature": [1]}, "temperature", "number"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"top_p": 1.1}, "top_p", "less than or equal to 1"),
    ({"top_k": -2}, "top_k", "-1"),
    ({"top_k": 1.5}, "top_k", "integer"),
    ({"top_k": 2**40}, "top_k", "less than or equal to"),
    ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
    ({"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
    ({"frequency_penalty": -3}, "frequency_penalty", "-2"),
    ({"seed": 0.5}, "seed", "integer"),
    ({"seed": 2**70}, "seed", "less than"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 1000}, "n", "less than or equal to 128"),
    ({"stop": ""}, "stop", "at least 1"),
    ({"stop": ["a"] * 17}, "stop", "at most 16"),
    ({"stop": ["x" * 300]}, "stop[0]", "at most 256"),
    ({"stop": 3}, "stop", "string"),
    ({"logit_bias": {"999999": 1}}, "logit_bias", "999999"),
    ({"logit_bias": {"one": 1}}, "logit_bias.one", "pattern"),
    ({"logit_bias": {"1": 200}}, "logit_bias.1", "less than or equal to 100"),
    ({"logit_bias": [1]}, "logit_bias", "dictionary"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "greater than or equal to 0"),
    ({"stop_token_ids": ["</s>"]}, "stop_token_ids[0]", "integer"),
    ({"min_tokens": -1}, "min_tokens", "greater than or equal to 0"),
    ({"min_tokens": 9, "max_tokens": 2, "max_output_tokens": 2}, "min_tokens", "max_tokens"),
    ({"ignore_eos": "yes"}, "ignore_eos", "boolean"),
    ({"priority": "high"}, "priority", "integer"),
    ({"stream": "yes"}, "stream", "boolean"),
    ({"guided_regex": "("}, "guided_regex", "regex"),
    ({"guided_regex": "a" * 300_000}, "guided_regex", "at most 262144"),
    ({"guided_grammar": "start: ("}, "guided_grammar", "grammar"),
    ({"guided_grammar": "begin: A"}, "guided_grammar", "grammar"),
    ({"guided_choice": []}, "guided_choice", "list of texts"),
    ({"guided_choice": [""]}, "guided_choice", "none of them empty"),
    ({"guided_choice": "yes"}, "guided_choice", "list"),
    ({"guided_json": "{"}, "guided_json", "JSON"),
    ({"guided_json": {"type": "string", "unheardOf": 1}}, "guided_json", "unheardOf"),
    ({"guided_json": {"type": "integer", "minimum": "low"}}, "guided_json", "minimum"),
    ({"guided_json": {"$ref": "#/nowhere"}}, "guided_json", "#/nowhere"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "regex"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "give one"),
    ({"guided_regex": "a", "guided_json": {}}, "guided_regex", "give one"),
]


@pytest.mark.parametrize("path", [CHAT, TEXT, RESPONSES])
@pytest.mark.parametrize(("fields", "param", "words"), SAMPLING)
def test_sampling_that_is_impossible(server: Server, path: str, fields: dict[str, Any], param: str, words: str) -> None:
    if path == RESPONSES and "n" in fields:
        pytest.skip("a response is one")
    checked(server.post(path, body(path, **fields)), path, 400, param, words)


@pytest.mark.parametrize("path", [CHAT, TEXT, RESPONSES, MESSAGES, TOKENIZE, DETOKENIZE])
def test_numbers_that_are_none(server: Server, path: str) -> None:
    """1e999 is JSON, but no number of ours; NaN isn't JSON."""
    for name in ("temperature", "max_tokens", "max_output_tokens", "dimensions", "tokens", "top_k"):
        text = json.dumps(body(path)).removesuffix("}") + f', "{name}": 1e999}}'
        answer = server.client.post(path, content=text, headers=JSON)
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            checked(answer, path, 400, name)


ASKED: list[tuple[str, dict[str, Any], str | None, str]] = [
    (CHAT, {"messages": "Hi"}, "messages", "list"),
    (CHAT, {"messages": []}, "messages", "at least 1"),
    (CHAT, {"messages": [3]}, "messages[0]", "dictionary"),
    (CHAT, {"messages": [{"content": "x"}]}, "messages[0]", "role"),
    (CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0]", "'wizard'"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0]", "hologram"),
    (CHAT, {"messages": [{"role": "user", "content": []}]}, "messages[0].content", "at least 1"),
    (CHAT, {"messages": [{"role": "tool", "content": "3"}]}, "messages[0].tool_call_id", "required"),
    (CHAT, {"messages": [RESULT]}, "messages[0]", "'c9'"),
    (CHAT, {"messages": [TURN, {"role": "assistant", "content": "x"}, RESULT]}, "messages[2]", "'c9'"),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [CALL]}, RESULT]}, "messages[1]", "'c9'"),
    (
        CHAT,
        {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
        "required",
    ),
    (
        CHAT,
        {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}]},
        "messages[0].tool_calls[0].function.arguments",
        "string",
    ),
    (CHAT, {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    (CHAT, {"max_completion_tokens": -1}, "max_completion_tokens", "greater than or equal to 1"),
    (CHAT, {"max_tokens": 1.5}, "max_tokens", "integer"),
    (CHAT, {"logprobs": 3}, "logprobs", "boolean"),
    (CHAT, {"top_logprobs": 2}, "top_logprobs", "logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    (CHAT, {"tools": [{"type": "function"}]}, "tools[0].function", "required"),
    (CHAT, {"tools": [{"type": "retrieval"}]}, "tools[0].type", "function"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "x" * 200}}]}, "tools[0].function.name", "pattern"),
    (CHAT, {"tools": [TOOL] * 300}, "tools", "at most 256"),
    (CHAT, {"tool_choice": "required"}, "tool_choice", "no tools"),
    (CHAT, {"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice", "sometimes"),
    (
        CHAT,
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
        "'g'",
    ),
    (
        CHAT,
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"unheardOf": 1}, "strict": True}}],
            "tool_choice": "required",
        },
        "tools",
        "unheardOf",
    ),
    (CHAT, {"response_format": {"type": "yaml"}}, "response_format", "yaml"),
    (CHAT, {"response_format": "json"}, "response_format", "json"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"unheardOf": 1}}}},
        "response_format",
        "unheardOf",
    ),
    (CHAT, {"reasoning_effort": "huge"}, "reasoning_effort", "'low'"),
    (CHAT, {"thinking_budget": -1}, "thinking_budget", "greater than or equal to 0"),
    (CHAT, {"chat_template_kwargs": {"enable_thinking": "yes"}}, "chat_template_kwargs.enable_thinking", "boolean"),
    (CHAT, {"stream_options": True}, "stream_options", "dictionary"),
    (TEXT, {"prompt": None}, "prompt", "string"),
    (TEXT, {"prompt": []}, "prompt", "at least 1"),
    (TEXT, {"prompt": [1, "a"]}, "prompt[1]", "integer"),
    (TEXT, {"prompt": [[]]}, "prompt[0]", "at least 1"),
    (TEXT, {"prompt": [99999]}, "prompt", "99999"),
    (TEXT, {"prompt": [-1]}, "prompt[0]", "greater than or equal to 0"),
    (TEXT, {"suffix": "end"}, "suffix", "not supported"),
    (TEXT, {"logprobs": 21}, "logprobs", "20"),
    (TEXT, {"logprobs": True}, "logprobs", "integer"),
    (TEXT, {"n": 3, "best_of": 2}, "best_of", "smaller"),
    (TEXT, {"best_of": 2, "stream": True}, "best_of", "streamed"),
    (TEXT, {"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
    (RESPONSES, {"input": []}, "input", "at least 1"),
    (RESPONSES, {"input": 3}, "input", "string"),
    (RESPONSES, {"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "'developer'"),
    (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c9", "output": "3"}]}, "input[0]", "'c9'"),
    (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation"),
    (RESPONSES, {"background": True}, "background", "not supported"),
    (RESPONSES, {"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
    (RESPONSES, {"reasoning": {"effort": "huge"}}, "reasoning.effort", "'low'"),
    (RESPONSES, {"tools": [{"type": "web_search"}]}, "tools[0].type", "function"),
    (RESPONSES, {"tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "'g'"),
    (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "required"),
    (
        RESPONSES,
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"unheardOf": 1}}}},
        "text.format",
        "unheardOf",
    ),
    (MESSAGES, {"max_tokens": None}, "max_tokens", "integer"),
    (MESSAGES, {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    (MESSAGES, {"temperature": 1.5}, "temperature", "less than or equal to 1"),
    (MESSAGES, {"messages": [{"role": "system", "content": "x"}]}, "messages[0]", "'system'"),
    (MESSAGES, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "'tool'"),
    (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0]", "holo"),
    (
        MESSAGES,
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t9", "content": "3"}]}]},
        "messages[0]",
        "'t9'",
    ),
    (MESSAGES, {"system": 3}, "system", "string"),
    (MESSAGES, {"stop_sequences": ["x" * 300]}, "stop_sequences[0]", "at most 256"),
    (MESSAGES, {"tools": [{"name": "f"}]}, "tools[0].input_schema", "required"),
    (MESSAGES, {"tool_choice": {"type": "tool"}}, "tool_choice", "name"),
    (MESSAGES, {"tool_choice": {"type": "tool", "name": "g"}}, "tool_choice", "'g'"),
    (MESSAGES, {"tool_choice": {"type": "any"}}, "tool_choice", "no tools"),
    (
        MESSAGES,
        {"tools": [{"name": "f", "input_schema": {"unheardOf": 1}, "strict": True}], "tool_choice": {"type": "any"}},
        "tools",
        "unheardOf",
    ),
    (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens", "equal to 1"),
    (EMBED, {"input": ""}, "input", "at least 1"),
    (EMBED, {"input": []}, "input", "at least 1"),
    (EMBED, {"input": ["a", 3]}, "input[1]", "string"),
    (EMBED, {"input": [99999]}, "input", "99999"),
    (EMBED, {"dimensions": 0}, "dimensions", "greater than or equal to 1"),
    (EMBED, {"dimensions": 10**6}, "dimensions", "1000000"),
    (EMBED, {"encoding_format": "hex"}, "encoding_format", "'base64'"),
    (TOKENIZE, {"prompt": 3}, "prompt", "string"),
    (TOKENIZE, {"prompt": None, "messages": [{"role": "wizard", "content": ""}]}, "messages[0]", "wizard"),
    (DETOKENIZE, {"tokens": [99999]}, "tokens", "99999"),
    (DETOKENIZE, {"tokens": [-1]}, "tokens[0]", "greater than or equal to 0"),
    (DETOKENIZE, {"tokens": "abc"}, "tokens", "list"),
]


@pytest.mark.parametrize(("path", "fields", "param", "words"), ASKED)
def test_fields_that_are_wrong(
    server: Server, path: str, fields: dict[str, Any], param: str | None, words: str
) -> None:
    checked(server.post(path, body(path, **fields)), path, 400, param, words)


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
MEDIA = [
    (CHAT, {"messages": [{"role": role, "content": [part]}]}, "messages[0].content[0]", part["type"])
    for role in ("system", "user", "assistant")
    for part in (PICTURE, {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, {"type": "file"})
] + [
    (
        CHAT,
        {"messages": [assistant_calls("{}"), {**RESULT, "tool_call_id": "c1", "content": [PICTURE]}]},
        "messages[1].content[0]",
        "image_url",
    ),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]", "image"),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]", "file"),
    (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]", "image"),
    (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0]", "docu"),
    (COUNT, {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]", "image"),
    (TOKENIZE, {"prompt": None, "messages": [{"role": "user", "content": [PICTURE]}]}, "messages[0].content[0]", "im"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "param", "words"), MEDIA)
def test_pictures_and_sounds_are_refused(
    server: Server, path: str, fields: dict[str, Any], param: str, words: str
) -> None:
    asked = {name: value for name, value in body(path, **fields).items() if value is not None}
    checked(server.post(path, asked), path, 400, param, words, "reads text only")


@pytest.mark.parametrize("path", BODIES)
def test_bodies_and_keys(path: str, guarded: Server) -> None:
    checked(guarded.post(path, BODIES[path]), path, 401, None, "Authorization: Bearer")
    wrong = guarded.post(path, BODIES[path], headers={"x-api-key": "sk-wrong"})
    checked(wrong, path, 401, None, "wrong, revoked or out of date")
    long = body(path, filler="x" * 6000)
    checked(guarded.post(path, long, headers=guarded.keys), path, 413, None, "5,000 bytes")  # type: ignore[attr-defined]
    if path != EMBED:
        assert guarded.post(path, BODIES[path], headers=guarded.keys).status_code == 200  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory):
    from qwill.base.state import open_state
    from qwill.serve.keys import create_key
    from qwill.serve.limits import Limits

    state = open_state(f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.db'}")
    with serving(ServeSettings(api_key_required=True, body_bytes=5000), state=state) as server:
        server.keys = {"authorization": "Bearer " + create_key(state, "acme", "test", Limits())[1]}
        yield server
