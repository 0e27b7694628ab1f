"""Runs the checks of one client script and says, a JSON line each, what came of them.

A script beside this one holds functions whose names begin with `check_`; each takes the job (where the server is, which
model it serves, what that model will say) and raises when something is not as it should be. No Qwill is imported here:
every script runs in an environment that holds one stock client.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


class Skip(Exception):
    """A check that this model cannot be asked for, with the reason."""


@dataclass(frozen=True)
class Job:
    root: str  # of the server, without /v1
    model: str
    key: str
    limited_key: str  # with one request a minute
    context: int
    sampling_varies: bool  # whether different seeds give different replies (the reciting model always says the same)
    embeds: bool
    ends: bool  # whether its replies end by themselves
    greeting: str | None = None  # what the reciting model says; None for other models
    thought: str | None = None
    result: str | None = None
    calls: tuple[tuple[str, dict[str, str]], ...] = ()

    @property
    def url(self) -> str:
        return self.root + "/v1"


WEATHER = {
    "type": "object",
    "properties": {"location": {"type": "string", "enum": ["Paris", "London"]}},
    "required": ["location"],
    "additionalProperties": False,
}
TIME = {
    "type": "object",
    "properties": {"place": {"type": "string", "enum": ["北京", "Rome"]}},
    "required": ["place"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_time", "description": "The time.", "parameters": TIME}},
]
CITY = {
    "type": "object",
    "properties": {"name": {"enum": ["Paris", "北京"]}, "large": {"type": "boolean"}, "founded": {"enum": [1, 250]}},
    "required": ["name", "large", "founded"],
    "additionalProperties": False,
}
HELLO = [{"role": "user", "content": "Hello there, 你好!"}]


def calling(job: Job) -> dict[str, Any]:
    """How to ask for calls: the reciting model makes two by itself; others have to, and would go on for ever."""
    if job.calls:
        return {"max_tokens": 300}
    return {"max_tokens": 800, "tool_choice": "required", "parallel_tool_calls": False}


def is_city(value: Any) -> None:
    assert set(value) == {"name", "large", "founded"}, value
    assert value["name"] in ("Paris", "北京") and isinstance(value["large"], bool) and value["founded"] in (1, 250)


def are_calls(calls: list[tuple[str, dict[str, Any]]], job: Job, expected: int | None = None) -> None:
    """Calls of the two tools with arguments as their schemas say; those of the reciting model where it recites."""
    allowed = {"get_weather": ("location", ("Paris", "London")), "get_time": ("place", ("北京", "Rome"))}
    assert calls, "no call"
    for name, given in calls:
        field, values = allowed[name]
        assert set(given) == {field} and given[field] in values, (name, given)
    if job.calls and expected is None:
        assert calls == [tuple(call) for call in job.calls], calls


def raises(kind: type[BaseException] | tuple[type[BaseException], ...], call: Callable[[], Any], *words: str) -> Any:
    """The error of `kind` that `call` raises, whose text holds `words`."""
    try:
        call()
    except kind as error:
        for word in words:
            assert word in str(error), f"{word!r} is not in the message: {error}"
        return error
    raise AssertionError(f"expected {kind}, and nothing was raised")


def run(module: ModuleType | str) -> None:
    """Every check of the script, in its order; the job is the first argument."""
    here = sys.modules[module] if isinstance(module, str) else module
    given = json.loads(sys.argv[1])
    given["calls"] = tuple((name, arguments) for name, arguments in given.get("calls", ()))
    job = Job(**given)
    for name, check in list(vars(here).items()):
        if not name.startswith("check_"):
            continue
        line = {"check": name.removeprefix("check_"), "state": "ok", "why": ""}
        try:
            check(job)
        except Skip as reason:
            line |= {"state": "skip", "why": str(reason)}
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = [f for f in where if f.filename == here.__file__] or where
            line |= {"state": "fail", "why": f"{type(error).__name__}: {str(error)[:4000]} (line {ours[-1].lineno})"}
        print(json.dumps(line), flush=True)
