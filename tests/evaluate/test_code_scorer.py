"""Programs scored by their tests: right and wrong ones, and ones that would rather not be tested."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluate.sandbox_runs import contained

from qwill.base.errors import DataError
from qwill.evaluate.code_scorer import code_of, code_scorer, score_replies
from qwill.evaluate.sandbox import Limits, Outcome
from qwill.evaluate.task import Example, Score

# Written by hand in the form of HumanEval: a helper and an import before the function, tests with a function check.
PROMPT = '''from typing import List


def twice(x: int) -> int:
    """A helper that is there."""
    return 2 * x


def doubled(numbers: List[int]) -> List[int]:
    """Every number twice as large.
    >>> doubled([1, 2])
    [2, 4]
    """
'''
TEST = """

METADATA = {"author": "us"}


def check(candidate):
    assert candidate([]) == []
    assert candidate([1, 2]) == [2, 4], "two"
    assert candidate(numbers=[twice(3)]) == [12]
"""
FIELDS = {"task_id": "x/0", "prompt": PROMPT, "entry_point": "doubled", "test": TEST}
RIGHT = "    return [twice(n) for n in numbers]\n"
WHOLE = "def doubled(numbers: List[int]) -> List[int]:\n    return [n + n for n in numbers]\n"
EXAMPLE = Example("x/0", PROMPT, fields=FIELDS)
SHORT = Limits(seconds=10, cpu_seconds=1, output_kib=64)


def scored(reply: str, example: Example = EXAMPLE) -> Score:
    contained("")
    return code_scorer(limits=SHORT)(example, reply)


@pytest.mark.parametrize(
    "reply",
    [
        RIGHT,
        WHOLE,
        f"Here it is:\n\n```python\n{WHOLE}```\nIt doubles.",
        f"```\n{WHOLE}",
        f"```python\nprint('an example')\n```\nand\n```py\n{WHOLE}```",
        f"  ```python\n{RIGHT}  ```",
        "```python\nreturn [twice(n) for n in numbers]\n```",
        "    print('noise' * 1000)\n" + RIGHT,
        RIGHT + "\nif __name__ == '__main__':\n    raise SystemExit\n",
        RIGHT + "\ndef check(candidate):\n    raise ValueError\n",
        "    import collections\n    return list(collections.deque(n * 2 for n in numbers))\n",
    ],
)
def test_right_programs_score_1(reply: str) -> None:
    assert scored(reply) == Score(1.0, "all tests passed")


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("    return numbers\n", "AssertionError: two"),
        ("    return None\n", "AssertionError"),
        ("    raise KeyError('k')\n", "KeyError: 'k'"),
        ("    return [twice(n) for n in\n", "SyntaxError"),
        ("", "AssertionError"),
        ("    while True: pass\n", "ran longer than 1 s of CPU or 10 s by the clock"),
        ("    while True: print('x' * 9999)\n", "wrote more than 64 KiB"),
        ("    import os; os.kill(os.getpid(), 9)\n", "was ended by signal 9"),
        ("    return [0] * 10**12\n", "MemoryError"),
        ("    return doubled(numbers)\n", "RecursionError"),
        ("I can't help with that.", "SyntaxError"),
        ("def other(): pass", "AssertionError"),
    ],
)
def test_wrong_programs_score_0_and_say_why(reply: str, why: str) -> None:
    score = scored(reply)
    assert score.value == 0 and score.detail.startswith(why)


EQUAL = """
class Same(list):
    def __eq__(self, other): return True
