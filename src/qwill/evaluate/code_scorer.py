"""Replies that are programs, scored by their tests in the sandbox: 1 where all pass, else 0 and why.

An example brings its tests in the fields of HumanEval (`prompt`, `entry_point`, `test` with a function `check`) or of
MBPP (`test_list` of statements, `test_setup_code` or `test_imports` before them); any task whose examples have a field
`test` or `test_list` will do.

Reply and tests run in two processes of one sandbox (code_harness.py). That the tests were passed is said by a word
drawn for each run; neither it nor the tests are ever in the reply's memory, and what the reply answers is compared by
the tests' interpreter. So to end early, to print the word, to change builtins or to return something that equals
everything scores 0. Where a task asks for a class, its tests ask objects of the reply's own what they are equal to:
those scores rest on what the class says of itself.
"""

from __future__ import annotations

import ast
import builtins
import json
import platform
import re
import secrets
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate.sandbox import Limits, Outcome, in_order, run_python
from qwill.evaluate.sandbox_calls import architectures, call_filter
from qwill.evaluate.task import Example, Score

LIMITS = Limits(seconds=15, cpu_seconds=6)

# What the sandbox runs: two files that need no others, the first as a module for the second.
_PROGRAM = """
import sys
line = type(sys)("qwill.evaluate.code_line")
sys.modules[line.__name__] = line
exec(compile({line!r}, "code_line.py", "exec"), line.__dict__)
exec(compile({harness!r}, "code_harness.py", "exec"))
"""
# Fields that hold a solution, from which it is seen which names of the tests are classes.
_SOLUTIONS = ("canonical_solution", "code", "solution")


def code_scorer(unsafe: bool = False, limits: Limits | None = None) -> Callable[[Example, str], Score]:
    """A function that scores one reply. It raises DataError for an example without tests, SandboxError where programs
    can't be contained here and `unsafe` was not asked for."""

    def score(example: Example, reply: str) -> Score:
        word = secrets.token_hex(16)
        stdin = _request(code_of(example, reply), example, word, unsafe)
        outcome = run_python(_harness(), stdin, replace(limits or LIMITS, processes=2), unsafe)
        return _judged(outcome, word, limits or LIMITS)

    return score


def score_replies(
    pairs: Sequence[tuple[Example, str]], unsafe: bool = False, limits: Limits | None = None, workers: int | None = None
) -> list[Score]:
    """The scores of many replies in their order, `workers` at a time (one for each core)."""
    score = code_scorer(unsafe, limits)
    return in_order(pairs, lambda pair: score(*pair), workers)


def code_of(example: Example, reply: str) -> str:
    """The program that a reply stands for: what it goes on writing after the field `prompt`, or the code block that
    holds the whole function (after the imports and helpers before it in the prompt)."""
    prompt = _code_asked(example)
    entry_point = str(example.fields.get("entry_point", ""))
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


@cache
def _harness() -> str:
    line, harness = (Path(__file__).with_name(name).read_text() for name in ("code_line.py", "code_harness.py"))
    return _PROGRAM.format(line=line, harness=harness)


def _request(code: str, example: Example, word: str, unsafe: bool) -> str:
    """What the harness reads: first the reply's part, then the tests'."""
    tests = _tests(example)
    trees = [ast.parse(tests["setup"]), ast.parse(tests["tests"])]
    imports = [
        ast.unparse(node)
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__"
    ]
    entry = tests["entry_point"]
    filter_of_both = call_filter(platform.machine(), processes=False) if platform.machine() in architectures() else b""
    reply = json.dumps({"code": code, "imports": imports, "filter": filter_of_both.hex(), "unsafe": unsafe})
    more = {"word": word, "given": _given(example, entry), **_names(example, trees, entry)}
    return f"{len(reply):016d}{reply}{json.dumps(tests | more)}"


def _names(example: Example, trees: Sequence[ast.Module], entry: str) -> dict[str, list[str]]:
    """Names that the tests use and don't bind. `used`: all. `asked`: those that the task asks the reply for, as far as
    its own code tells. `classes`: those of them that are classes. `modules`: of the standard library."""
    used, bound, bases = {entry} - {""}, set(), set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                used.add(node.id)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                bases.add(node.value.id)
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                bound |= {(name.asname or name.name).partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                bound.add(node.name)
            else:
                bound |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    free = used - bound
    texts = [prompt] if (prompt := _code_asked(example)) else []
    texts += [str(example.fields[name]) for name in _SOLUTIONS if example.fields.get(name)]
    defined = re.findall(r"^(class|def|async def)\s+(\w+)", "\n".join(texts), re.M)
    asked = {name for _, name in defined} | {entry} - {""}
    if texts:
        classes = free & {name for kind, name in defined if kind == "class"}
    else:  # nothing of the task's own tells; most write classes so
        classes = {name for name in free - set(dir(builtins)) if name[0].isupper() and "_" not in name}
    modules = (bases & free & sys.stdlib_module_names) - asked
    found = {"used": free, "asked": free & asked, "classes": classes, "modules": modules}
    return {name: sorted(some) for name, some in found.items()}


def _given(example: Example, entry: str) -> str:
    """The imports and helpers that a prompt has before the function it asks for: the tests take the task's own."""
    prompt = _code_asked(example)
    if not entry or not prompt:
        return ""
    before = re.split(rf"^(?:async\s+def|def|class)\s+{re.escape(entry)}\b", prompt, flags=re.M)[0]
    return before if _is_code(before) else ""


def _code_asked(example: Example) -> str:
    """The field `prompt` where it is a program that a reply goes on with; "" where it is a question in words.

    Of a conversation it is what the user said last, if that is all a program, as a prompt that is a text is given to a
    model that chats. Nothing that was said before it stands before the reply's program.
    """
    prompt = example.fields.get("prompt", "")
    if isinstance(prompt, list | tuple):
        last = prompt[-1] if prompt else None
        prompt = last.get("content") if isinstance(last, Mapping) and last.get("role") == "user" else ""
    return prompt if isinstance(prompt, str) and _is_code(prompt) else ""


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
