"""What a request says its reply must be: a schema, a grammar, tool calls; checked before the engine sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qwill.base.errors import DataError
from qwill.engine.constraint import Constraint, Kind, check
from qwill.serve.errors import ApiError
from qwill.serve.fields import SamplingFields


@dataclass(frozen=True)
class Wanted:
    """A constraint, and the request's field that it comes from."""

    kind: Kind
    spec: str
    param: str


def constraint_fields(fields: SamplingFields) -> list[Wanted]:
    """Every constraint among vLLM's fields."""
    found: list[Wanted] = []
    structured = fields.structured_outputs
    pairs: list[tuple[Kind, Any, str]] = [
        ("json_schema", fields.guided_json, "guided_json"),
        ("regex", fields.guided_regex, "guided_regex"),
        ("choice", fields.guided_choice, "guided_choice"),
        ("lark", fields.guided_grammar, "guided_grammar"),
    ]
    if structured is not None:
        pairs += [
            ("json_schema", structured.json_, "structured_outputs.json"),
            ("regex", structured.regex, "structured_outputs.regex"),
            ("choice", structured.choice, "structured_outputs.choice"),
            ("lark", structured.grammar, "structured_outputs.grammar"),
            ("json_object", "" if structured.json_object else None, "structured_outputs.json_object"),
        ]
    for kind, value, param in pairs:
        if value is not None:
            found.append(Wanted(kind, value if isinstance(value, str) else json.dumps(value), param))
    return found


def only(found: Sequence[Wanted]) -> Wanted | None:
    """Raises ApiError when there are several."""
    if len(found) > 1:
        first, second = found[0].param, found[1].param
        raise ApiError(400, f"{first} and {second} both say what the reply must be; give one.", second)
    return found[0] if found else None


async def checked(wanted: Wanted, thinking: Literal["none", "allowed", "open"] = "none") -> Constraint:
    """Raises ApiError for what can't be kept to, naming the field; in a thread, as a grammar may take long to read."""
    constraint = Constraint(wanted.kind, wanted.spec, thinking)
    try:
        await asyncio.to_thread(check, constraint)
    except (DataError, ValueError) as error:
        raise ApiError(400, str(error), wanted.param, code="invalid_schema") from error
    return constraint
