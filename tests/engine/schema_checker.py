"""Whether a value is valid by a JSON Schema of the supported subset: written from the standard (draft 2020-12), and
knowing nothing of how replies are made. `benchmarks/constrained.py` compares it with the package jsonschema."""

import datetime
import ipaddress
import math
import re
import uuid
from typing import Any
from urllib.parse import urlsplit

TYPES: dict[str, Any] = {"string": str, "boolean": bool, "null": type(None), "object": dict, "array": list}
OFFSET = r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"


def problems(value: Any, schema: Any, root: Any = None, path: str = "$") -> list[str]:
    """What is wrong with a value; nothing when it is valid."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return [] if schema else [f"{path}: nothing is allowed here"]
    found: list[str] = []
    for keyword, expected in schema.items():
        if not _holds(keyword, expected, value, schema, root):
            found.append(f"{path}: {value!r:.60} against {keyword} {expected!r:.60}")
    if "$ref" in schema:
        found += problems(value, _referred(schema["$ref"], root), root, path)
    for part in schema.get("allOf", []):
        found += problems(value, part, root, path)
    for keyword, least, most in (("anyOf", 1, math.inf), ("oneOf", 1, 1)):
        if keyword in schema:
            count = sum(not problems(value, part, root, path) for part in schema[keyword])
            found += [] if least <= count <= most else [f"{path}: {count} branches of {keyword} hold for {value!r:.60}"]
    return found + _inside(value, schema, root, path)


def _inside(value: Any, schema: dict[str, Any], root: Any, path: str) -> list[str]:
    found: list[str] = []
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name, inner in value.items():
            part = properties[name] if name in properties else schema.get("additionalProperties", True)
            found += problems(inner, part, root, f"{path}.{name}")
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        for i, inner in enumerate(value):
            part = first[i] if i < len(first) else schema.get("items", True)
            found += problems(inner, part, root, f"{path}[{i}]")
    return found


def _holds(keyword: str, expected: Any, value: Any, schema: dict[str, Any], root: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text, items = isinstance(value, str), isinstance(value, list)
    match keyword:
        case "type":
            return any(_is(value, name) for name in ([expected] if isinstance(expected, str) else expected))
        case "enum":
            return any(_same(value, one) for one in expected)
        case "const":
            return _same(value, expected)
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" if number:
            within = {"minimum": value >= expected, "maximum": value <= expected}
            return within.get(keyword, value > expected if keyword == "exclusiveMinimum" else value < expected)
        case "multipleOf" if number:
            # Only whole numbers and binary fractions are asked for, so this is exact below 2^53.
            return value % expected == 0
        case "minLength" if text:
            return len(value) >= expected
        case "maxLength" if text:
            return len(value) <= expected
        case "pattern" if text:
            return re.search(expected, value) is not None
        case "format" if text:
            return _is_format(value, expected)
        case "minItems" if items:
            return len(value) >= expected
        case "maxItems" if items:
            return len(value) <= expected
        case "required" if isinstance(value, dict):
            return all(name in value for name in expected)
    return True


def _is(value: Any, name: str) -> bool:
    if name in TYPES:
        return isinstance(value, TYPES[name])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (name == "number" or float(value).is_integer())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _referred(reference: str, root: Any) -> Any:
    for part in reference.removeprefix("#").strip("/").split("/"):
        root = root[part] if part else root
    return root


def _is_format(value: str, name: str) -> bool:
    try:
        match name:
            case "date":
                return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", value)) and bool(datetime.date.fromisoformat(value))
            case "time":
                hour = re.fullmatch(r"(\d\d:\d\d:\d\d)(\.\d+)?" + OFFSET, value)
                return bool(hour and datetime.time.fromisoformat(hour[1]) is not None)
            case "date-time":
                day, _, hour_text = value.partition("T")
                return _is_format(day, "date") and _is_format(hour_text, "time")
            case "duration":
                clock = r"T(?=\d)(\d+H)?(\d+M)?(\d+S)?"
                return bool(re.fullmatch(rf"P(\d+W|(?=[\dT])(\d+Y)?(\d+M)?(\d+D)?({clock})?)", value))
            case "ipv4":
                return bool(ipaddress.IPv4Address(value))
            case "ipv6":
                return bool(ipaddress.IPv6Address(value)) or value in ("::", "::0")
            case "uuid":
                return str(uuid.UUID(value)) == value.lower()
            case "email":
                return bool(re.fullmatch(r"[^@\s]+@[^@\s]+", value))
            case "hostname":
                label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
                return bool(re.fullmatch(rf"{label}(\.{label})*", value)) and len(value) < 254
            case "uri":
                return bool(urlsplit(value).scheme) and not re.search(r'[\s"<>\\^`{|}]', value)
    except ValueError:
        return False
    raise AssertionError(name)
