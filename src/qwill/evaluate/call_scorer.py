"""Tool calls compared with the calls that an example allows, by the rules of the Berkeley function calling leaderboard.

An example's answer is a list of `{function: {argument: [allowed values]}}`; an argument whose allowed values hold ""
may be left out; an empty list says that nothing must be called. Calls may come in any order. As there: text counts
without case, blanks and the marks `,./-_*^`; whole numbers do for fractions, not the other way; types must be right; a
dictionary's values have lists of allowed values of their own (Patil et al. 2025, the leaderboard's AST evaluation).

Where an example's fields have `syntax` (java or javascript) its arguments must be texts that hold values of that
language, which `types` (function → argument → [type, type of the elements]) says how to read; a text that is none is
the name of a variable, and must be just that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate.call_syntax import SYNTAXES, TEXTS, literal, value_of
from qwill.evaluate.task import Example, Score
from qwill.text.parse import parse_reply

_IGNORED = re.compile(r"[ ,./\-_*^]")


def calls(example: Example, reply: str) -> Score:
    """1 where the reply's calls are those that the answer allows. Raises DataError for an answer that is no list of
    them."""
    if not isinstance(example.answer, list | tuple):
        raise DataError(f"the answer is {example.answer!r}; the scorer calls needs a list of calls.")
    made = [(call["function"]["name"], call["function"]["arguments"]) for call in parse_reply(reply, False).tool_calls]
    return compare_calls(made, example.answer, _syntax(example))


@dataclass(frozen=True)
class Syntax:
    """The language that arguments are written in as texts, and function → argument → (type, type of the elements)."""

    name: str
    types: Mapping[str, Mapping[str, Sequence[str]]]

    def difference(self, function: str, argument: str, value: Any, allowed: Sequence[Any]) -> str:
        """What is wrong with an argument; "" where nothing is."""
        if not isinstance(value, str):
            return f"{function}: {argument} is {value!r}, expected a text with a value of {self.name}"[:300]
        if argument not in (types := self.types.get(function, {})):
            raise DataError(f"types says nothing of {function}.{argument}; the scorer calls needs its type there.")
        kind, item = types[argument]
        read = value_of(value, self.name, kind, item)
        found = [read, literal(value, self.name)] if kind == "any" else [read]
        # A variable's name counts to the letter.
        exact = kind not in TEXTS and isinstance(read, str)
        for one in allowed:
            if any(value == one if exact else _equal(value, one) for value in found):
                return ""
        return f"{function}: {argument} is {read!r}, expected one of {allowed!r}"[:300]


def _syntax(example: Example) -> Syntax | None:
    name, types = example.fields.get("syntax"), example.fields.get("types")
    if name is None:
        return None
    if name not in SYNTAXES or not isinstance(types, Mapping):
        raise DataError(f"syntax is {name!r}; expected one of {', '.join(SYNTAXES)}, and types beside it.")
    return Syntax(str(name), types)


def compare_calls(
    made: Sequence[tuple[str, Any]], allowed: Sequence[Mapping[str, Any]], syntax: Syntax | None = None
) -> Score:
    """Whether `made` (name, arguments) are the calls `allowed`, one for one."""
    if not allowed:
        return Score(float(not made), f"calls {made[0][0]}, nothing was to be called" if made else "calls nothing")
    if len(made) != len(allowed):
        return Score(0.0, f"makes {len(made)} calls, {len(allowed)} were to be made")
    reasons = [[_difference(one, two, syntax) for two in made] for one in allowed]
    if _matched([[not reason for reason in row] for row in reasons]):
        return Score(1.0, "calls what was to be called")
    row = next(row for row in (*(r for r in reasons if all(r)), reasons[0]))
    return Score(0.0, min(filter(None, row), key=lambda reason: reason.startswith("calls"), default="calls too few"))


def _matched(fits: Sequence[Sequence[bool]]) -> bool:
    """Whether each row can have a column of its own (bipartite matching by augmenting paths)."""
    owner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in seen:
                seen.add(column)
                if column not in owner or place(owner[column], seen):
                    owner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))


def _difference(allowed: Mapping[str, Any], made: tuple[str, Any], syntax: Syntax | None) -> str:
    """What is wrong with a call; "" where nothing is."""
    (name, arguments), (called, given) = next(iter(allowed.items())), made
    if called != name:
        return f"calls {called} where {name} was to be called"
    if not isinstance(given, Mapping):
        return f"{name}: its arguments are no object"
    for argument, value in given.items():
        if argument not in arguments:
            return f"{name} has no argument {argument}"
        if syntax is not None:
            if reason := syntax.difference(name, argument, value, arguments[argument]):
                return reason
        elif not any(_equal(value, one) for one in arguments[argument]):
            return f"{name}: {argument} is {value!r}, expected one of {arguments[argument]!r}"[:300]
    missing = [argument for argument, values in arguments.items() if argument not in given and "" not in values]
    return f"{name}: {missing[0]} is missing" if missing else ""


def _equal(value: Any, allowed: Any) -> bool:
    if isinstance(allowed, Mapping):
        return isinstance(value, Mapping) and _same_object(value, allowed)
    if isinstance(allowed, list):
        return (
            isinstance(value, list)
            and len(value) == len(allowed)
            and all(_equal(one, two) for one, two in zip(value, allowed, strict=True))
        )
    if isinstance(allowed, str):
        # "" among the allowed values stands for an argument left out, and for an empty text.
        return isinstance(value, str) and _plain(value) == _plain(allowed)
    if isinstance(value, bool) or isinstance(allowed, bool):
        return value is allowed
    if isinstance(allowed, int):
        return isinstance(value, int) and value == allowed
    return isinstance(value, int | float) and value == allowed


def _same_object(value: Mapping[str, Any], allowed: Mapping[str, Any]) -> bool:
    for key, one in value.items():
        options = allowed.get(key, [])
        if not any(_equal(one, option) for option in (options if isinstance(options, list) else [options])):
            return False
    return all(key in value or (isinstance(options, list) and "" in options) for key, options in allowed.items())


def _plain(text: str) -> str:
    return _IGNORED.sub("", text).lower().replace("'", '"')
