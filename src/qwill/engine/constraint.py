"""What a reply may be constrained to, and whether we can: no torch, so that a server can ask before the engine.

`llguidance` compiles the grammars, but it takes keywords of JSON Schema that it doesn't know for annotations and
passes over them. So the schema is read here first, keyword by keyword, against the lists below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qwill.base.errors import DataError
from qwill.engine.json_schema import check_schema, read_schema
from qwill.engine.tool_grammar import json_rule, literal, tools_grammar

Kind = Literal["json_schema", "json_object", "regex", "lark", "choice", "tools"]
KINDS = ("json_schema", "json_object", "regex", "lark", "choice", "tools")
LARGEST = 256 * 1024  # characters of a spec
MOST_RULES = 1000  # the compiler is recursive: a chain of some thousand rules would end the process


@dataclass(frozen=True)
class Constraint:
    """What a reply has to be. `spec` is, by `kind`:

    - json_schema: the schema, JSON. json_object: nothing. regex: a pattern in Rust's syntax, for the whole reply.
    - lark: a grammar in llguidance's dialect of Lark. choice: a JSON list of texts.
    - tools: {"tools": [OpenAI's], "choice": "required" | "auto" | NAME, "parallel": bool, "form": "hermes" | "xml"}.

    `thinking`: "none": the constraint holds from the first token; "allowed": the reply may begin with a thinking block,
    which is free; "open": the prompt ends inside one.
    """

    kind: Kind
    spec: str = ""
    thinking: Literal["none", "allowed", "open"] = "none"


def check(constraint: Constraint) -> None:
    """Raises DataError, one sentence, when replies can't be constrained so: it names the keyword and its path, or the
    place in the grammar."""
    from llguidance import LLMatcher

    problem = LLMatcher.validate_grammar(grammar(constraint, {}))
    if problem:
        raise DataError(explained(constraint, problem))


def grammar(constraint: Constraint, specials: Mapping[str, int]) -> str:
    """What llguidance compiles, special tokens given by name. Raises DataError for what is checked without it."""
    from llguidance import LLMatcher

    kind, spec = constraint.kind, constraint.spec
    if kind not in KINDS:
        raise DataError(f"a constraint of kind {kind!r} isn't known; expected one of {', '.join(KINDS)}.")
    if len(spec) > LARGEST:
        raise DataError(f"{_named(kind)} has {len(spec)} characters; at most {LARGEST} are taken: make it smaller.")
    if kind == "regex":
        return str(LLMatcher.grammar_from_regex(spec))
    if kind == "lark":
        _check_lark(spec)
        return str(LLMatcher.grammar_from_lark(spec))
    if kind == "choice":
        lark = "start: " + " | ".join(map(literal, _choices(spec)))
    elif kind == "tools":
        lark = tools_grammar(spec, specials)
    else:
        schema = read_schema(spec) if kind == "json_schema" else {"type": "object"}
        lark = "start: " + json_rule(schema)
    return str(LLMatcher.grammar_from_lark(lark))


def explained(constraint: Constraint, problem: str) -> str:
    """One sentence of what llguidance says over several lines."""
    lines = [line.strip() for line in problem.splitlines()]
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = ": ".join([lines[0].removesuffix(" regex parse error:").removesuffix(":"), *reasons])
    place = re.match(r"(?:at )?(\d+)\((\d+)\): ", said)
    if place:
        said = said[place.end() :]
    if place and constraint.kind == "lark":
        said = f"line {place[1]}, character {place[2]}: {said}"
    elif constraint.kind == "regex":
        said = ": ".join(reasons) or said.removeprefix(f"invalid regex {json.dumps(constraint.spec)} (in regex): ")
    said = said.removeprefix("failed to compile JSON schema: ").removesuffix(".")
    if said.startswith("oneOf"):
        said = "the branches of a oneOf may hold together: use anyOf, or give each a property with another const"
    return f"{_named(constraint.kind)} can't be used ({said[:300]}); change it."


def _named(kind: str) -> str:
    return {"json_schema": "the schema", "tools": "the schema of a tool", "lark": "the grammar"}.get(
        kind, f"the {kind}"
    )


def _choices(spec: str) -> list[str]:
    try:
        choices = json.loads(spec)
    except (ValueError, RecursionError):
        choices = None
    if not isinstance(choices, list) or not choices or not all(isinstance(text, str) and text for text in choices):
        raise DataError('choice must be a list of texts, none of them empty, such as ["yes", "no"].')
    return choices


def _check_lark(text: str) -> None:
    # Every rule has a colon, so this bounds their number.
    if text.count(":") > MOST_RULES:
        raise DataError(f"the grammar has over {MOST_RULES} colons; make it smaller.")
    for found in re.finditer(r"%json\s*", text):
        try:
            schema, _ = json.JSONDecoder().raw_decode(text, found.end())
        except (ValueError, RecursionError):
            continue  # in a comment or a text, else the compiler says what is wrong
        line = text.count("\n", 0, found.start()) + 1
        if isinstance(schema, dict):
            check_schema(schema, f"the schema in line {line} of the grammar")
