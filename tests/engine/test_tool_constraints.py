"""Calls of tools under a constraint: their envelope and their schema, in either form."""

import json
from typing import Any

import pytest
from guided_sampling import allowed, reply
from schema_checker import problems
from tiny import byte_tokenizer

from qwill.base.errors import DataError
from qwill.engine.constrain import Guide
from qwill.engine.constraint import Constraint, check
from qwill.text.parse import parse_reply
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

TOKENIZER = byte_tokenizer()

FUNCTION = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "北京", "<&\"'>"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 99},
        "where": {"$ref": "#/$defs/where"},
        "unit": {"const": "C"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"where": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
}
WEATHER = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": FUNCTION}}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}


def tools(choice: str, form: str, offered: Any = (WEATHER, TIME), parallel: bool = True) -> Constraint:
    spec = {"tools": list(offered), "choice": choice, "form": form, "parallel": parallel}
    return Constraint("tools", json.dumps(spec))


def without_marks() -> Tokenizer:
    """A tokenizer that has no tokens for the marks of calls, as SmolLM2's."""
    vocabulary = {to_characters(bytes([b])): b for b in range(256)}
    return Tokenizer.from_bpe([*vocabulary, "<|im_end|>"], [], {256}, "smollm")


@pytest.mark.parametrize("form", ["hermes", "xml"])
@pytest.mark.parametrize("tokenizer", [TOKENIZER, without_marks()], ids=["marks", "no marks"])
def test_calls_follow_their_schema(form: str, tokenizer: Tokenizer) -> None:
    names = set()
    for seed in range(12):
        for choice, parallel in (("required", True), ("required", False), ("weather", True)):
            text = reply(tools(choice, form, parallel=parallel), seed, tokenizer)
            found = parse_reply(text, False, [WEATHER, TIME])
            assert found.content == "" and found.reasoning_content is None and found.tool_calls
            assert len(found.tool_calls) == 1 or (choice == "required" and parallel)
            for called in found.tool_calls:
                name, arguments = called["function"]["name"], called["function"]["arguments"]
                names.add(name)
                assert choice in ("required", name)
                assert problems(arguments, FUNCTION if name == "weather" else {"type": "object"}) == [], text
    assert names == {"weather", "time"}


@pytest.mark.parametrize("tokenizer", [TOKENIZER, without_marks()], ids=["marks", "no marks"])
def test_with_choice_auto_text_is_free_and_calls_are_not(tokenizer: Tokenizer) -> None:
    for form in ("hermes", "xml"):
        guide = Guide(tokenizer, tools("auto", form, [WEATHER]))
        marks = [tokenizer.specials[m] for m in ("<tool_call>",) if m in tokenizer.specials] or tokenizer.encode(
            "<tool_call>"
        )
        for token in [*tokenizer.encode("Let me <see>."), *marks]:
            mask = set(allowed(guide.mask()).tolist())
            assert token in mask and (set(tokenizer.stop_ids) <= mask or token in marks[1:])
            guide.accept(token)
        head = (
            '\n{"name": "weather", "arguments": {' if form == "hermes" else "\n<function=weather>\n<parameter=city>\n"
        )
        assert tokenizer.decode(guide.forced()) == head
        assert not set(tokenizer.stop_ids) & set(allowed(guide.mask()).tolist())


def test_tools_that_are_not_strict_are_asked_what_can_be_asked() -> None:
    loose = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}, "b": {"type": "integer"}}}}
    for form in ("hermes", "xml"):
        check(tools("required", form, [{"type": "function", "function": loose}]))
        with pytest.raises(DataError, match="the parameters of tool 'f' uses 'not' at #/properties/a"):
            check(tools("required", form, [{"type": "function", "function": loose | {"strict": True}}]))
    typed = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x"}}}
    strict = {"type": "function", "function": {"name": "f", "strict": True, "parameters": typed}}
    check(tools("required", "hermes", [strict]))
    with pytest.raises(DataError, match="'pattern' at #/properties/a, which this model's form of calls can't keep"):
        check(tools("required", "xml", [strict]))
    with pytest.raises(DataError, match="tool_choice names 'g', which isn't among the tools \\(weather, time\\)"):
        check(tools("g", "hermes"))


def test_free_texts_in_xml_end_at_their_mark() -> None:
    free = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}, "b": {}}}},
    }
    text = (
        "<tool_call>\n<function=f>\n<parameter=a>\n</parameter> <x>\n\n</parameter>\n<parameter=b>\n12\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    tokenizer = without_marks()
    guide = Guide(tokenizer, tools("f", "xml", [free]))
    for token in tokenizer.encode(text):
        assert token in allowed(guide.mask()) and not guide.finished
        guide.accept(token)
    assert guide.finished
    (called,) = parse_reply(text, False, [free]).tool_calls
    assert called["function"]["arguments"] == {"a": "</parameter> <x>\n", "b": 12}
