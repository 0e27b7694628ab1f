"""The part of JSON Schema (draft 2020-12) that replies can be constrained to, and the check that a schema keeps to it.

A keyword outside the lists is refused, with its path: an ignored keyword would be a promise not kept. Not in the lists
are: `not`, `if`/`then`/`else`, `dependent…`, `unevaluated…`, `contains`, `uniqueItems`, `propertyNames`,
`patternProperties`, `minProperties`, `maxProperties`, `$anchor`, `$dynamicRef`, references to other documents.

Departures from the standard: `format` is enforced, properties come in the order of `properties`, and names that only
`additionalProperties` allows may come twice. `oneOf` is taken where its branches can't both hold. Numbers keep to what
every reader of JSON holds exactly: below 2^53, and `multipleOf` a whole number or a binary fraction such as 0.25.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from qwill.base.errors import DataError

TYPES = ("string", "number", "integer", "boolean", "null", "object", "array")
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
MAPS_OF_SCHEMAS = ("properties", "$defs", "definitions")
SCHEMAS = ("items", "additionalProperties")
COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
VALUES = ("type", "enum", "const", "required", "pattern", "format", "$ref")
ANNOTATIONS = (
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment", "$schema", "$id"
)  # fmt: skip
# What may stand in a schema. Annotations say nothing about what is valid.
KEYWORDS = (*LISTS_OF_SCHEMAS, *MAPS_OF_SCHEMAS, *SCHEMAS, *COUNTS, *BOUNDS, *VALUES, *ANNOTATIONS)
LARGEST_NUMBER = 2**53  # below it every reader of JSON holds whole numbers exactly
# ECMA's \W counts é and Python's doesn't: what a reply holds has to match in either reading.
_BOTH_READINGS = {
    r"\W": r"[^\x00\p{L}\p{M}\p{N}\p{Pc}]",
    r"\D": r"[^\x00\p{N}]",
    r"\s": r"[ \t\n\r\x0b\x0c]",
    r"\S": r"[^\x00-\x20\x7f-\xa0\p{Z}\x{feff}]",
}
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_FOURTH = "(?:0[48]|[2468][048]|[13579][26])"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{{2}}{_FOURTH}|{_FOURTH}00)-02-29)"
)
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
TIME_PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}  # RFC 3339
# The compiler is recursive and would run out of stack, which ends the process: no schema may come near that.
MOST_SCHEMAS, DEEPEST = 1000, 64


def read_schema(text: str, where: str = "the schema") -> dict[str, Any]:
    """A schema from its JSON, checked. Raises DataError as `check_schema`, and for what is no JSON object."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON ({error}); send a JSON Schema object.") from error
    if not isinstance(schema, dict):
        raise DataError(
            f"{where} is {type(schema).__name__}; expected a JSON Schema object such as {{'type': 'object'}}."
        )
    check_schema(schema, where)
    return schema


def check_schema(schema: Mapping[str, Any], where: str = "the schema") -> None:
    """Raises DataError naming the first keyword, and its path, that isn't supported or has an impossible value."""
    waiting: list[tuple[Any, str, int]] = [(schema, "#", 0)]
    count = 0
    while waiting:
        part, path, depth = waiting.pop()
        count += 1
        if count > MOST_SCHEMAS or depth > DEEPEST:
            raise DataError(
                f"{where} is too large at {path}: at most {MOST_SCHEMAS} schemas, at most {DEEPEST} inside each other."
            )
        if isinstance(part, bool):
            continue
        if not isinstance(part, Mapping):
            raise DataError(f"{where} at {path} is {type(part).__name__}; expected a schema: an object, true or false.")
        for keyword, value in part.items():
            at = f"{path}/{keyword}"
            if keyword not in KEYWORDS or (keyword == "$id" and path != "#"):
                raise DataError(f"{where} uses {keyword!r} at {path}, which isn't supported; leave it out.")
            for name, inner in _schemas(keyword, value, where, at):
                waiting.append((inner, at + name, depth + 1))
            problem = _problem(keyword, value, schema)
            if problem:
                raise DataError(f"{where} at {at} is {_shown(value)}; expected {problem}.")


def _schemas(keyword: str, value: Any, where: str, at: str) -> list[tuple[str, Any]]:
    if keyword in LISTS_OF_SCHEMAS:
        if not isinstance(value, list) or not value:
            raise DataError(f"{where} at {at} is {_shown(value)}; expected a list of at least one schema.")
        return [(f"/{i}", inner) for i, inner in enumerate(value)]
    if keyword in MAPS_OF_SCHEMAS:
        if not isinstance(value, Mapping):
            raise DataError(f"{where} at {at} is {_shown(value)}; expected an object of schemas by name.")
        return [(f"/{name}", inner) for name, inner in value.items()]
    return [("", value)] if keyword in SCHEMAS else []


