"""Constrained replies: every one that stops is valid, whatever the model would have liked to say."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from guided_sampling import allowed, draw, reply
from hypothesis import given, settings
from hypothesis import strategies as st
from random_schemas import random_schema
from schema_checker import problems
from tiny import byte_tokenizer

from qwill.base.errors import DataError
from qwill.engine import json_schema
from qwill.engine.constrain import Guide, fill_masks
from qwill.engine.constraint import KINDS, Constraint, check
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

TOKENIZER = byte_tokenizer()


def merged_tokenizer() -> Tokenizer:
    """Single bytes, and tokens that cross the borders of what a grammar tells apart."""
    more = [*b'{": ", " "} }, ]} ab abc 12 tr true'.split(), b'": ', b'", "', b"\n\n", "你".encode(), "你好".encode()]
    tokens = [bytes([b]) for b in range(256)] + more
    return Tokenizer.from_trained({to_characters(token): i for i, token in enumerate(tokens)}, [])


MERGED = merged_tokenizer()


def schema_constraint(schema: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(schema))


@pytest.mark.parametrize("tokenizer", [TOKENIZER, MERGED], ids=["bytes", "merged"])
def test_replies_that_stop_are_valid(tokenizer: Tokenizer) -> None:
    stopped = refused = 0
    for seed in range(60 if tokenizer is TOKENIZER else 1060)[-60:]:
        schema = random_schema(seed)
        constraint = schema_constraint(schema)
        try:
            check(constraint)
        except DataError as error:
            assert "nsatisfiable" in str(error), schema
            refused += 1
            continue
        ids, guide = draw(tokenizer, constraint, seed)
        if guide.finished:
            stopped += 1
            text = tokenizer.decode(ids)
            assert problems(json.loads(text), schema) == [], (schema, text)
    assert stopped >= 48 and refused <= 4


def test_the_checker_of_schemas_can_say_no() -> None:
    """Values of one schema are mostly not those of another one."""
    caught = 0
    for seed in range(40):
        ids, guide = draw(TOKENIZER, schema_constraint(random_schema(seed)), seed)
        if guide.finished:
            caught += bool(problems(json.loads(TOKENIZER.decode(ids)), random_schema(seed + 500)))
    assert caught > 25
    for value, schema in [
        (1, {"type": "string"}), (1.5, {"type": "integer"}), (True, {"type": "integer"}), (True, {"enum": [1]}),
        ("a", {"minLength": 2}), ([1], {"items": {"minimum": 2}}), ({"a": 1}, {"additionalProperties": False}),
        ({}, {"required": ["a"]}), (3, {"multipleOf": 2}), ("b", {"pattern": "^a"}), (1, {"oneOf": [{}, {}]}),
        ("2023-02-29", {"format": "date"}), ("12:00:60Z", {"format": "time"}), ("1.2.3", {"format": "ipv4"}),
        ([1, 2], {"prefixItems": [{}], "items": False}), (1, {"$ref": "#/$defs/a", "$defs": {"a": {"maximum": 0}}}),
    ]:  # fmt: skip
        assert problems(value, schema), (value, schema)
        assert problems(value, {"anyOf": [schema, {}]}, root=schema) == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"not": {}}, "uses 'not' at #, which isn't supported"),
        ({"properties": {"a": {"items": {"uniqueItems": True}}}}, "uses 'uniqueItems' at #/properties/a/items,"),
        ({"x-guidance": {"lenient": True}}, "uses 'x-guidance' at #,"),
        ({"$defs": {"a": {"if": {}}}}, "uses 'if' at #/$defs/a,"),
        ({"typ": "object"}, "uses 'typ' at #,"),
        ({"type": "strin"}, "at #/type is \"strin\"; expected one of string, number"),
        ({"anyOf": []}, "at #/anyOf is []; expected a list of at least one schema"),
        ({"items": [{}]}, "at #/items is list; expected a schema: an object, true or false"),
        ({"minLength": -1}, "at #/minLength is -1; expected a whole number"),
        ({"multipleOf": 0.1}, "at #/multipleOf is 0.1; expected a number above 0 that is whole or"),
        ({"maximum": 1e300}, "at #/maximum is 1e+300; expected a number below 2^53"),
        ({"enum": [[1e30]]}, "at #/enum is [[1e+30]]; expected a list of at least one value, numbers below 2^53"),
        ({"format": "color"}, "at #/format is \"color\"; expected one of date-time"),
        ({"$ref": "https://example.com/a"}, "expected a reference to a part of this schema"),
        ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "expected a reference to a part of this schema"),
        ({"pattern": "(?=a)b"}, "can't be used (look-around"),
        ({"pattern": "[a"}, "can't be used (unclosed character class)"),
        ({"pattern": "a\\0"}, "without NUL"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "can't be used (Unsatisfiable schema: minimum (3)"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "the branches of a oneOf may hold together"),
        ({"required": "a"}, "at #/required is \"a\"; expected a list of names"),
        ({"a" * 300: 1}, "isn't supported"),
    ],
)  # fmt: skip
def test_what_a_schema_must_not_ask_for(schema: dict, said: str) -> None:
    with pytest.raises(DataError) as error:
        check(schema_constraint(schema))
    assert said in str(error.value) and "\n" not in str(error.value)


UNSUPPORTED = [
    "not",
    "if",
    "then",
    "dependentSchemas",
    "contains",
    "patternProperties",
    "propertyNames",
    "unevaluatedItems",
    "minProperties",
    "maxProperties",
    "contentEncoding",
    "$anchor",
    "uniqueItems",
]


@pytest.mark.parametrize("keyword", UNSUPPORTED)
@pytest.mark.parametrize("path", [[], ["items"], ["properties", "a"], ["anyOf", 0], ["$defs", "d"], ["allOf", 1]])
def test_unsupported_keywords_are_named_with_their_path(keyword: str, path: list) -> None:
    assert keyword not in json_schema.KEYWORDS
    schema: Any = {keyword: {}}
    for step in reversed(path):
        schema = [{}] * step + [schema] if isinstance(step, int) else {step: schema}
    with pytest.raises(DataError) as error:
        check(schema_constraint(schema))
    where = "#" + "".join(f"/{step}" for step in path)
    assert f"uses {keyword!r} at {where}," in str(error.value)


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("regex", "[a", "the regex can't be used (unclosed character class)"),
        ("regex", "(?<=a)b", "the regex can't be used (look-around"),
        ("lark", "start: foo", 'the grammar can\'t be used (line 1, character 8: unknown name: "foo")'),
        ("lark", 'start: a\na: "x" )', "line 2, character 8: expecting rule"),
        ("lark", "", "Empty grammar"),
        (
            "lark",
            'start: %json {"anyOf": [{"not": {}}]}',
            "the schema in line 1 of the grammar uses 'not' at #/anyOf/0",
        ),
        ("lark", "start: " + "(" * 5000, "too deeply nested"),
        ("lark", "".join(f"r{i}: r{i + 1}\n" for i in range(5000)), "over 1000 colons"),
        ("choice", "[]", "choice must be a list of texts"),
        ("choice", '["a", ""]', "choice must be a list of texts"),
        ("choice", "no", "choice must be a list of texts"),
        ("json_schema", "{", "the schema is no JSON (Expecting property name"),
        ("json_schema", "true", "the schema is bool; expected a JSON Schema object"),
        ("json_schema", "[" * 100_000, "the schema is no JSON"),
        ("json_schema", '{"items":' * 100 + "{}" + "}" * 100, "too large at #/items/items"),
        ("json_schema", json.dumps({"properties": {str(i): {} for i in range(2000)}}), "at most 1000 schemas"),
        ("json_schema", " " * 300_000, "at most 262144 are taken"),
        ("tools", "{}", "no tools are given"),
        ("other", "", "a constraint of kind 'other' isn't known"),
    ],
)
def test_mistakes_are_one_sentence(kind: Any, spec: str, said: str) -> None:
    for attempt in (check, lambda constraint: Guide(TOKENIZER, constraint)):
        with pytest.raises(DataError) as error:
            attempt(Constraint(kind, spec))
        assert said in str(error.value) and "\n" not in str(error.value)


KEYS = st.sampled_from([*json_schema.KEYWORDS, "tools", "choice", "form", "function", "name", "parameters"])
LOOSE: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(json_schema.KEYWORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.text(max_size=30) | LOOSE.map(json.dumps))
def test_no_constraint_ends_in_a_traceback(kind: Any, spec: str) -> None:
    try:
        check(Constraint(kind, spec))
        Guide(TOKENIZER, Constraint(kind, spec)).mask()
    except DataError as error:
        assert "\n" not in str(error)


def test_other_kinds() -> None:
    texts = ("yes", "no", 'a "b" 你/')
    for seed in range(20):
        assert isinstance(json.loads(reply(Constraint("json_object"), seed, TOKENIZER)), dict)
        assert reply(Constraint("choice", json.dumps(texts)), seed, TOKENIZER) in texts
        assert set(reply(Constraint("regex", "[ab]{2,5}"), seed, TOKENIZER)) <= set("ab")
        sum_ = reply(Constraint("lark", 'start: NUMBER ("+" NUMBER)*\nNUMBER: /[1-9][0-9]?/'), seed, TOKENIZER)
        assert all(number.isdigit() and len(number) <= 2 for number in sum_.split("+"))


# -- thinking, stop tokens, masks


def test_thinking_is_free_and_comes_before() -> None:
    think, close = TOKENIZER.special("<think>"), TOKENIZER.special("</think>")
    yes = '["yes"]'
    guide = Guide(TOKENIZER, Constraint("choice", yes, "allowed"))
    assert set(allowed(guide.mask()).tolist()) == {think, ord("y")}
    guide.accept(think)
    for constraint, start in ((Constraint("choice", yes, "allowed"), [think]), (Constraint("choice", yes, "open"), [])):
        guide = Guide(TOKENIZER, constraint)
        for token in start:
            guide.accept(token)
        mask = set(allowed(guide.mask()).tolist())
        assert mask == {*range(256), close} and guide.forced() == []
        for token in [*TOKENIZER.encode("Hm, no."), close]:
            guide.accept(token)
        assert guide.forced() == TOKENIZER.encode("\n\n")
        for token in guide.forced():
            assert allowed(guide.mask()).tolist() == [token]
            guide.accept(token)
        assert guide.forced() == TOKENIZER.encode("yes")
        with pytest.raises(DataError, match="isn't allowed here"):
            guide.copy().accept(close)
    straight = Guide(TOKENIZER, Constraint("choice", yes, "allowed"))
    straight.accept(ord("y"))
    assert allowed(straight.mask()).tolist() == [ord("e")]


def test_any_stop_token_ends_a_reply_and_only_a_complete_one() -> None:
    constraint = Constraint("regex", "ab*")
    stops = [TOKENIZER.special("<|im_end|>"), ord("z"), TOKENIZER.special("<|endoftext|>"), 10_000]
    guide = Guide(TOKENIZER, constraint, stops)
    assert allowed(guide.mask()).tolist() == [ord("a")]
    with pytest.raises(DataError, match="isn't allowed here by the constraint of kind 'regex'"):
        guide.copy().accept(stops[0])
    guide.accept(ord("a"))
    assert set(allowed(guide.mask()).tolist()) == {ord("b"), *stops[:3]}
    for stop in stops[:3]:
        twin = guide.copy()
        twin.accept(stop)
        assert twin.finished and set(allowed(twin.mask()).tolist()) == set(stops[:3])
    # A stop token that the grammar wants as a letter would end the reply in the middle.
    guide = Guide(TOKENIZER, Constraint("regex", "az?b"), stops)
    guide.accept(ord("a"))
    assert allowed(guide.mask()).tolist() == [ord("b")]
    # Without stop tokens a reply ends when nothing can follow.
    guide = Guide(TOKENIZER, Constraint("choice", '["ab"]'), [])
    for token in b"ab":
        assert not guide.finished
        guide.accept(token)
    assert guide.finished


def test_masks_of_a_batch_are_those_of_each_and_never_spare_rows() -> None:
    width = -(-(TOKENIZER.padded_vocab_size + 64) // 32)
    constraints = [
        schema_constraint({"type": "object", "required": ["a"]}),
        Constraint("regex", "(?s:.*)"),
        Constraint("choice", '["x"]', "open"),
        Constraint("choice", '["x"]'),
    ]
    guides: list[Guide | None] = [Guide(TOKENIZER, c) for c in constraints]
    guides[3].accept(ord("x"))
    guides.insert(1, None)
    mask_BW = torch.full((5, width), 123, dtype=torch.int32)
    fill_masks(guides, mask_BW)
    assert (mask_BW[1] == -1).all()
    for row, guide in enumerate(guides):
        if guide is not None:
            own = allowed(guide.mask()).tolist()
            assert allowed(mask_BW[row].numpy()).tolist() == own
            assert own and max(own) < TOKENIZER.vocab_size
    fill_masks([None] * 5, mask_BW)
    assert (mask_BW == -1).all()


@pytest.mark.parametrize("seed", range(6))
def test_forced_tokens_are_the_only_choice_and_asking_for_them_leaves_the_guide_alone(seed: int) -> None:
    properties = {"first name": {"enum": ["Ada", "Al"]}, "é": {"const": "e\u0301"}, "n": {"type": "integer"}}
    closed = {"required": list(properties), "additionalProperties": False}
    constraint = schema_constraint({"type": "object", "properties": properties, **closed})
    ids, guide = draw(MERGED, constraint, seed)
    assert guide.finished
    guide = Guide(MERGED, constraint)
    for token in ids:
        before = guide.mask()
        forced = guide.forced()
        if forced:
            twin = guide.copy()
            for token_ in forced:
                assert token_ in allowed(twin.mask())
                twin.accept(token_)
        assert (guide.mask() == before).all()
        guide.accept(token)


def test_the_server_can_check_without_torch() -> None:
    code = "from qwill.engine.constraint import *; import sys; check(Constraint('regex', 'a'))"
    code += "; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
