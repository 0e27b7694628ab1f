"""The streaming parser: the same reply however the text was cut, nothing held back for longer than it must be, and the
cases in which other parsers lose calls (numbers of their issues beside them)."""

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_support import fixture_tokenizer

from qwill.text.json_stream import JsonScanner, strict_json
from qwill.text.parse import Reply, gathered, parse_reply
from qwill.text.reply_stream import (
    ContentPiece,
    Piece,
    ReasoningPiece,
    ReplyStream,
    ToolArguments,
    ToolStart,
    prompt_opens_thinking,
    tool_form,
)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "count": {"type": "integer"},
                    "options": {"type": "object"},
                    "maybe": {"type": ["string", "null"]},
                    "kind": {"enum": ["a", 1]},
                    "place": {"$ref": "#/$defs/place"},
                    "any": {},
                },
                "$defs": {"place": {"type": "array"}},
            },
        },
    },
    {"type": "function", "function": {"name": "no_parameters"}},
]


def joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one kind as one: what doesn't depend on where the stream was cut."""
    result: list[Any] = []
    for piece in pieces:
        last = result[-1] if result else None
        if isinstance(piece, ToolStart) or type(last) is not type(piece):
            result.append(piece)
        elif isinstance(piece, ToolArguments):
            result[-1] = ToolArguments(piece.index, last.text + piece.text)
        else:
            result[-1] = type(piece)(last.text + piece.text)
    return result


def streamed(text: str, cuts: list[int], **settings: Any) -> list[Piece]:
    stream = ReplyStream(**settings)
    pieces: list[Piece] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        pieces += stream.push(text[start:end])
    return joined(pieces + stream.finish())


def check_cuts(text: str, more: list[list[int]] = [], **settings: Any) -> list[Piece]:  # noqa: B006
    whole = streamed(text, [], **settings)
    assert streamed(text, list(range(1, len(text))), **settings) == whole
    for cuts in more:
        assert streamed(text, cuts, **settings) == whole
    assert gathered(whole) == parse_reply(text, settings.get("thinking_open", False), settings.get("tools", ()))
    return whole


# -- where the stream is cut

