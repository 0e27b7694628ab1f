"""Tool calls in the XML form that Qwen3-Coder and Qwen3.5 write.

    <tool_call>
    <function=NAME>
    <parameter=NAME>
    VALUE
    </parameter>
    </function>
    </tool_call>

A value is text without quotes, so its type comes from the tool's JSON Schema: texts stream, other types are read as
JSON when their value has ended, and a value that isn't JSON stays a text. What ends a value may also stand in one (a
file that documents this very form), so it counts only where the form goes on behind it.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from qwill.text.json_stream import strict_json
from qwill.text.reply_reader import CALL, CALL_END, FUNCTION, Marks, Pieces, Reader

PARAMETER, PARAMETER_END, FUNCTION_END = "<parameter=", "</parameter>", "</function>"
_VALUE_ENDS = Marks([PARAMETER_END, FUNCTION_END, PARAMETER])
_JSON_TYPES = {dict: "object", list: "array", bool: "boolean", type(None): "null", int: "number", float: "number"}

Tools = Sequence[Mapping[str, Any]]


def bare_calls(tools: Tools) -> list[str]:
    """How a call of one of the tools begins where the model forgets the mark around it, as Qwen3-Coder may."""
    return [f"{FUNCTION}{name}>" for name in _functions(tools)]


def xml_call(reader: Reader, start: int, tools: Tools, pieces: Pieces) -> Generator[None, None, bool]:
    """Read a call whose `<function=` is at `start`. False, and nothing is read: it is no call."""
    name, place = yield from _name(reader, start + len(FUNCTION))
    if not name:
        return False
    place = yield from reader.space(place)
    if not (yield from reader.sees(place, PARAMETER, FUNCTION_END, CALL_END)):
        return False
    pieces.begin_call(name)
    pieces.arguments("{")
    reader.at = place
    schema = _functions(tools).get(name, {})
    between = ""
    while True:
        place = yield from reader.space(reader.at)
        if not (yield from reader.sees(place, PARAMETER)):
            break
        parameter, behind = yield from _name(reader, place + len(PARAMETER))
        if not parameter:
            break
        reader.at = behind
        pieces.arguments(between + json.dumps(parameter, ensure_ascii=False) + ": ")
        if not (yield from _value(reader, parameter, schema, pieces)):
            return True
        between = ", "
    if place == len(reader.text):  # cut off: more parameters may have been meant
        reader.at = place
        return True
    pieces.arguments("}")
    if (yield from reader.sees(place, FUNCTION_END)):
        reader.at = place + len(FUNCTION_END)
    return True


def _name(reader: Reader, start: int) -> Generator[None, None, tuple[str, int]]:
    """A name up to its `>`, and the place behind that; no name where the line or the text ends before."""
    place = start
    while True:
        while place < len(reader.text):
            if reader.text[place] in "<>\n":
                name = reader.text[start:place].strip(" \"'")
                return (name, place + 1) if reader.text[place] == ">" else ("", start)
            place += 1
        if not (yield from reader.more()):
            return "", start


def _value(reader: Reader, parameter: str, schema: Mapping[str, Any], pieces: Pieces) -> Generator[None, None, bool]:
    """Read a value behind its `<parameter=…>`; false when the reply ends inside it."""
    properties = _mapping(schema.get("properties"))
    types = _types(properties.get(parameter), schema) if parameter in properties else {"string"}
    value = _Value(types, pieces)
    while mark := (yield from reader.until(_VALUE_ENDS, value.push)):
        behind = reader.at + len(mark)
        place = yield from reader.space(behind)
        if mark == PARAMETER:
            # The closing mark was forgotten, which only a known parameter on a line of its own shows.
            name, _ = yield from _name(reader, behind)
            ends = value.on_new_line and name in properties
            behind = reader.at
        elif mark == FUNCTION_END:
            ends = bool((yield from reader.sees(place, CALL_END))) or place == len(reader.text)
            behind = reader.at
        else:
            goes_on = yield from reader.sees(place, PARAMETER, FUNCTION_END, CALL_END)
            ends = bool(goes_on) or place == len(reader.text)
        if ends:
            value.end()
            reader.at = behind
            return True
        value.push(mark)
        reader.at += len(mark)
    value.cut_off()
    return False


class _Value:
    """A value as it comes, written as JSON. One line break at either end is the form's."""

    def __init__(self, types: set[str], pieces: Pieces) -> None:
        self._types, self._pieces = types, pieces
        self._gathered: list[str] = []
        self._first, self.on_new_line = True, False
        if types == {"string"}:
            pieces.arguments('"')

    def push(self, text: str) -> None:
        if not text:
            return
        if self._first:
            self._first = False
            text = text.removeprefix("\n")
        text = ("\n" if self.on_new_line else "") + text
        self.on_new_line = text.endswith("\n")
        self._write(text.removesuffix("\n"))

    def end(self) -> None:
        if self._types == {"string"}:
            self._pieces.arguments('"')
        else:
            self._pieces.arguments(_typed("".join(self._gathered), self._types))

    def cut_off(self) -> None:
        if self.on_new_line:
            self._write("\n")
        self._pieces.arguments("".join(self._gathered))

    def _write(self, text: str) -> None:
        if self._types == {"string"}:
            self._pieces.arguments(json.dumps(text, ensure_ascii=False)[1:-1])
        else:
            self._gathered.append(text)


def _typed(text: str, types: set[str]) -> str:
    """JSON of a value: as the JSON it spells where its type may be that, else as a text."""
    strict = strict_json(text)
    if strict is not None:
        try:
            value = json.loads(strict)
        except (ValueError, RecursionError):
            value = text
        kind = _JSON_TYPES.get(type(value), "string")
        if kind in types and kind != "string":
            return strict
    return json.dumps(text, ensure_ascii=False)


def _types(schema: Any, root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """Types that a schema allows, "integer" as "number"; all of them when it names none."""
    every = {"string", *_JSON_TYPES.values()}
    if not isinstance(schema, Mapping) or depth > 8:
        return every
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Any = root
        for part in reference[2:].split("/"):
            found = _mapping(found).get(part)
        return _types(found, root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return set().union(*(_types(each, root, depth + 1) for each in schema[key]))
    named = schema.get("type")
    if isinstance(named, str) or (isinstance(named, list) and named):
        return {"number" if name == "integer" else str(name) for name in ([named] if isinstance(named, str) else named)}
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list) and values:
        return {_JSON_TYPES.get(type(value), "string") for value in values}
    return every


def _functions(tools: Tools) -> dict[str, Mapping[str, Any]]:
    """Schemas of the tools' parameters by name; tools of another shape are left out."""
    functions = [_mapping(tool.get("function")) or tool for tool in tools if isinstance(tool, Mapping)]
    return {f["name"]: _mapping(f.get("parameters")) for f in functions if isinstance(f.get("name"), str)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


__all__ = ["CALL", "bare_calls", "xml_call"]
