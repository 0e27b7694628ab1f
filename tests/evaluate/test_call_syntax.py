"""Values of Java and JavaScript that calls write as texts, and the calls that hold them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate.call_scorer import calls
from qwill.evaluate.call_syntax import literal, value_of
from qwill.evaluate.task import Example
from qwill.evaluate.task_sources import _in_text, _kinds, asked_in

# What bfcl-eval 2026.3.23 reads of these texts is the same, but where a line says otherwise.
JAVA = [
    ("integer", "", "-7", -7), ("integer", "", "7L", "7L"), ("short", "", "x", "x"), ("long", "", "42L", 42),
    ("long", "", "42", "42"), ("float", "", "3e-3F", 0.003), ("float", "", "3.5", "3.5"), ("double", "", "2.5e1", 25.0),
    ("double", "", "2.5f", "2.5f"), ("boolean", "", "true", True), ("boolean", "", "TRUE", "TRUE"),
    ("String", "", "a, b", "a, b"), ("any", "", "new Path('/x')", "new Path('/x')"), ("any", "", "7", "7"),
    ("String", "", '"quoted"', "quoted"),  # there it keeps the quotes
    ("Array", "integer", "new int[]{1, 2,3}", [1, 2, 3]), ("Array", "integer", "new int[] { }", []),
    ("Array", "long", "new long[]{1L, 2}", [1, "2"]), ("Array", "", "words", "words"),
    ("Array", "String", 'new String[]{"a, b", "c"}', ["a, b", "c"]),  # there ['"a', 'b"', '"c"']
    ("ArrayList", "String", 'new ArrayList<String>(Arrays.asList("a", "b"))', ["a", "b"]),
    ("ArrayList", "integer", "new ArrayList<>() {{ add(1); add(2); }}", [1, 2]),
    ("ArrayList", "", "new ArrayList<>()", []),
    ("ArrayList", "any", 'new ArrayList<>(Arrays.asList("id", 42, true))', ["id", 42, True]),  # there texts
    ("HashMap", "", "new HashMap<>()", {}), ("HashMap", "", "new HashMap<String, Object>() {}", {}),
    ("HashMap", "", 'new HashMap<String, Object>() {{ put("a", 1); put("b", "x; y"); }}', {"a": 1, "b": "x; y"}),
    ("HashMap", "", "settings", "settings"),
    ("Set", "", "new HashSet<>()", "new HashSet<>()"),  # there an exception
]  # fmt: skip
JAVASCRIPT = [
    ("integer", "", "12", 12), ("integer", "", "12.0", "12.0"), ("float", "", "12", 12.0), ("Bigint", "", "12n", 12),
    ("Boolean", "", "false", False), ("String", "", "'it'", "it"), ("String", "", "plain", "plain"),
    ("array", "String", "['a', \"b\"]", ["a", "b"]), ("array", "float", "[1, 2.5]", [1.0, 2.5]),
    ("array", "", "[]", []),
    ("array", "integer", "new Array(1, 2)", [1, 2]), ("array", "", "[[1, 2], [3]]", [[1, 2], [3]]),
    ("array", "String", "list", "list"), ("dict", "", "{}", {}),
    ("dict", "", "{a: 'x', \"b\": true}", {"a": "x", "b": True}),
    ("dict", "", "{a: [1, 2], b: {c: 3}}", {"a": [1, 2], "b": {"c": 3}}),  # there cut at the first bracket
    ("dict", "", "{a: 'x, y: z'}", {"a": "x, y: z"}),  # there two keys
    ("dict", "", "options", "options"),
    ("dict", "", "{a}", "{a}"),  # there {}
]  # fmt: skip


@pytest.mark.parametrize(
    ("syntax", "kind", "item", "text", "value"),
    [("java", *case) for case in JAVA] + [("javascript", *case) for case in JAVASCRIPT],
)
def test_values(syntax: str, kind: str, item: str, text: str, value: Any) -> None:
    found = value_of(f" {text} ", syntax, kind, item)
    assert found == value and type(found) is type(value)


@given(st.text(alphabet="ab1\"'\\,;:.(){}[]<>-+eLf newArrayputd", max_size=40), st.sampled_from(["java", "javascript"]))
def test_no_text_is_too_strange(text: str, syntax: str) -> None:
    for kind in ("Array", "ArrayList", "HashMap", "array", "dict", "any", "integer", "double", "float", "boolean"):
        value_of(text, syntax, kind, "String")
    literal(text, syntax)


@given(st.recursive(
    st.booleans() | st.integers(-999, 999) | st.text(alphabet="ab ,:;{}[]()'", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="xyz", min_size=1), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_json_is_javascript(value: Any) -> None:
    assert literal(json.dumps(value), "javascript") == value


def scored(syntax: str | None, types: Any, allowed: Any, arguments: Any) -> float:
    fields = {"syntax": syntax, "types": types} if syntax else {}
    example = Example("0", "", answer=[{"f": allowed}], fields=fields)
    call = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)
    return calls(example, f"<tool_call>\n{call}\n</tool_call>").value


TYPES = {"f": {"n": ["integer", ""], "list": ["Array", "String"], "who": ["any", ""], "map": ["HashMap", ""]}}
ALLOWED = {"n": [5], "list": [["-v", "60"]], "who": ["userID", 2.5], "map": [{"a": ["x", ""]}, "settings", ""]}
RIGHT = {"n": "5", "list": 'new String[]{"-v", "60"}', "who": "userID"}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, 1), ({"n": "5.0"}, 0), ({"n": 5}, 0), ({"who": "2.5"}, 1), ({"who": "USERID"}, 1), ({"who": "other"}, 0),
        ({"map": "settings"}, 1), ({"map": "Settings"}, 0), ({"list": '["-v", "60"]'}, 0), ({"more": "1"}, 0),
        ({"map": 'new HashMap<String, String>() {{ put("a", "X"); }}'}, 1), ({"map": "new HashMap<>()"}, 1),
        ({"map": 'new HashMap<String, String>() {{ put("b", "x"); }}'}, 0),
    ],
)  # fmt: skip
def test_calls_of_java(change: dict[str, Any], right: int) -> None:
    assert scored("java", TYPES, ALLOWED, RIGHT | change) == right


def test_what_the_scorer_cannot_read() -> None:
    assert scored(None, None, {"n": [5]}, {"n": 5}) == 1
    for syntax, types, says in (("ruby", TYPES, "syntax is 'ruby'"), ("java", None, "and types"), ("java", {}, "f.n")):
        with pytest.raises(DataError, match=says):
            scored(syntax, types, {"n": [5]}, {"n": "5"})


def test_the_language_of_a_request() -> None:
    english = "The old man walks slowly to the river with his dogs. " * 40
    chinese = "请把上面的文章概括成三百字的中文摘要，要求通顺。"
    assert asked_in(english) == "en" and asked_in(chinese) == "zh"
    assert asked_in(english + chinese) == "zh" and asked_in(chinese + english) == "zh"
    assert asked_in(english + "Explain the term 胡同." + english) == "en"


def test_how_a_function_of_java_is_told() -> None:
    """In the leaderboard's words: every argument is a text, and what it is in Java stands in its description."""
    described = {"type": "Array", "items": {"type": "String"}, "description": "Words."}
    parameters = {"type": "dict", "properties": {"a": described, "b": {"type": "any", "description": "One."}}}
    function = {"name": "f", "description": "Does.", "parameters": parameters}
    told = _in_text(function, "java")
    assert told["description"] == "Does. Note that the provided function is in Java 8 SDK syntax."
    first, second = told["parameters"]["properties"].values()
    assert first == {
        "type": "string",
        "description": "Words. This is Java Array type parameter in string representation. The list elements are of "
        "type String; they are not in string representation.",
    }
    assert second["description"] == "One. This parameter can be of any type of Java object in string representation."
    assert parameters["properties"]["a"]["type"] == "Array"
    assert _kinds({"f": parameters["properties"]}) == {"f": {"a": ["Array", "String"], "b": ["any", ""]}}
