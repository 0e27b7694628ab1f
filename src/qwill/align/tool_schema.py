"""A Python function as a tool: its JSON schema, made from its signature and docstring."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from qwill.base.errors import DataError

_SIMPLE: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_SECTION = re.compile(
    r"^[ \t]*(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|参数|返回)[:：][ \t]*$", re.M
)
_ARGUMENT = re.compile(r"^[ \t]*(\w+)[ \t]*(?:\([^)]*\))?[ \t]*[:：][ \t]*(.+)$")


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The function in OpenAI's form. The docstring's beginning describes it, its section `Args:` the arguments, one a
    line (`name: what it is`). Raises DataError for an argument without a type that JSON has, and without a docstring.
    """
    name, doc = function.__name__, inspect.getdoc(function)
    if not doc:
        raise DataError(f"has no docstring to tell the model what {name} does; write one.")
    described = _arguments(doc)
    hints = get_type_hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for argument, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise DataError(f"takes {parameter}, which a model can't give by name; give {name} named arguments only.")
        if argument not in hints:
            raise DataError(f"has no type for the argument {argument}; annotate it, as in `{argument}: float`.")
        properties[argument] = _type(hints[argument], f"the argument {argument}")
        if argument in described:
            properties[argument]["description"] = described[argument]
        if parameter.default is parameter.empty:
            required.append(argument)
    parameters = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    told = _SECTION.split(doc, maxsplit=1)[0].strip()
    return {"type": "function", "function": {"name": name, "description": told, "parameters": parameters}}


def _arguments(doc: str) -> dict[str, str]:
    pieces = _SECTION.split(doc)
    found: dict[str, str] = {}
    for title, text in zip(pieces[1::2], pieces[2::2], strict=True):
        if title not in ("Args", "Arguments", "Parameters", "参数"):
            continue
        last = ""
        for line in text.splitlines():
            if match := _ARGUMENT.match(line):
                last = match[1]
                found[last] = match[2].strip()
            elif line.strip() and last:
                found[last] += " " + line.strip()
    return found


def _type(hint: Any, where: str) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if hint is Any:
        return {}
    if origin is Literal:
        kinds = {_SIMPLE.get(type(value), "string") for value in arguments}
        return {"type": kinds.pop() if len(kinds) == 1 else sorted(kinds), "enum": list(arguments)}
    if origin in (Union, types.UnionType):
        inner = [_type(a, where) for a in arguments if a is not type(None)]
        made = inner[0] if len(inner) == 1 else {"anyOf": inner}
        return made | ({"nullable": True} if type(None) in arguments else {})
    if hint in (list, tuple) or origin in (list, tuple):
        return {"type": "array"} | ({"items": _type(arguments[0], where)} if arguments else {})
    if hint is dict or origin is dict:
        more = {"additionalProperties": _type(arguments[1], where)} if arguments else {}
        return {"type": "object"} | more
    raise DataError(f"has the type {hint} for {where}, which JSON has not; take text, numbers, lists or dicts.")
