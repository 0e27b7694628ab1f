"""Replies taken apart: what the renderer writes comes back, and malformed replies lose nothing."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_support import fixture_tokenizer, trained_runs

from qwill.text.chat import training_examples
from qwill.text.parse import Reply, parse_reply

WORDS = st.lists(st.sampled_from(["a", "你好", " ", "\n", "{", "}", '"', "x <b>", "1"]), max_size=8).map("".join)
# Any text that does not itself spell the marks: where it does, text alone can't say which is meant.
PLAIN = WORDS | st.text(max_size=20).filter(lambda text: "<" not in text)
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=10) | st.just("</tool_call>\n<tool_call>"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["f", "get_weather", "查询"]),
            "arguments": st.dictionaries(st.text(max_size=5), VALUES, max_size=3),
        }
    ).map(lambda function: {"type": "function", "function": function}),
    max_size=3,
)


@settings(max_examples=1000, deadline=None)
@given(PLAIN, PLAIN, CALLS)
def test_what_is_rendered_comes_back(content: str, reasoning: str, calls: list[dict]) -> None:
    tokenizer = fixture_tokenizer()
    message = {"role": "assistant", "content": "!" + content, "reasoning_content": "?" + reasoning, "tool_calls": calls}
    (example,) = training_examples([{"role": "user", "content": "Hi"}, message], None, tokenizer)
    ((a, b),) = trained_runs(example)
    reply = parse_reply(tokenizer.decode(example.ids[a:b]))
    nfc = tokenizer.decode(tokenizer.encode("!" + content)), tokenizer.decode(tokenizer.encode("?" + reasoning))
    assert (reply.content, reply.reasoning_content) == (nfc[0].strip("\n"), nfc[1].strip("\n"))
    written = json.loads(tokenizer.decode(tokenizer.encode(json.dumps(calls, ensure_ascii=False))))
    assert reply.tool_calls == written


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "<think>",
                "</think>",
                "<tool_call>",
                "</tool_call>",
                '{"name": "f", "arguments": {}}',
                "{",
                "}",
                "[",
                "]",
                '"',
                "'",
                "\n",
                "x",
                ",",
                "```",
                "<|im_end|>",
            ]
        ),
        max_size=14,
    ).map("".join)
)
def test_any_reply_is_parsed_and_nothing_said_is_lost(text: str) -> None:
    reply = parse_reply(text)
    for call in reply.tool_calls:
        assert isinstance(call["function"]["name"], str) and isinstance(call["function"]["arguments"], dict)
    shown = reply.content + (reply.reasoning_content or "")
    if not reply.tool_calls:
        assert shown.count("x") == text.count("x")


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("Hello", Reply("Hello")),
        ("Hello<|im_end|>", Reply("Hello")),
        ("", Reply("")),
        ("<think>\n\n</think>\n\nHi", Reply("Hi", "")),
        ("<think>\n12 + 30\n</think>\n\n42", Reply("42", "12 + 30")),
        ("<think>\nnot yet done", Reply("", "not yet done")),
        ("still thinking\n</think>\n\n42", Reply("42", "still thinking")),
        ("<think>a</think>b</think>c", Reply("b</think>c", "a")),
    ],
)
def test_thinking(text: str, reply: Reply) -> None:
    assert parse_reply(text) == reply


ONE = [call("f", a=1)]


@pytest.mark.parametrize(
    ("block", "calls"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', ONE),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', ONE),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}', ONE),
        ('<tool_call>\n{"name": "f", "arguments": "{\\"a\\": 1}"}\n</tool_call>', ONE),
        ('<tool_call>\n{"name": "f", "parameters": {"a": 1}}\n</tool_call>', ONE),
        ('<tool_call>\n{"function": {"name": "f", "arguments": {"a": 1}}}\n</tool_call>', ONE),
        ('<tool_call>\n```json\n{"name": "f", "arguments": {"a": 1}}\n```\n</tool_call>', ONE),
        ("<tool_call>\n{'name': 'f', 'arguments': {'a': 1}}\n</tool_call>", ONE),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1,},}\n</tool_call>', ONE),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call>', ONE),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}}\n</tool_call>', ONE),
        ('<tool_call>\n{"name": "f"}\n</tool_call>', [call("f")]),
        ('<tool_call>\n{"name": "f", "arguments": {"a": "x\ny"}}\n</tool_call>', [call("f", a="x\ny")]),
        ('<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call>', [call("f", a="</tool_call>")]),
        ('<tool_call>\n[{"name": "f", "arguments": {"a": 1}}, {"name": "g"}]\n</tool_call>', [*ONE, call("g")]),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n{"name": "g"}\n</tool_call>', [*ONE, call("g")]),
        (
            '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n<tool_call>\n{"name": "g"}\n</tool_call>',
            [*ONE, call("g")],
        ),
    ],
)
def test_tool_calls_and_their_misspellings(block: str, calls: list[dict]) -> None:
    assert parse_reply(block) == Reply("", None, calls)
    reply = parse_reply(f"<think>\nHm.\n</think>\n\nI look.\n{block}")
    assert (reply.content, reply.reasoning_content, reply.tool_calls) == ("I look.", "Hm.", calls)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nnot JSON\n</tool_call>",
        '<tool_call>\n{"name": 3, "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": "x"}\n</tool_call>',
        "<tool_call></tool_call>",
        "a <tool_call> b",
    ],
)
def test_what_is_no_call_stays_in_the_content(text: str) -> None:
    assert parse_reply(text) == Reply(text)


def test_a_call_behind_a_broken_one_is_found() -> None:
    text = '<tool_call>\nbroken\n</tool_call>\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert parse_reply(text) == Reply("<tool_call>\nbroken\n</tool_call>", None, ONE)


def test_a_reply_becomes_a_message() -> None:
    reply = parse_reply(
        '<think>\nHm.\n</think>\n\nI look.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    )
    assert reply.message() == {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": ONE}
    assert parse_reply("Hi").message() == {"role": "assistant", "content": "Hi"}


@pytest.mark.parametrize("broken", ["[" * 100_000, '{"a":' * 100_000, "(" * 100_000, "'\\d'", "{[]: 1}", "9" * 5000])
def test_no_reply_makes_the_parser_fail(broken: str) -> None:
    text = f"<tool_call>{broken}</tool_call>"
    assert parse_reply(text) == Reply(text)
    nested = json.dumps({"name": "f", "arguments": broken})
    assert parse_reply(f"<tool_call>{nested}</tool_call>").tool_calls == []


def test_many_broken_blocks_are_kept() -> None:
    text = "<tool_call>" * 2_000
    assert parse_reply(text) == Reply(text)
