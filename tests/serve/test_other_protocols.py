"""/v1/messages (Anthropic) and /v1/responses: streams add up to the whole; errors have the protocol's own shape."""

import json

import pytest
from serving import Server

from qwill.serve.messages_schema import AnthropicMessage
from qwill.serve.responses_schema import ResponseObject


def anthropic(**fields: object) -> dict:
    turn = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    return {"model": "tiny", "max_tokens": 30, "messages": [turn], "temperature": 1.0, **fields}


def blocks_of(events: list) -> list[dict]:
    blocks: list[dict] = []
    open_block = None
    for name, event in events:
        assert name == event["type"]
        if name == "content_block_start":
            assert open_block is None and event["index"] == len(blocks)
            open_block = dict(event["content_block"], partial="")
            blocks.append(open_block)
        elif name == "content_block_delta":
            assert open_block is not None and event["index"] == len(blocks) - 1
            delta = event["delta"]
            if delta["type"] == "input_json_delta":
                open_block["partial"] += delta["partial_json"]
            else:
                key = delta["type"].removesuffix("_delta")
                open_block[key] += delta[key]
        elif name == "content_block_stop":
            open_block = None
    assert open_block is None
    for block in blocks:
        partial = block.pop("partial")
        if block["type"] == "tool_use":
            block["input"] = json.loads(partial)
            block.pop("id")
    return blocks


def test_messages_stream_in_anthropics_order(server: Server) -> None:
    events = server.named_events("/v1/messages", anthropic(stream=True, stop_sequences=["\u0000never"]))
    names = [name for name, _ in events]
    assert names[0] == "message_start" and names[-2:] == ["message_delta", "message_stop"]
    assert events[0][1]["message"]["content"] == [] and events[0][1]["message"]["stop_reason"] is None
    assert events[-2][1]["delta"]["stop_reason"] in ("max_tokens", "end_turn", "tool_use")
    assert all("type" in block for block in blocks_of(events))


def test_whole_messages_have_anthropics_shape(server: Server) -> None:
    found = server.post("/v1/messages", anthropic(system="Be brief", top_k=1)).json()
    AnthropicMessage.model_validate(found)
    streamed = blocks_of(server.named_events("/v1/messages", anthropic(system="Be brief", top_k=1, stream=True)))
    whole = [{k: v for k, v in block.items() if k != "id"} for block in found["content"]]
    assert streamed == whole
    assert found["usage"]["input_tokens"] + found["usage"]["cache_read_input_tokens"] > 5


def test_counting_tokens_is_what_a_message_then_uses(server: Server) -> None:
    ask = anthropic(system=[{"type": "text", "text": "Be brief"}])
    used = server.post("/v1/messages", ask).json()["usage"]
    counted = server.post("/v1/messages/count_tokens", {k: v for k, v in ask.items() if k != "max_tokens"}).json()
    assert counted["input_tokens"] == used["input_tokens"] + used["cache_read_input_tokens"]


USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "3"}]}


def test_tool_results_are_taken_after_their_call_only(server: Server) -> None:
    asked = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [RESULT]},
    ]
    assert server.post("/v1/messages", anthropic(messages=asked)).status_code == 200
    lone = server.post("/v1/messages", anthropic(messages=[asked[0], asked[2]]))
    assert lone.status_code == 400 and "t1" in lone.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ({"model": "none"}, 404, "not_found_error"),
        ({"max_tokens": None}, 400, "invalid_request_error"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400, "invalid_request_error"),
        ({"tool_choice": {"type": "tool"}}, 400, "invalid_request_error"),
    ],
)
def test_anthropics_errors(server: Server, fields: dict, status: int, kind: str) -> None:
    answer = server.post("/v1/messages", anthropic(**fields))
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert found["type"] == "error" and found["error"]["type"] == kind
    assert found["request_id"] == answer.headers["x-request-id"]


def responses(**fields: object) -> dict:
    return {"model": "tiny", "input": "Hi", "max_output_tokens": 30, "temperature": 1.0, "seed": 5, **fields}


@pytest.mark.parametrize("seed", range(5))
def test_response_events_add_up_to_the_response(server: Server, seed: int) -> None:
    whole = server.post("/v1/responses", responses(seed=seed)).json()
    ResponseObject.model_validate(whole)
    events = server.named_events("/v1/responses", responses(seed=seed, stream=True))
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    assert all(name == event["type"] for name, event in events)
    assert events[0][0] == "response.created" and events[1][0] == "response.in_progress"
    last = events[-1][1]["response"]
    assert events[-1][0] == f"response.{last['status']}"
    done = [event["item"] for name, event in events if name == "response.output_item.done"]
    assert [without_ids(item) for item in last["output"]] == [without_ids(item) for item in done]
    assert [without_ids(item) for item in whole["output"]] == [without_ids(item) for item in done]
    said = "".join(event["delta"] for name, event in events if name == "response.output_text.delta")
    texts = [p["text"] for item in last["output"] if item["type"] == "message" for p in item["content"]]
    assert said == "".join(texts)


def without_ids(item: dict) -> dict:
    return {k: v for k, v in item.items() if k not in ("id", "call_id")}


def test_a_conversation_as_items_is_the_same_prompt_as_messages(server: Server) -> None:
    items = [
        {"role": "developer", "content": "Be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Add"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "3"},
        {"role": "user", "content": "So?"},
    ]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Add"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "3"},
        {"role": "user", "content": "So?"},
    ]
    used = server.post("/v1/responses", responses(input=items)).json()["usage"]["input_tokens"]
    assert used == server.post("/tokenize", {"messages": messages}).json()["count"]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "none"}, 404, "model"),
        ({"input": None}, 400, "input"),
        ({"previous_response_id": "x"}, 400, "previous_response_id"),
        ({"background": True}, 400, "background"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "input[0].content[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "3"}]}, 400, "input[0]"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"nope": 1}}}}, 400, "text.format"),
    ],
)
def test_bad_responses(server: Server, fields: dict, status: int, param: str) -> None:
    answer = server.post("/v1/responses", responses(**fields))
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param, answer.text