"""


@pytest.mark.parametrize(
    "reply",
    [
        "    import os; os._exit(0)\n",
        "    import sys; sys.exit(0)\n",
        "    exit()\n",
        "    return []\nimport os\nos._exit(0)\n",
        "    return []\nimport sys\nsys.exit()\n",
        "    print('all tests passed'); raise SystemExit(0)\n",
        "    return Same()\n" + EQUAL,
        "    return [Same()] + [Same()] * 9\n" + EQUAL,
        "    import atexit, os; atexit.register(os._exit, 0); raise ValueError\n",
        "    import builtins; builtins.AssertionError = KeyboardInterrupt; return 1\n",
        "    import sys; print(sys.stdin.read() + 'x'); import os; os._exit(0)\n",
    ],
)
def test_who_would_rather_not_be_tested_scores_0(reply: str) -> None:
    assert scored(reply).value == 0


def test_the_word_that_says_so_is_another_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    words = []

    def run(program: str, stdin: str, *_: object) -> Outcome:
        end = 16 + int(stdin[:16])
        words.append(json.loads(stdin[end:])["word"])
        assert words[-1] not in program + stdin[:end] and "METADATA" not in program + stdin[:end]
        return Outcome("exit", 0, f"\n{words[0]}", "", 0.1)

    monkeypatch.setattr("qwill.evaluate.code_scorer.run_python", run)
    assert [code_scorer()(EXAMPLE, RIGHT).value for _ in range(3)] == [1.0, 0.0, 0.0]
    assert len(set(words)) == 3 and min(map(len, words)) >= 32


def test_statements_as_tests() -> None:
    fields = {
        "prompt": "Write a function that squares.",
        "test_list": ["assert square(3) == 9", "assert square(-2) == math.prod([2, 2])"],
        "test_imports": ["import math"],
    }
    example = Example("m/1", "", fields=fields)
    assert scored("```python\ndef square(x):\n    return x * x\n```", example).value == 1
    assert scored("def square(x):\n    return abs(x) * 3", example).value == 0
    assert scored("def cube(x):\n    return x ** 3", example).detail.startswith("NameError")


@pytest.mark.parametrize("fields", [{}, {"test": ""}, {"test": 3}, {"test_list": []}])
def test_an_example_without_tests_is_one_sentence(fields: dict[str, object]) -> None:
    with pytest.raises(DataError, match="example e/7 has no tests; the scorer code reads them from its field test"):
        code_scorer()(Example("e/7", "", fields=fields), "pass")


def test_tests_that_are_no_python_are_one_sentence() -> None:
    with pytest.raises(DataError, match="example e/8: its field test is no Python"):
        code_scorer()(Example("e/8", "", fields={"test": "assert ("}), "pass")


def test_many_replies_keep_their_order() -> None:
    contained("")
    replies = [RIGHT, "    return 0\n"] * 6
    assert [score.value for score in score_replies([(EXAMPLE, reply) for reply in replies])] == [1.0, 0.0] * 6


def test_what_stands_before_the_function_in_the_prompt_is_kept() -> None:
    code = code_of(EXAMPLE, f"```python\n{WHOLE}```")
    assert code.startswith("from typing import List") and "def twice" in code and '"""Every number' not in code
    assert code_of(EXAMPLE, RIGHT) == PROMPT + RIGHT


def test_of_a_conversation_only_what_was_asked_last_stands_before_the_reply() -> None:
    def example(*messages: object) -> Example:
        return Example("m", "", fields={**FIELDS, "prompt": list(messages)})

    system, user = {"role": "system", "content": "x = 1"}, {"role": "user", "content": PROMPT}
    words = {"role": "user", "content": "Write doubled."}
    assert code_of(example(words), WHOLE) == f"\n{WHOLE}" and code_of(example(), RIGHT) == RIGHT
    assert code_of(example(system, user), RIGHT) == PROMPT + RIGHT
    assert code_of(example(user, {"role": "assistant", "content": "y = 2"}, words), RIGHT) == RIGHT
    assert code_of(example(user, {"role": "assistant", "content": "y = 2"}), RIGHT) == RIGHT
    parts = {"role": "user", "content": [{"type": "text", "text": "x = 1"}]}
    assert code_of(example(parts), RIGHT) == RIGHT
    assert scored(f"```python\n{WHOLE}```", example(system, user)).value == 1
    # What the messages are written as is a list in Python's own form, and stood before the reply.
    asked = Example("q", "", fields={"prompt": [words], "test_list": ["assert square(3) == 9"]})
    assert code_of(asked, "print(1)\n") == "print(1)\n"


@given(st.text())
def test_any_reply_becomes_some_program(reply: str) -> None:
    assert isinstance(code_of(EXAMPLE, reply), str)
    assert isinstance(code_of(Example("x", "", fields={"test": "pass"}), reply), str)
