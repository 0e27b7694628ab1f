"""The renderer against the record of transformers, against the released template run by Jinja, and by example."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_support import (
    FIXTURE,
    ORACLES,
    TOOLS,
    check_render,
    check_training,
    fixture_tokenizer,
    marked_text,
    nfc,
    released_text,
    some_conversation,
    trained_runs,
    unmarked,
)

from qwill.base.errors import DataError
from qwill.text import chat
from qwill.text.chat import render, training_examples
from qwill.text.tokenizer import Tokenizer

RECORD = json.loads((ORACLES / "text_chat.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORD["cases"]}
# Each seed is one conversation: drawing every word through hypothesis would take minutes.
CONVERSATIONS = st.integers(0, 2**64).map(lambda seed: some_conversation(random.Random(seed)))


def rendered_case(case: dict) -> chat.Rendered:
    options = case["options"]
    return render(
        case["messages"],
        case["tools"],
        tokenizer=fixture_tokenizer(),
        thinking=options.get("enable_thinking", True),
        generation_prompt=options.get("add_generation_prompt", False),
    )


@pytest.mark.parametrize("name", CASES)
def test_golden_cases(name: str) -> None:
    case, tokenizer = CASES[name], fixture_tokenizer()
    rendered = rendered_case(case)
    assert tokenizer.decode(rendered.ids, skip_special=False) == nfc(case["text"])
    # The same tokens as transformers', except where a user's words would have become special tokens.
    assert (rendered.ids == case["ids"]) != case["imitates"]
    assert len(rendered.loss_mask) == len(rendered.ids) and rendered.media_spans == []


def test_the_record_holds_what_jinja_gives_here() -> None:
    # The checks below trust these renderings; the record is transformers' own.
    for case in CASES.values():
        assert released_text(case["messages"], case["tools"], **case["options"]) == case["text"]
        assert unmarked(marked_text(case["messages"], case["tools"], **case["options"])) == case["text"]


@settings(max_examples=1000, deadline=None)
@given(CONVERSATIONS)
def test_any_conversation_renders_as_the_released_template(conversation: tuple) -> None:
    check_render(chat, *conversation)


@settings(max_examples=500, deadline=None)
@given(CONVERSATIONS)
def test_any_conversation_is_trained_as_it_is_met_at_inference(conversation: tuple) -> None:
    check_training(chat, *conversation)


LATIN, CYRILLIC = st.text("abc <|im_end|>\n", max_size=20), st.text("абвгде <|im_end|>\n", max_size=20)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(CYRILLIC, CYRILLIC, LATIN, LATIN), min_size=1, max_size=4))
def test_no_token_of_a_user_or_a_tool_is_trained(rounds: list[tuple[str, str, str, str]]) -> None:
    tokenizer = fixture_tokenizer()
    messages: list[dict] = []
    for asked, returned, said, thought in rounds:
        call = {"name": "f", "arguments": {"x": said}}
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        messages += [{"role": "tool", "content": returned}]
        messages += [{"role": "assistant", "content": said, "reasoning_content": thought}]
    examples = training_examples(messages, [{"name": "абв"}], tokenizer)
    for example in [*examples, render(messages, [{"name": "абв"}], tokenizer=tokenizer)]:
        for a, b in trained_runs(example):
            text = tokenizer.decode(example.ids[a:b], skip_special=False)
            assert text.isascii() and text.count("user") == 0
        untrained = [i for i, flag in zip(example.ids, example.loss_mask, strict=True) if not flag]
        assert tokenizer.decode(untrained)


def texts(examples: list[chat.Rendered]) -> list[list[tuple[str, int]]]:
    """Each example as [(text, trained)], for tests that show what is meant."""
    tokenizer = fixture_tokenizer()
    shown = []
    for example in examples:
        pieces: list[tuple[str, int]] = []
        end = 0
        for a, b in trained_runs(example):
            pieces += [(tokenizer.decode(example.ids[end:a], False), 0), (tokenizer.decode(example.ids[a:b], False), 1)]
            end = b
        shown.append(pieces)
    return shown


def test_a_reply_without_thinking_is_trained_behind_the_closed_block() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    assert texts(training_examples(messages, None, fixture_tokenizer())) == [
        [("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", 0), ("Hello!<|im_end|>", 1)]
    ]


def test_after_no_think_the_model_closes_the_block_itself() -> None:
    messages = [{"role": "user", "content": "Hi /no_think"}, {"role": "assistant", "content": "Hello!"}]
    assert texts(training_examples(messages, None, fixture_tokenizer())) == [
        [
            ("<|im_start|>user\nHi /no_think<|im_end|>\n<|im_start|>assistant\n", 0),
            ("<think>\n\n</think>\n\nHello!<|im_end|>", 1),
        ]
    ]


def test_tool_steps_with_thinking_are_one_example_and_the_next_question_starts_another() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"城": 1}}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "reasoning_content": "A tool.", "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "Sunny.", "reasoning_content": "So."},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye!", "reasoning_content": "Polite."},
    ]
    head = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    called = '<tool_call>\n{"name": "f", "arguments": {"城": 1}}\n</tool_call><|im_end|>'
    response = "\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert texts(training_examples(messages, None, fixture_tokenizer())) == [
        [
            (head, 0),
            ("<think>\nA tool.\n</think>\n\n" + called, 1),
            (response, 0),
            ("<think>\nSo.\n</think>\n\nSunny.<|im_end|>", 1),
        ],
        [
            (
                f"{head}{called}{response}Sunny.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
                0,
            ),
            ("<think>\nPolite.\n</think>\n\nBye!<|im_end|>", 1),
        ],
    ]


def test_an_example_ends_with_the_last_reply() -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Anyone?"},
    ]
    example = training_examples(messages, None, fixture_tokenizer())[-1]
    assert example.ids[-1] == fixture_tokenizer().special("<|im_end|>") and example.loss_mask[-1] == 1


def test_text_parts_are_read_as_one_text() -> None:
    parts = [{"type": "text", "text": "今天"}, {"type": "text", "text": "天气？"}]
    for tokens in (
        render([{"role": "user", "content": parts}], tokenizer=fixture_tokenizer()),
        render([{"role": "user", "content": "今天天气？"}], tokenizer=fixture_tokenizer()),
    ):
        assert fixture_tokenizer().decode(tokens.ids, False) == "<|im_start|>user\n今天天气？<|im_end|>\n"


@pytest.mark.parametrize("switch", ["/no_think", "吗？/no_think", "Think. /think No. /no_think\n"])
def test_switches_that_count(switch: str) -> None:
    messages = [{"role": "user", "content": switch}, {"role": "assistant", "content": "a"}]
    assert "<think>\n\n</think>\n\na" in texts(training_examples(messages, None, fixture_tokenizer()))[0][1][0]


@pytest.mark.parametrize("switch", ["/api/no_think", "/no_think /think", "/no_thinking", "no_think", "a/no_think"])
def test_switches_that_do_not_count(switch: str) -> None:
    messages = [{"role": "user", "content": switch}, {"role": "assistant", "content": "a"}]
    assert texts(training_examples(messages, None, fixture_tokenizer()))[0][1][0] == "a<|im_end|>"


def test_a_vocabulary_without_thinking_gets_plain_chatml() -> None:
    document = json.loads((FIXTURE / "tokenizer.json").read_text(encoding="utf-8"))
    document["added_tokens"] = document["added_tokens"][:3]
    plain = Tokenizer(document)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    rendered = render(messages[:1], tokenizer=plain, thinking=False, generation_prompt=True)
    assert plain.decode(rendered.ids, False) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    (example,) = training_examples(messages, None, plain)
    assert plain.decode(example.ids, False) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>"
    )
    (run,) = trained_runs(example)
    assert plain.decode(example.ids[slice(*run)], False) == "Hello!<|im_end|>"


GOOD = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one message"),
        ("Hi", "list"),
        (["Hi"], "message 1 is str"),
        ([GOOD, {"role": "developer", "content": "x"}], "message 2 has role 'developer'"),
        ([{"content": "x"}], "role None"),
        ([{"role": "user"}], r"message 1 \(user\)"),
        ([{"role": "user", "content": 3}], "type int"),
        ([{"role": "user", "content": [{"type": "image", "image": "x.png"}]}], "part 1 is of type 'image'"),
        ([{"role": "user", "content": ["x"]}], "part 1 is of type 'str'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "part 1 has no text"),
        ([GOOD, {"role": "assistant", "content": "x", "reasoning_content": 1}], "reasoning_content of type int"),
        ([GOOD, {"role": "assistant", "content": "x", "tool_calls": "f"}], "tool_calls of type str"),
        ([GOOD, {"role": "assistant", "content": "x", "tool_calls": [{"name": "f"}]}], "tool call 1 has no function"),
        ([GOOD, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": {1}}}]}], "JSON"),
        ([GOOD], "nothing to train on"),
        ([GOOD, {"role": "assistant", "content": ""}], "nothing to train on"),
        ([GOOD, {"role": "assistant", "content": " \n"}], "nothing to train on"),
        ([{"role": "assistant", "content": "x"}], "message 1 is the assistant's"),
    ],
)
def test_bad_conversations_are_named(messages: list, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        training_examples(messages, None, fixture_tokenizer(), where="sft.jsonl:7")
    assert str(caught.value).startswith("sft.jsonl:7") and "\n" not in str(caught.value)


def test_a_tool_that_is_not_json_is_named() -> None:
    with pytest.raises(DataError, match="tool 2"):
        render([GOOD], [TOOLS[0], {"x": {1, 2}}], tokenizer=fixture_tokenizer())
