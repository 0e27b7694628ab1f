"""Random JSON Schemas of the subset that replies can be constrained to, from a seed."""

import json
from typing import Any

import numpy as np

PATTERNS = [
    r"^[a-z]{2,5}$", r"^\d{3}-\d{4}$", r"ab+c", r"^(foo|bar)", r"[0-9]$", r"^\w+@\w+\.com$", r"^$", r'^[^\"]*$', r"\S",
    r"^[A-F0-9]{4}", r".", r'^[^"\\]{2,}$', r"^a|b$", r"^(a|b)$", r"a|^b", r"(^a)", r"^[^\\]+$", r"^[^/]+/[^/]+$",
    r"^[\]\[]+$", r"^\$[0-9]{1,3}(\.[0-9]{2})?$", r"^(?:[a-z]+\.)*[a-z]+$", r"^\W+$", r"^\D{1,3}$", r"^[\s\S]{2}$",
    r"^[^a-z\n]{2,4}$", r"^\/x", r"^(a*)*$", r"^.{2,4}$", r"^x?y?$", r"^[\w.-]+$", r"^\^$", r"^a{0}$", r"^\{\}$",
    r"^[一-鿿]+$", r"^\S+$", r"^[é-ü]+$", r"^\t$", r"^\x41$", r"^\u0041$", r"(a|b)(c|d)", r"^[-a]+$", r"^[a-]+$",
]  # fmt: skip
FORMATS = ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
VALUES = [
    1,
    "x",
    '你好\n"',
    None,
    True,
    {"a": [1, 2]},
    [],
    3.5,
    "</think>",
    "e\u0301",
    -0.0,
    1e15,
    "\u0000\u001f😀",
    "\\",
]
NAMES = ["a", "b", "c", "名", "x y", 'quote"d', "back\\slash", ""]
LEAVES = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "format", "types"]
BRANCHES = ["object", "object", "array", "array", "anyOf", "oneOf", "allOf", "prefixItems", "map", "ref", "any"]


def random_schema(seed: int) -> dict[str, Any]:
    """The schema of a seed."""
    rng = np.random.default_rng(seed)
    own = _schema(rng, 0, True)
    rest = {"properties": {"p": own, "q": _schema(rng, 1, True)}, "required": ["p"], "additionalProperties": False}
    schema = own if rng.random() < 0.5 else {"type": "object", **rest}
    if '"$ref"' in json.dumps(schema):
        definitions: dict[str, Any] = {f"d{i}": _schema(rng, 2, False) for i in range(2)}
        link = {"type": "object", "properties": {"next": {"$ref": "#/$defs/d2"}, "v": {"type": "integer"}}}
        schema = {**schema, "$defs": {**definitions, "d2": {**link, "required": ["v"]}}}
    return schema


def _schema(rng: np.random.Generator, depth: int, references: bool) -> dict[str, Any]:
    kind = _one(rng, LEAVES if depth >= 3 else LEAVES + BRANCHES)
    if kind == "ref" and not references:
        kind = "any"
    made = _leaf(rng, kind) if kind in LEAVES else _branch(rng, kind, depth + 1, references)
    if rng.random() < 0.1:
        made = {"title": "T", **made, "description": "said"}
    return made


def _leaf(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    if kind == "string":
        return {"type": "string", **_some(rng, minLength=int(rng.integers(4)), maxLength=int(rng.integers(4, 12)))}
    if kind in ("integer", "number"):
        scale = 1 if kind == "integer" or rng.random() < 0.5 else 8
        low, high = (int(x) / scale if scale > 1 else int(x) for x in sorted(rng.integers(-1000, 1000, 2)))
        bounds = _some(rng, **{_one(rng, ["minimum", "exclusiveMinimum"]): low})
        bounds |= _some(rng, **{_one(rng, ["maximum", "exclusiveMaximum"]): high + 20})
        step = int(rng.integers(1, 9)) if kind == "integer" or rng.random() < 0.5 else _one(rng, [0.5, 0.25])
        return {"type": kind, **bounds, **({"multipleOf": step} if rng.random() < 0.2 else {})}
    if kind in ("boolean", "null"):
        return {"type": kind}
    if kind == "enum":
        return {"enum": [VALUES[i] for i in rng.choice(len(VALUES), rng.integers(1, 4), replace=False)]}
    if kind == "const":
        return {"const": _one(rng, [*VALUES, {"b": {"c": "d"}}, [1, "z"]])}
    if kind == "pattern":
        return {"type": "string", "pattern": _one(rng, PATTERNS), **({"maxLength": 40} if rng.random() < 0.3 else {})}
    if kind == "format":
        return {"type": "string", "format": _one(rng, FORMATS)}
    return {"type": _one(rng, [["string", "null"], ["integer", "boolean"], ["array", "null"], ["object", "string"]])}


def _branch(rng: np.random.Generator, kind: str, depth: int, references: bool) -> dict[str, Any]:
    def inner() -> dict[str, Any]:
        return _schema(rng, depth, references)

    if kind == "ref":
        return {"$ref": f"#/$defs/d{rng.integers(3)}"}
    if kind == "any":
        return {}
    if kind == "anyOf":
        return {"anyOf": [inner() for _ in range(rng.integers(1, 4))]}
    if kind == "oneOf":
        tagged = [
            {"type": "object", "properties": {"kind": {"const": c}, "v": inner()}, "required": ["kind"]} for c in "pq"
        ]
        constants = [{"const": "p", "title": "P"}, {"const": 1}, {"enum": ["q", None]}]
        return {"oneOf": _one(rng, [tagged, constants, [{"type": "string"}, {"type": "integer", "minimum": 3}]])}
    if kind == "allOf":
        if rng.random() < 0.4:
            return {
                "allOf": [{"type": "integer", "minimum": int(rng.integers(-9, 9))}, {"maximum": 50}, {"multipleOf": 2}]
            }
        return {
            "allOf": [
                {"type": "object", "properties": {"a": inner()}, "required": ["a"]},
                {"properties": {"b": inner()}},
            ]
        }
    if kind == "prefixItems":
        items = {"items": inner() if rng.random() < 0.6 else False} if rng.random() < 0.5 else {}
        counts = _some(rng, minItems=int(rng.integers(3)), maxItems=int(rng.integers(3, 5)))
        return {"type": "array", "prefixItems": [inner() for _ in range(rng.integers(1, 3))], **items, **counts}
    if kind == "map":
        return {"type": "object", "additionalProperties": inner()}
    if kind == "array":
        items = {"items": inner()} if rng.random() < 0.8 else {}
        return {"type": "array", **items, **_some(rng, minItems=int(rng.integers(3)), maxItems=int(rng.integers(3, 6)))}
    names = [NAMES[i] for i in rng.choice(len(NAMES), rng.integers(5), replace=False)]
    more: list[Any] = [False, False, inner(), True]
    closed = {"additionalProperties": _one(rng, more)} if rng.random() < 0.7 else {}
    required = {"required": [name for name in names if rng.random() < 0.7]} if rng.random() < 0.7 else {}
    typed = {"type": "object"} if rng.random() < 0.9 else {}
    return {**typed, "properties": {name: inner() for name in names}, **required, **closed}


def _one(rng: np.random.Generator, of: list[Any]) -> Any:
    return of[rng.integers(len(of))]


def _some(rng: np.random.Generator, **keywords: Any) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if rng.random() < 0.5}
