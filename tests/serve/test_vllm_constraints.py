"""Constraints before vLLM: each kind gives the reply that our engine gives, and its grammar is one that compiles."""

from __future__ import annotations

import json
from typing import Any

import pytest
from before_vllm import CHAT, IDS, TEXT, THINK, TOOL, TURN, check_same
from serving import Server

from qwill.engine.constraint import Constraint
from qwill.serve.vllm_request import lark_of

ONE = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": ONE}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tools required": (CHAT, {"messages": [TURN], "tools": [TOOL], "tool_choice": "required"}),
    "tools, thinking": (CHAT, {"messages": [TURN], "tools": [TOOL], "tool_choice": "required", **THINK}),
    "tools, budget": (CHAT, {"messages": [TURN], "tools": [TOOL], "tool_choice": "required", "thinking_budget": 4}),
    "schema": (CHAT, {"messages": [TURN], "response_format": SCHEMA}),
    "schema, thinking": (CHAT, {"messages": [TURN], "response_format": SCHEMA, **THINK}),
    "choice, thinking": (CHAT, {"messages": [TURN], "guided_choice": ["yes", "no"], **THINK}),
    "choice, budget": (CHAT, {"messages": [TURN], "guided_choice": ["yes", "no"], "thinking_budget": 3}),
    "json": (CHAT, {"messages": [TURN], "response_format": {"type": "json_object"}}),
    "regex": (TEXT, {"prompt": IDS, "guided_regex": "[ab]{3}c/d"}),
    "lark": (TEXT, {"prompt": IDS, "guided_grammar": 'start: "x" y\ny: /[0-9]{2}/'}),
}


@pytest.mark.parametrize("case", CASES)
def test_constrained_replies_are_those_of_our_engine(ours: Server, theirs: Server, case: str) -> None:
    check_same(ours, theirs, *CASES[case])


@pytest.mark.parametrize("thinking", ["none", "allowed", "open", "closed"])
@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", "[ab]c/d"),
        Constraint("json_schema", json.dumps(ONE)),
        Constraint("json_object"),
        Constraint("choice", '["start: x", "no"]'),
        Constraint("lark", 'start: "x" start | y\ny[capture]: /start/'),
        Constraint("lark", '%llguidance {}\nstart[max_tokens=5]: "x"\nrestart: "start"'),
    ],
)
def test_grammars_with_thinking_are_one_that_compiles(constraint: Constraint, thinking: Any) -> None:
    from llguidance import LLMatcher

    marks = {"<think>": 342, "</think>": 343, "<tool_call>": 332, "</tool_call>": 333}
    text = lark_of(constraint, marks, thinking)
    assert LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(text)) == "", text
