"""Replies that are programs, scored by their tests in the sandbox: 1 where all pass, else 0 and why.

An example brings its tests in the fields of HumanEval (`prompt`, `entry_point`, `test` with a function `check`) or of
MBPP (`test_list` of statements, `test_setup_code` or `test_imports` before them); any task whose examples have a field
`test` or `test_list` will do.

That the tests were passed is said by a word drawn for each run, which the program is not given and which is printed
after the last test: to end early, whatever the exit status, scores 0. A result that decides by itself what it is equal
to (a class with `__eq__` of the reply's own) scores 0 too. A program that looks for the word in its interpreter's
memory on purpose could still find it: the sandbox keeps the machine safe, not a score from a determined cheat.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qwill.base.errors import DataError
from qwill.data.workers import available_cores
from qwill.evaluate.sandbox import Limits, Outcome, run_python
from qwill.evaluate.task import Example, Score

LIMITS = Limits(seconds=15, cpu_seconds=6)

# The word is read before the reply's code runs, and is nowhere but in this function's own variables.
_HARNESS = """
import builtins, json, os, sys

def judge(code, setup, tests, entry_point, word):
    write, end, escape = os.write, os._exit, SystemExit
    builtins.exit = builtins.quit = sys.exit
    def checked(result):
        kind = type(result)
        if getattr(getattr(kind.__eq__, "__code__", None), "co_filename", "") == "reply.py":
            raise AssertionError("its result decides by itself what it is equal to")
        if kind in (list, tuple, set):
            [checked(part) for part in result]
        elif kind is dict:
            [checked(part) for part in result.values()]
        return result
    def candidate(*arguments, **named):
        return checked(names[entry_point](*arguments, **named))
    names = {"__name__": "reply", "__builtins__": builtins}
    exec(compile(code, "reply.py", "exec"), names)
    exec(compile(setup + "\\n" + tests, "tests.py", "exec"), names)
    if entry_point and "check" in names:
        names["check"](candidate)
    sys.stdout.flush()
    write(1, ("\\n" + word).encode())
    end(0)

judge(**json.loads(sys.stdin.read()))
"""


def code_scorer(unsafe: bool = False, limits: Limits | None = None) -> Callable[[Example, str], Score]:
    """A function that scores one reply. It raises DataError for an example without tests, SandboxError where programs
    can't be contained here and `unsafe` was not asked for."""

    def score(example: Example, reply: str) -> Score:
        request = {
            "code": code_of(example, reply),
            **_tests(example),
            "word": secrets.token_hex(16),
        }
        outcome = run_python(_HARNESS, json.dumps(request), limits or LIMITS, unsafe)
        return _judged(outcome, request["word"], limits or LIMITS)

    return score


def score_replies(
    pairs: Sequence[tuple[Example, str]], unsafe: bool = False, limits: Limits | None = None, workers: int | None = None
) -> list[Score]:
    """The scores of many replies in their order, `workers` at a time (one for each core)."""
    score = code_scorer(unsafe, limits)
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        running = [pool.submit(score, example, reply) for example, reply in pairs]
        try:
            return [run.result() for run in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def code_of(example: Example, reply: str) -> str:
    """The program that a reply stands for: what it goes on writing after the field `prompt`, or the code block that
    holds the whole function (after the imports and helpers before it in the prompt)."""
    prompt = str(example.fields.get("prompt", ""))
    entry_point = str(example.fields.get("entry_point", ""))
    if not _is_code(prompt):
        prompt = ""  # a question in words
    blocks = re.findall(r"^[ \t]*```[\w+-]*[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", reply, re.S | re.M)
    whole = re.compile(rf"^(?:async\s+)?def\s+{re.escape(entry_point)}\b" if entry_point else r"^(?:def|class)\s", re.M)
    for code in [*blocks, *([] if blocks else [reply])]:
        if whole.search(code):
            before = whole.split(prompt)[0] if prompt else ""
            return f"{before}\n{code}"
    code = blocks[0] if blocks else reply
    if blocks and prompt and code.strip() and not code.lstrip("\n").startswith((" ", "\t")):
        code = textwrap.indent(code, "    ")
    return prompt + code


def _is_code(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError):
        return False


def _tests(example: Example) -> dict[str, str]:
    fields: Mapping[str, Any] = example.fields
    tests = fields.get("test") or fields.get("test_list")
    tests = "\n".join(map(str, tests)) if isinstance(tests, list | tuple) else tests
    if not isinstance(tests, str) or not tests.strip():
        raise DataError(
            f"example {example.id} has no tests; the scorer code reads them from its field test (Python, with a "
            "function check where there is an entry_point) or test_list (statements)."
        )
    setup = fields.get("test_setup_code") or fields.get("test_imports") or ""
    setup = "\n".join(map(str, setup)) if isinstance(setup, list | tuple) else str(setup)
    entry_point = str(fields.get("entry_point") or "")
    for name, text in (("test", tests), ("test_setup_code", setup)):
        try:
            ast.parse(text)
        except (SyntaxError, ValueError) as error:
            raise DataError(f"example {example.id}: its field {name} is no Python ({error}); mend it.") from None
    return {"setup": setup, "tests": tests, "entry_point": entry_point}


def _judged(outcome: Outcome, word: str, limits: Limits) -> Score:
    if outcome.ok and outcome.stdout.endswith("\n" + word):
        return Score(1.0, "all tests passed")
    if outcome.ended == "time":
        return Score(0.0, f"ran longer than {limits.cpu_seconds} s of CPU or {limits.seconds:g} s by the clock")
    if outcome.ended == "output":
        return Score(0.0, f"wrote more than {limits.output_kib} KiB")
    if outcome.ended == "signal":
        return Score(0.0, f"was ended by signal {outcome.status}")
    last = (outcome.stderr.strip().splitlines() or [""])[-1][:200]
    if outcome.status and last:
        return Score(0.0, last)
    return Score(0.0, f"ended with status {outcome.status} before its tests were through")
