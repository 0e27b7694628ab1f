"""Tools that a model calls while it is trained: functions of the user's, each in a process of its own.

Whatever goes wrong with a call (a name that is none, arguments that are no JSON, an error, a function that hangs) is a
sentence that the model reads as the tool's result; it never ends the run.

Not covered: tools that remember something from one call of a conversation to the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwill.align.settings import ToolPart
from qwill.align.tool_schema import schema_of
from qwill.base.errors import ConfigError, DataError
from qwill.evaluate.scorer_process import ScorerProcess, serve
from qwill.text.surrogates import without_surrogates

LONGEST = 4000  # characters of a result; the rest is cut, which the model is told


class ToolProcess(ScorerProcess):
    """One function, in a process that is ended when a call takes too long."""

    module = "qwill.align.tools"
    kind = "tool"

    def schema(self) -> dict[str, Any]:
        answer = self._ask(self._child or self._start(), b"{}\n", self._seconds)
        if "error" in answer:
            raise ConfigError(f"the tool {self._name} {answer['error']}")
        found: dict[str, Any] = answer["schema"]
        return found

    def call(self, arguments: dict[str, Any]) -> tuple[str, bool]:
        """(what the model reads, whether the call failed)."""
        request = json.dumps({"arguments": arguments}).encode() + b"\n"
        try:
            answer = self._ask(self._child or self._start(), request, self._seconds)
        except DataError as error:  # it was ended before, and does not load again
            return f"Error: {_first_half(str(error))}.", True
        if "error" in answer:
            # A function that hangs or dies; the sentence is for the user, and the model needs its first half.
            return f"Error: {_first_half(answer['error'])}.", True
        return str(answer["result"]), bool(answer["failed"])


def _first_half(sentence: str) -> str:
    return sentence.partition(";")[0].replace(" for one reply", "").rstrip(".")


class Tools:
    """`schemas` are in OpenAI's form; `run` answers one call."""

    def __init__(self, parts: Sequence[ToolPart]) -> None:
        """Raises DataError or ConfigError for a function that can't be loaded or described."""
        self.schemas: list[dict[str, Any]] = []
        self._processes: dict[str, ToolProcess] = {}
        try:
            for part in parts:
                process = ToolProcess(part.function, part.function.rpartition(":")[2], part.seconds)
                schema = process.schema() if part.schema is None else part.openai_schema
                name = schema["function"]["name"]
                if name in self._processes:
                    process.close()
                    raise ConfigError(f"two tools are called {name}; give one of them another name in its schema.")
                self._processes[name] = process
                self.schemas.append(schema)
        except Exception:
            self.close()
            raise

    def run(self, call: Mapping[str, Any]) -> tuple[str, bool]:
        """(what the tool gave, as text, and whether the call failed)."""
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        if name not in self._processes:
            return f"Error: there is no tool {name}; there are: {', '.join(self._processes)}.", True
        if not isinstance(arguments, dict):
            return f"Error: the arguments of {name} are no JSON object.", True
        text, failed = self._processes[name].call(arguments)
        text = without_surrogates(text)
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]} … ({len(text) - LONGEST} characters were cut)"
        return text, failed

    def close(self) -> None:
        for process in self._processes.values():
            process.close()

    def __enter__(self) -> Tools:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answer(function: Any, request: dict[str, Any]) -> dict[str, Any]:
    if "arguments" not in request:
        return {"schema": schema_of(function)}
    try:
        result = function(**request["arguments"])
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
    except Exception as error:
        return {"result": f"Error: {type(error).__name__}: {error}", "failed": True}
    return {"result": text, "failed": False}


if __name__ == "__main__":
    import sys

    serve(sys.argv[1], _answer)
