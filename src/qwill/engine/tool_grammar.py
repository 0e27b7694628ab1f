"""Grammars of tool calls, in llguidance's dialect of Lark: the envelope letter for letter as the model's template
writes it, the arguments by the tool's JSON Schema.

Where the tokenizer has `<tool_call>` as a token, the grammar asks for that token, as the model was taught.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qwill.base.errors import DataError
from qwill.engine.json_schema import check_schema, prepared

# At most one line break and its indentation wherever JSON allows space: a model can't go on with it for ever.
JSON_OPTIONS = {"whitespace_pattern": r"\n?[ \t]{0,40}"}
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_TEXT = r"/(?s:.*)/"


def literal(text: str) -> str:
    """A Lark terminal that matches exactly this text."""
    return "/" + "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text) + "/"


def json_rule(schema: Mapping[str, Any]) -> str:
    """A Lark expression for JSON by a schema that has been checked."""
    # In the order of a schema's keys the compiler finds that of the properties, so they are not sorted.
    return "%json " + json.dumps(prepared(schema) | {"x-guidance": JSON_OPTIONS})


def tools_grammar(spec: str, specials: Mapping[str, int]) -> str:
    """The grammar of a constraint of kind "tools" (see `Constraint`). `specials`: ids of special tokens by name.

    Raises DataError naming the tool and the keyword that can't be kept.
    """
    wanted = _read(spec)
    choice, form = wanted["choice"], wanted["form"]
    schemas: dict[str, dict[str, Any]] = {}
    for i, tool in enumerate(wanted["tools"], start=1):
        name, schema = _schema(tool, i, choice, form)
        schemas[name] = schema
    named = choice not in ("required", "auto")
    if named and choice not in schemas:
        raise DataError(f"tool_choice names {choice!r}, which isn't among the tools ({', '.join(schemas)}); name one.")
    if named:
        schemas = {choice: schemas[choice]}
    rules: list[str] = []
    for i, (name, schema) in enumerate(schemas.items()):
        rules += _xml_rules(i, name, schema) if form == "xml" else _hermes_rules(i, name, schema)
    calls = " | ".join(f"call_{i}" for i in range(len(schemas)))
    begin, end = (f"<[{specials[mark]}]>" if mark in specials else literal(mark) for mark in (OPEN, CLOSE))
    several = wanted["parallel"] and not named
    return "\n".join(
        [*_start(choice == "auto", several, begin, OPEN in specials), f"end: {end}", f"call: {calls}", *rules]
    )


def _start(auto: bool, several: bool, begin: str, is_token: bool) -> list[str]:
    """Where calls stand in a reply, each on lines of its own as the template puts them."""
    block = f"{literal(chr(10))} call {literal(chr(10))} end"
    following = f" ({literal(chr(10))} {begin} {block})*" if several else ""
    if not auto:
        return [f"start: {begin} {block}{following}"]
    if is_token:
        return [f"start: {_TEXT} ({begin} {block}{following})?"]
    # Without a token of its own the mark is found in the text, at the first place where it stands.
    return [f"start: {_TEXT} | head {block}{following}", f"head[lazy]: /(?s:.*){literal(OPEN)[1:]}"]


def _hermes_rules(i: int, name: str, schema: Mapping[str, Any]) -> list[str]:
    head = literal('{"name": ' + json.dumps(name, ensure_ascii=False) + ', "arguments": ')
    return [f"call_{i}: {head} {json_rule(schema)} {literal('}')}"]


def _xml_rules(i: int, name: str, schema: Mapping[str, Any]) -> list[str]:
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    rules: list[str] = []
    parts: list[str] = []
    for k, (parameter, inner) in enumerate(properties.items()):
        rule = f"call_{i}_{k}"
        parts.append(rule if parameter in required else f"{rule}?")
        begin, end = literal(f"<parameter={parameter}>\n"), literal("\n</parameter>\n")
        rules.append(f"{rule}: {begin} {_xml_value(inner, schema, rule, end, rules)}")
    head, tail = literal(f"<function={name}>\n"), literal("</function>")
    return [f"call_{i}: {head} {' '.join(parts)} {tail}", *rules]


def _xml_value(schema: Any, root: Mapping[str, Any], rule: str, end: str, rules: list[str]) -> str:
    """A value and what closes it. A text stands there without quotes and ends at the first closing mark."""
    texts = (
        schema.get("enum", [schema["const"]] if "const" in schema else None) if isinstance(schema, Mapping) else None
    )
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        return f"({' | '.join(literal(text) for text in texts)}) {end}"
    if may_be_text(schema, root):
        rules.append(f"{rule}_value[lazy]: /(?s:.*){end[1:]}")
        return f"{rule}_value"
    kept = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return f"{json_rule({**schema, **kept})} {end}"


def may_be_text(schema: Any, root: Mapping[str, Any], depth: int = 0) -> bool:
    """Whether a schema allows a text."""
    if not isinstance(schema, Mapping) or depth > 8:
        return schema is not False
    if "$ref" in schema:
        inner: Any = root
        for part in schema["$ref"][2:].split("/") if schema["$ref"] != "#" else []:
            inner = inner.get(part, True) if isinstance(inner, Mapping) else True
        return may_be_text(inner, root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return any(may_be_text(each, root, depth + 1) for each in schema[key])
    if "allOf" in schema:
        return all(may_be_text(each, root, depth + 1) for each in schema["allOf"])
    named = schema.get("type")
    if named is not None:
        return named == "string" or (isinstance(named, list) and "string" in named)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return values is None or any(isinstance(value, str) for value in values)


def _read(spec: str) -> dict[str, Any]:
    try:
        wanted = json.loads(spec)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the tools are no JSON ({error}); send OpenAI's list of tools.") from error
    tools = wanted.get("tools") if isinstance(wanted, dict) else None
    if not isinstance(tools, list) or not tools:
        raise DataError("a tool is to be called, but no tools are given; send at least one, or no tool_choice.")
    form = wanted.get("form", "hermes")
    if form not in ("hermes", "xml"):
        raise DataError(f"form is {form!r}; expected hermes or xml.")
    return {
        "tools": tools,
        "choice": wanted.get("choice", "required"),
        "parallel": bool(wanted.get("parallel", True)),
        "form": form,
    }


def _schema(tool: Any, i: int, choice: str, form: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments' schema of a tool. A tool that isn't strict, and whose schema can't be kept, takes any
    object."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name or any(c in "<>\n" for c in name):
        raise DataError(f"tool {i} has no name; expected {{'type': 'function', 'function': {{'name': ...}}}}.")
    schema = function.get("parameters") or {}
    where = f"the parameters of tool {name!r}"
    if not isinstance(schema, Mapping):
        raise DataError(f"{where} are {type(schema).__name__}; expected a JSON Schema object.")
    if choice == "auto" and not function.get("strict"):
        return name, _loosened(schema, form)
    try:
        check_schema(schema, where)
        if schema.get("type", "object") != "object":
            raise DataError(f"{where} have type {schema['type']!r}; arguments are always an object: use 'object'.")
        if form == "xml":
            _check_xml(schema, where)
    except DataError:
        if function.get("strict"):
            raise
        return name, _loosened(schema, form)
    return name, {"type": "object", **schema}


def _loosened(schema: Mapping[str, Any], form: str) -> dict[str, Any]:
    """What is asked of the arguments of a tool that isn't strict: an object, in XML with the parameters' names."""
    properties = schema.get("properties")
    if form == "hermes" or not isinstance(properties, Mapping):
        return {"type": "object"}
    return {"type": "object", "properties": {name: True for name in properties if not any(c in "<>\n" for c in name)}}


def _check_xml(schema: Mapping[str, Any], where: str) -> None:
    """The XML form writes texts without quotes, to their closing mark: nothing else can be asked of them."""
    for name, inner in schema.get("properties", {}).items():
        if isinstance(inner, Mapping) and may_be_text(inner, schema):
            asked = [k for k in ("pattern", "format", "minLength", "maxLength") if k in inner]
            if asked:
                raise DataError(
                    f"{where} use {asked[0]!r} at #/properties/{name}, which this model's form of calls can't keep; "
                    "leave it out."
                )
