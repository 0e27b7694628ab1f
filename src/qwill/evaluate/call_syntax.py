"""Values that a call writes as text in Java or JavaScript, as Python's: `new int[]{1, 2}`, `{key: 'value'}`, `5L`.

The Berkeley leaderboard tells a model that every argument of such a function is a text that holds a value of the
language; these are the forms that it reads (its java_type_converter and js_type_converter). A text that is no value of
the argument's type stays text: it may be the name of a variable. Unlike there, commas and brackets inside quotes
belong to the text, and a text in quotes loses them wherever it stands: its own reader leaves them in an array of
strings and marks `new String[]{"-v"}` wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

SYNTAXES = ("java", "javascript")
TEXTS = ("String", "any", "char")  # types whose values are texts
_SCALARS = {
    "java": {
        **dict.fromkeys(("byte", "short", "integer"), (r"-?\d+", int)),
        "long": (r"(-?\d+)[lL]", int),
        "float": (r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[fF]", float),
        "double": (r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", float),
    },
    "javascript": {"integer": (r"-?\d+", int), "float": (r"-?\d+(?:\.\d+)?", float), "Bigint": (r"(-?\d+)n", int)},
}
_ARRAY = re.compile(r"new\s+\w+\s*\[\s*\]\s*\{(.*)\}", re.DOTALL)
_AS_LIST = re.compile(r"new\s+ArrayList\s*<[^()]*>\s*\(\s*Arrays\.asList\s*\((.*)\)\s*\)", re.DOTALL)
_BODY = r"\s*<[^()]*>\s*\(\s*\)\s*(?:\{\s*(?:\{(.*)\})?\s*\})?"
_LIST_BODY = re.compile(r"new\s+ArrayList" + _BODY, re.DOTALL)
_MAP_BODY = re.compile(r"new\s+HashMap" + _BODY, re.DOTALL)
_SUFFIXED = re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[lLfFdD]")
_CLOSES = {"(": ")", "[": "]", "{": "}"}


def value_of(text: str, syntax: str, kind: str, item: str = "") -> Any:
    """What `text` is in `syntax` ("java" or "javascript") for an argument of the type `kind`, whose elements are of the
    type `item`; the text itself where it is no such value."""
    text = text.strip()
    if kind in TEXTS:
        return _unquoted(text)
    if kind in ("boolean", "Boolean"):
        return {"true": True, "false": False}.get(text, text)
    if kind in _SCALARS[syntax]:
        pattern, make = _SCALARS[syntax][kind]
        found = re.fullmatch(pattern, text)
        return make(found[found.re.groups]) if found else text
    return _collection(text, syntax, kind, item)


def literal(text: str, syntax: str) -> Any:
    """A value whose type is not told."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    if (unquoted := _unquoted(text)) != text:
        return unquoted
    for kind in ("array", "dict") if syntax == "javascript" else ("Array", "ArrayList", "HashMap"):
        if (found := _collection(text, syntax, kind, "")) != text:
            return found
    number = text
    if syntax == "java" and (suffixed := _SUFFIXED.fullmatch(text)):
        number = suffixed[1]
    for make in (int, float) if re.fullmatch(r"-?\d[\d.eE+-]*", number) else ():
        try:
            return make(number)
        except ValueError:
            continue
    return text


def _collection(text: str, syntax: str, kind: str, item: str) -> Any:
    inside = _inside_java(text, kind) if syntax == "java" else _inside_javascript(text, kind)
    if inside is None:
        return text
    parts = [part for part in _split(inside, ",") if part]
    if kind in ("HashMap", "dict"):
        return _pairs(parts, syntax, text)
    typed = item not in ("", "any")
    return [value_of(part, syntax, item) if typed and part[0] not in "[{" else literal(part, syntax) for part in parts]


def _inside_java(text: str, kind: str) -> str | None:
    """The elements of an array, list or map, with commas between."""
    if kind == "Array":
        return found[1] if (found := _ARRAY.fullmatch(text)) else None
    if kind == "ArrayList" and (found := _AS_LIST.fullmatch(text)):
        return found[1]
    pattern, word = (_MAP_BODY, "put") if kind == "HashMap" else (_LIST_BODY, "add")
    if kind not in ("ArrayList", "HashMap") or not (found := pattern.fullmatch(text)):
        return None
    calls = [call for call in _split(found[1] or "", ";") if call]
    if not all(re.fullmatch(rf"{word}\s*\(.*\)", call, re.DOTALL) for call in calls):
        return None
    arguments = [call[call.index("(") + 1 : -1] for call in calls]
    if word == "add":
        return ", ".join(arguments)
    halves = [list(_split(argument, ",")) for argument in arguments]
    return ", ".join(f"{half[0]}: {half[1]}" for half in halves) if all(len(half) == 2 for half in halves) else None


def _inside_javascript(text: str, kind: str) -> str | None:
    pattern = r"\{(.*)\}" if kind == "dict" else r"\[(.*)\]" if kind == "array" else r"(?!)()"
    if found := re.fullmatch(pattern, text, re.DOTALL):
        return found[1]
    found = re.fullmatch(r"new\s+Array\s*\((.*)\)", text, re.DOTALL) if kind == "array" else None
    return found[1] if found else None


def _pairs(parts: list[str], syntax: str, text: str) -> Any:
    made = {}
    for part in parts:
        key, *rest = _split(part, ":")
        if not rest:
            return text
        made[_unquoted(key)] = literal(":".join(rest), syntax)
    return made


def _unquoted(text: str) -> str:
    mark = text[:1]
    if len(text) < 2 or mark not in "\"'" or text[-1] != mark or mark in text[1:-1].replace("\\" + mark, ""):
        return text
    return text[1:-1].replace("\\" + mark, mark)


def _split(text: str, mark: str) -> Iterator[str]:
    """The parts between marks that stand outside quotes and brackets, without the white space around them."""
    start, quote, waiting = 0, "", list[str]()
    escaped = False
    for i, c in enumerate(text):
        if escaped:
            escaped = False
        elif quote:
            escaped = c == "\\"
            quote = "" if c == quote else quote
        elif c in "\"'":
            quote = c
        elif c in _CLOSES:
            waiting.append(_CLOSES[c])
        elif waiting and c == waiting[-1]:
            waiting.pop()
        elif c == mark and not waiting:
            yield text[start:i].strip()
            start = i + 1
    yield text[start:].strip()
