"""The part of JSON Schema (draft 2020-12) that replies can be constrained to, and the check that a schema keeps to it.

A keyword outside the lists is refused, with its path: an ignored keyword would be a promise not kept. Not in the lists
are: `not`, `if`/`then`/`else`, `dependent…`, `unevaluated…`, `contains`, `uniqueItems`, `propertyNames`,
`patternProperties`, `minProperties`, `maxProperties`, `$anchor`, `$dynamicRef`, references to other documents.

Departures from the standard: `format` is enforced, properties come in the order of `properties`, and names that only
`additionalProperties` allows may come twice. `oneOf` is taken where its branches can't both hold.
"""

from __future__ import annotations

import json
import math
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
        return None if _is_number(value) and value > 0 else "a number above 0"
    if keyword in BOUNDS:
        return None if _is_number(value) and abs(value) < 2**63 else "a number below 2^63"
    if keyword == "type":
        named = value if isinstance(value, list) else [value]
        return None if named and all(name in TYPES for name in named) else "one of " + ", ".join(TYPES)
    if keyword == "enum":
        return None if isinstance(value, list) and value else "a list of at least one value"
    if keyword == "required":
        return None if isinstance(value, list) and all(isinstance(v, str) for v in value) else "a list of names"
    if keyword == "format":
        return None if value in FORMATS else "one of " + ", ".join(FORMATS)
    if keyword == "pattern":
        return None if isinstance(value, str) else "a regular expression"
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
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