JSON_CALL = (
    '<tool_call>\n{"name": "f", "arguments": {"text": "你 \\"x\\" </tool_call>", "n": [1, -2.5e3, {}]}}\n</tool_call>'
)
XML_CALL = (
    "<tool_call>\n<function=f>\n<parameter=text>\na\n</parameter> b\n</parameter>\n<parameter=count>\n3\n"
    "</parameter>\n</function>\n</tool_call>"
)
PARTS = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "<|endoftext|>", "<|im_", "<tool", "</", "<",
    JSON_CALL, XML_CALL, '{"name": "f", "arguments": {', "{'name': 'f', 'arguments': {'a': True, }}", '"arguments": {}',
    "<function=f>\n", "<function=g>", "<parameter=text>\n", "<parameter=count>", "\n</parameter>\n", "</function>\n",
    "```json\n", "```", "\n", "\n\n", " ", "你好", "x", '"', "'", "{", "}", "[", "]", ",", ":", "\\", "\\u00", "1",
    "null", "tru",
]  # fmt: skip
MIXED = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
SETTINGS = st.fixed_dictionaries({"thinking_open": st.booleans(), "tools": st.sampled_from([(), TOOLS, None])})


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A well-formed reply with both forms of calls, then a few characters gone, doubled or put in, and cut off."""
    thinking = draw(st.sampled_from(["", f"<think>\nI could {JSON_CALL}\n</think>\n\n", "<think>\n\n</think>\n\n"]))
    calls = draw(st.lists(st.sampled_from([JSON_CALL, XML_CALL, "\n", "I look.\n"]), max_size=4))
    text = thinking + draw(st.sampled_from(["", "Hello 你好\n"])) + "\n".join(calls)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(text)))
        change = draw(st.sampled_from(["gone", "doubled", *PARTS]))
        length = draw(st.integers(1, 12))
        if change == "gone":
            text = text[:place] + text[place + length :]
        else:
            text = text[:place] + (text[place : place + length] if change == "doubled" else change) + text[place:]
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


@settings(max_examples=500, deadline=None)
@given(st.data(), MIXED | damaged(), SETTINGS)
def test_where_the_stream_is_cut_changes_nothing(data: st.DataObject, text: str, settings: dict) -> None:
    places = st.lists(st.integers(0, len(text)), max_size=5).map(sorted)
    check_cuts(text, data.draw(st.lists(places, min_size=3, max_size=3)), **settings)


@pytest.mark.parametrize("thinking_open", [False, True])
def test_every_way_to_cut_short_replies(thinking_open: bool) -> None:
    texts = ["\n\na<tool_call>x", "<think>a</think>b", "a\n<|im_end|>\n", '<tool_call>{"na', " <|im_end|><|im_e"]
    for text in texts:
        text = text[:16]
        whole = streamed(text, [], thinking_open=thinking_open)
        for size in (1, 2, 3):
            for cuts in combinations(range(1, len(text)), size):
                assert streamed(text, list(cuts), thinking_open=thinking_open) == whole
    for text in (JSON_CALL, XML_CALL, f"<think>\nno\n</think>\n\nI look.\n{JSON_CALL}\n{XML_CALL}"):
        check_cuts(text, [[i] for i in range(len(text))], tools=TOOLS)


STOP_MARKS = ("<|im_end|>", "<|endoftext|>")


def without_beginning(text: str, marks: tuple[str, ...]) -> str:
    begins = [k for k in range(len(text)) if any(mark.startswith(text[k:]) for mark in marks)]
    return text[: begins[0]] if begins else text


@settings(max_examples=300, deadline=None)
@given(MIXED | damaged(), SETTINGS)
def test_nothing_is_held_back_but_what_may_begin_a_mark(text: str, settings: dict) -> None:
    """What has come out before some point is what the reply is, if it ends there, but for a mark's beginning, line
    breaks, and blocks that are still undecided."""
    stream = ReplyStream(**settings)
    shown = ""
    for i, character in enumerate(text, start=1):
        for piece in stream.push(character):
            assert not isinstance(piece, ContentPiece | ToolArguments) or piece.text
            shown += piece.text if isinstance(piece, ContentPiece | ReasoningPiece) else ""
        if "<tool_call>" in text[:i] or "<function=" in text[:i]:
            return
        reply = parse_reply(text[:i], **settings)
        late = (reply.reasoning_content or "") + reply.content
        held = late[len(shown) :]
        assert late.startswith(shown)
        # Space at the beginning waits for <think>, line breaks wait for more, a mark's beginning for the rest, and so
        # does a stop mark's behind it.
        held = without_beginning(held, STOP_MARKS)
        while held.endswith(STOP_MARKS):
            held = held[: held.rindex("<")]
        held = without_beginning(
            held, ("<tool_call>", "<function=f>", "<function=no_parameters>", "</think>", "<think>")
        )
        assert held.strip() == ""


def test_arguments_come_while_they_are_written() -> None:
    stream = ReplyStream(tools=TOOLS)
    assert stream.push('Hi\n<tool_call>\n{"name": "f", "arg') == [ContentPiece("Hi")]
    assert stream.push('uments": {"text": "ab') == [ToolStart(0, "f"), ToolArguments(0, '{"text": "ab')]
    assert stream.push("c 你\\") == [ToolArguments(0, "c 你")]
    assert stream.push('n", "count": 4') == [ToolArguments(0, '\\n", "count": ')]
    assert stream.push("2}") == [ToolArguments(0, "42}")]
    assert stream.push("}\n</tool_call>\n<tool_call>\n<function=f>\n<parameter=text>\nx\ny") == [
        ToolStart(1, "f"),
        ToolArguments(1, '{"text": "x\\ny'),
    ]
    assert stream.push("\n</parameter>\n<parameter=count>\n1") == [ToolArguments(1, '", "count": ')]
    assert stream.push("2\n</parameter>\n</function>\n</tool_call>") == [ToolArguments(1, "12}")]
    assert stream.finish() == []


# -- replies, and what they are


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def hermes(arguments: str, name: str = "f") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def xml(*parameters: tuple[str, str], name: str = "f") -> str:
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


ONE = [call("f", a=1)]
GREP = ("a", "class B\\(")
CUT_OFF = {"type": "function", "function": {"name": "f", "arguments": '{"a": "x'}}
JUNK, NAMELESS = "<tool_call>\n<function=f>\njunk\n</tool_call>", "<tool_call>\n<function=>\n</function>\n</tool_call>"
CODE = '<div>\n  </parameter> "x" {}\n</div>\n'


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        # vLLM 39056, verl 4757: a call inside the thinking is thinking
        (f"<think>\n{hermes('{}')}\n</think>\n\nHi", Reply("Hi", hermes("{}"), [])),
        (f"<think>\n{XML_CALL}\n</think>\n\n{hermes('{}')}", Reply("", XML_CALL, [call("f")])),
        (f"<think>\n{hermes('{}')}", Reply("", hermes("{}"), [])),
        # vLLM 45167: the closing mark in an argument
        (hermes('{"a": "</tool_call>"}'), Reply("", None, [call("f", a="</tool_call>")])),
        # vLLM 21544: braces in an argument
        (hermes('{"a": "mkdir -p test/{test1,test2"}'), Reply("", None, [call("f", a="mkdir -p test/{test1,test2")])),
        # vLLM 28806: no arguments
        (hermes("{}"), Reply("", None, [call("f")])),
        ('<tool_call>\n{"name": "f"}\n</tool_call>', Reply("", None, [call("f")])),
        # vLLM 22975: text in front of an XML call; SGLang 37408: the line break between two calls belongs to neither
        (f"I grep.\n\n{xml(GREP)}", Reply("I grep.", None, [call("f", a="class B\\(")])),
        (f"{xml(('a', 'x'))}\n{xml(('a', 'y'))}", Reply("", None, [call("f", a="x"), call("f", a="y")])),
        # SGLang 34677: an unknown tool beside a known one; 7117: parallel calls
        (f"{hermes('{}', 'unknown')}\n{hermes('{}')}", Reply("", None, [call("unknown"), call("f")])),
        # vLLM 33965: the closing mark in the value of an XML parameter
        (xml(("text", CODE), ("count", "1")), Reply("", None, [call("f", text=CODE, count=1)])),
        # broken calls keep what the model wrote
        ('<tool_call>\n{"name": "f", "arguments": {"a": "x', Reply("", None, [CUT_OFF])),
        (JUNK, Reply(JUNK)),
        (NAMELESS, Reply(NAMELESS)),
        ("a < b <tool <tool_ call> </tool_call>", Reply("a < b <tool <tool_ call> </tool_call>")),
        ("<tool_call><tool_call>" + hermes('{"a": 1}'), Reply("<tool_call><tool_call>", None, ONE)),
        (hermes('{"a": 1}') + " done", Reply(" done", None, ONE)),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\nThat was it.', Reply("That was it.", None, ONE)),
    ],
)  # fmt: skip
def test_replies(text: str, reply: Reply) -> None:
    assert gathered(check_cuts(text, tools=TOOLS)) == reply


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"a": 1,}}', '{"a": 1}'),
        ('{"a": [1, 2,\n], }}', '{"a": [1, 2]}'),
        ("{'a': 'it\\'s \"x\"', 'b': True, 'c': None}}", '{"a": "it\'s \\"x\\"", "b": true, "c": null}'),
        ('{"a": "x\ny\t"}}', '{"a": "x\\ny\\t"}'),
        (r'{"a": "\d+\.\w \u00e9 \u12 \/"}}', r'{"a": "\\d+\\.\\w \u00e9 \\u12 \/"}'),
        # brackets that are missing at the block's end, or too many
        ('{"a": 1', '{"a": 1\n}'),
        ('{"a": {"b": [1,', '{"a": {"b": [1]}}'),
        ('{"a": 1}', '{"a": 1}'),
        ('{"a": 1}}}]', '{"a": 1}'),
        # what can't be mended stays, up to the block's end
        ('{"a": 1e}}', '{"a": 1e}}\n'),
        ('{"a" 1}}', '{"a" 1}}\n'),
        ('{"a": nope}}', '{"a": nope}}\n'),
    ],
)
def test_arguments_are_mended_or_stay_as_they_are(written: str, arguments: str) -> None:
    text = f'<tool_call>\n{{"name": "f", "arguments": {written}\n</tool_call>'
    assert check_cuts(text) == [ToolStart(0, "f"), ToolArguments(0, arguments)]
    assert check_cuts(f"{text}\n{text}")[2:] == [ToolStart(1, "f"), ToolArguments(1, arguments)]


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (("text", "12"), "12"),
        (("text", ""), ""),
        (("text", "\n a \n"), "\n a \n"),
        (("text", '"q" \\ 你'), '"q" \\ 你'),
        (("count", "12"), 12),
        (("count", "twelve"), "twelve"),
        (("count", "012"), "012"),
        (("options", "{'a': [1, None]}"), {"a": [1, None]}),
        (("options", '{"a": '), '{"a": '),
        (("maybe", "null"), None),
        (("maybe", "nullable"), "nullable"),
        (("maybe", "5"), "5"),
        (("kind", "1"), 1),
        (("kind", "a"), "a"),
        (("place", "[1]"), [1]),
        (("any", "True"), True),
        (("any", "yes"), "yes"),
        (("unknown", "5"), "5"),
    ],
)
def test_types_of_xml_parameters(value: tuple[str, str], meant: Any) -> None:
    pieces = check_cuts(xml(value), tools=TOOLS)
    assert gathered(pieces).tool_calls == [call("f", **{value[0]: meant})]
    untyped = check_cuts(xml(value), tools=())
    assert gathered(untyped).tool_calls == [call("f", **{value[0]: value[1]})]


XML_VALUES = st.text(st.sampled_from("ab\n <>/\"'\\你{}"), max_size=12).filter(lambda text: "</p" not in text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["text", "any text", "名"]), XML_VALUES, max_size=3), min_size=1, max_size=3
    )
)
def test_xml_calls_come_back(values: list[dict[str, str]]) -> None:
    text = "\n".join(xml(*arguments.items()) for arguments in values)
    assert gathered(check_cuts(text)).tool_calls == [call("f", **arguments) for arguments in values]


def test_xml_calls_that_models_get_wrong() -> None:
    # Qwen3-Coder forgets the mark around a call: believed only of a tool that is offered.
    bare = "I look.\n" + xml(("count", "1")).removeprefix("<tool_call>\n")
    assert gathered(check_cuts(bare, tools=TOOLS)) == Reply("I look.", None, [call("f", count=1)])
    assert gathered(check_cuts(bare)) == Reply(bare)
    other = bare.replace("=f>", "=g>")
    assert gathered(check_cuts(other, tools=TOOLS)) == Reply(other)
    # It forgets to close a parameter, or the function.
    open_parameter = (
        "<tool_call>\n<function=f>\n<parameter=text>\nx\n<parameter=count>\n1\n</parameter>\n</function>\n</tool_call>"
    )
    assert gathered(check_cuts(open_parameter, tools=TOOLS)).tool_calls == [call("f", text="x", count=1)]
    open_function = xml(("text", "x")).replace("</function>\n", "")
    assert gathered(check_cuts(open_function, tools=TOOLS)).tool_calls == [call("f", text="x")]
    # Several functions in one block.
    two = xml(("text", "x")).replace("</tool_call>", "") + xml(("text", "y")).removeprefix("<tool_call>\n")
    assert gathered(check_cuts(two, tools=TOOLS)).tool_calls == [call("f", text="x"), call("f", text="y")]
    # Cut off: what was meant can't be known, so it is no JSON.
    for end in range(
        len("<tool_call>\n<function=f>\n<parameter=text>"),
        len(xml(("text", "x"))) - len("</function>\n</tool_call>") - 1,
    ):
        cut = xml(("text", "x"))[:end]
        (found,) = gathered(check_cuts(cut, tools=TOOLS)).tool_calls
        assert isinstance(found["function"]["arguments"], str), cut


def test_without_tools_marks_are_content() -> None:
    for text in (JSON_CALL, XML_CALL, "a <tool_call>"):
        assert gathered(check_cuts(text, tools=None)) == Reply(text)
    assert gathered(check_cuts(f"<think>x</think>{JSON_CALL}", tools=None)) == Reply(JSON_CALL, "x")


def test_a_thinking_block_that_the_prompt_opened() -> None:
    assert parse_reply("Hm.\n</think>\n\nHi", thinking_open=True) == Reply("Hi", "Hm.")
    assert parse_reply("Hm.", thinking_open=True) == Reply("", "Hm.")
    assert parse_reply("", thinking_open=True) == Reply("", "")
    assert parse_reply("\n<think>\nHm.", thinking_open=True) == Reply("", "Hm.")
    assert parse_reply("a</think>b", thinking_open=False) == Reply("a</think>b")
    text = '<tool_call>\n{"name": "f", "arguments": {"a": "</think>"}}\n</tool_call>'
    assert parse_reply(text, thinking_open=False) == Reply("", None, [call("f", a="</think>")])


def test_whether_a_prompt_opens_thinking() -> None:
    tokenizer = fixture_tokenizer()
    opening, closing = tokenizer.special("<think>"), tokenizer.special("</think>")
    start = tokenizer.special("<|im_start|>")
    text = tokenizer.encode("x <think>\n")
    assert prompt_opens_thinking(tokenizer, [start, *text, opening, *text])
    assert not prompt_opens_thinking(tokenizer, [start, opening, *text, closing, *text])
    assert not prompt_opens_thinking(tokenizer, [opening, *text, start, *text])
    assert not prompt_opens_thinking(tokenizer, [])


def test_the_form_is_the_templates() -> None:
    assert tool_form(fixture_tokenizer().chat_template) == "hermes"
    assert tool_form("{{ '<tool_call>\\n<function=' + call.name + '>' }}") == "xml"


# -- the scanner of JSON

PYTHON_TEXT = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=6)
JSON_VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(JSON_VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_json_passes_the_scanner_unchanged(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert strict_json(text) == text


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(PYTHON_TEXT, st.lists(PYTHON_TEXT | st.booleans() | st.none(), max_size=3), max_size=3))
def test_python_passes_the_scanner(value: Any) -> None:
    assert json.loads(strict_json(repr(value)) or "") == value


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"{}[]\",:'\\ \n", "1", "-", "e", "null", "True", "\\u0", "a", '"k": ']), max_size=12
    ).map("".join)
)
def test_whatever_the_scanner_completes_is_json(text: str) -> None:
    strict = strict_json(text)
    try:
        value = json.loads(text)
    except ValueError:
        value = strict
    else:
        assert strict is not None
    if strict is not None:
        assert json.loads(strict) == (json.loads(value) if isinstance(value, str) and value is strict else value)


def test_the_scanner_says_how_deep_it_is() -> None:
    scanner = JsonScanner()
    depths = []
    for character in '{"a": [1]} ':
        scanner.push(character)
        depths.append(scanner.depth)
    assert depths == [1, 1, 1, 1, 1, 1, 2, 2, 1, 0, 0] and scanner.done