def _problem(keyword: str, value: Any, root: Mapping[str, Any]) -> str | None:
    """What was expected instead of a keyword's value; None where it is fine."""
    if keyword in COUNTS:
        return None if _is_count(value) else "a whole number, 0 or more"
    if keyword == "multipleOf":
        exact = _is_number(value) and value > 0 and float(value).as_integer_ratio()[1] <= 2**20
        return None if exact else "a number above 0 that is whole or a binary fraction such as 0.25"
    if keyword in BOUNDS:
        return None if _is_number(value) else "a number below 2^53"
    if keyword == "type":
        named = value if isinstance(value, list) else [value]
        return None if named and all(name in TYPES for name in named) else "one of " + ", ".join(TYPES)
    if keyword == "enum":
        fits = isinstance(value, list) and value and _numbers_fit(value)
        return None if fits else "a list of at least one value, numbers below 2^53"
    if keyword == "const":
        return None if _numbers_fit(value) else "a value whose numbers are below 2^53"
    if keyword == "required":
        return None if isinstance(value, list) and all(isinstance(v, str) for v in value) else "a list of names"
    if keyword == "format":
        return None if value in FORMATS else "one of " + ", ".join(FORMATS)
    if keyword == "pattern":
        fits = isinstance(value, str) and compiler_pattern(value) is not None
        return None if fits else "a regular expression, without NUL and without \\P inside a class"
    if keyword == "$ref":
        return None if _resolves(value, root) else "a reference to a part of this schema, such as #/$defs/name"
    return None


def _resolves(reference: Any, root: Any) -> bool:
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return False
    for part in reference[2:].split("/") if reference != "#" else []:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(root, list) and name.isdigit() and int(name) < len(root):
            root = root[int(name)]
        elif isinstance(root, Mapping) and name in root:
            root = root[name]
        else:
            return False
    return isinstance(root, Mapping | bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def _numbers_fit(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_numbers_fit, value.values()))
    if isinstance(value, list):
        return all(map(_numbers_fit, value))
    return not isinstance(value, int | float) or isinstance(value, bool) or _is_number(value)


# -- what the compiler is given


def prepared(schema: Any) -> Any:
    """The same schema in the compiler's terms, for a schema that has been checked.

    The compiler's own dates have a 29th of February in every year and its times a 61st second; and it doesn't see that
    different constants can't both hold.
    """
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in LISTS_OF_SCHEMAS:
            result[keyword] = [prepared(each) for each in value]
        elif keyword in MAPS_OF_SCHEMAS:
            result[keyword] = {name: prepared(each) for name, each in value.items()}
        elif keyword in SCHEMAS:
            result[keyword] = prepared(value)
        elif keyword == "pattern":
            result[keyword] = compiler_pattern(value)
        elif keyword != "$id":
            result[keyword] = value
    if result.get("format") in TIME_PATTERNS:
        pattern = {"pattern": TIME_PATTERNS[result.pop("format")]}
        result = {**result, "allOf": [*result.get("allOf", []), pattern]} if "pattern" in result else result | pattern
    if "oneOf" in result and "anyOf" not in result and _only_different_constants(result["oneOf"]):
        result["anyOf"] = result.pop("oneOf")
    return result


def compiler_pattern(pattern: str) -> str | None:
    """A pattern in ECMA's syntax in that of the compiler, whose classes may nest and subtract; None where it can't be.

    NUL is taken out of every class that leaves characters out: of a class with all control characters the compiler
    (derivre's quoting of JSON texts) believes that it has the quotation mark and the backslash too.
    """
    pieces: list[str] = []
    inside = False
    for piece in re.findall(r"\\[pP]\{[^}]*\}|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\[\s\S]|\[\^|[\s\S]", pattern):
        if piece in ("\\x00", "\\u0000", "\\0", "\0") or (piece.startswith("\\P") and inside):
            return None
        if not inside and piece in _BOTH_READINGS:
            piece = _BOTH_READINGS[piece]
        elif piece.startswith("\\P"):
            piece = f"[^\\x00\\p{piece[2:]}]"
        elif not inside and piece in ("[", "[^"):
            inside = True
            piece = "[" if piece == "[" else "[^\\x00"
        elif inside and piece == "]":
            inside = False
        elif inside and (piece in ("[", "[^") or (piece in ("&", "-", "~") and pieces[-1] == piece)):
            piece = "".join("\\" + character for character in piece)
        pieces.append(piece)
    return "".join(pieces)


def _only_different_constants(branches: list[Any]) -> bool:
    constants: list[str] = []
    for branch in branches:
        values = [branch["const"]] if "const" in branch else branch.get("enum") if isinstance(branch, Mapping) else None
        if values is None:
            return False
        constants += {json.dumps(_as_float(value), sort_keys=True) for value in values}
    return len(set(constants)) == len(constants)


def _as_float(value: Any) -> Any:
    """1 and 1.0 are one number in JSON."""
    if isinstance(value, Mapping):
        return {name: _as_float(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_float(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
