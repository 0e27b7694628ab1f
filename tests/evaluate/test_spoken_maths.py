"""What a reply says of a number: the same in English and Chinese, neither more nor less, and in time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import DataError
from qwill.evaluate import maths as module
from qwill.evaluate.maths import Maths, settled
from qwill.evaluate.plain_values import Plain, read, written_out
from qwill.evaluate.spoken_maths import english_numbers, formula, signs


@pytest.fixture(scope="module")
def maths() -> Iterator[Maths]:
    pytest.importorskip("math_verify", reason="pip install 'qwill[eval]'")
    with Maths(seconds=30, workers=2) as made:
        yield made


# A reference without dollars is a formula; any number that stands in it is not it.
PART_OF = [
    ("2\\sqrt{3}", "2"), ("y = 2x + 3", "3"), ("2\\pi", "2"), ("(2, 5)", "5"), ("2 + 3i", "3"), ("10^{5}", "10"),
    ("1:2", "1:3"), ("3:30", "3:45"), ("March 5, 2024", "March 6, 2024"), ("2024-03-05", "2024-03-06"),
    ("2024-03-05", "2016"), ("5月6日", "5月7日"), ("5月6日", "6月5日"), ("5月6日", "5"), ("3√2", "3"), ("2π", "2"),
    ("x²", "2"),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "part"), PART_OF)
def test_a_reference_is_all_of_itself(maths: Maths, reference: str, part: str) -> None:
    ways = ("\\boxed{%s}", "%s", "The answer is %s.", "答案是%s。")
    assert [score.value for score in maths.many([(reference, way % part) for way in ways])] == [0] * 4
    assert [score.value for score in maths.many([(reference, way % reference) for way in ways])] == [1] * 4


SAYS = [
    ("90^\\circ", ["90", "\\boxed{90}"]), ("12 apples", ["12", "\\boxed{12}"]),
    ("#### 72", ["72", "\\boxed{72}", "The answer is 72."]), ("3√2", ["$3\\sqrt{2}$", "\\boxed{3\\sqrt2}"]),
    ("3\\sqrt{2}", ["3√2", "3倍根号2", "答案是3根号2。"]),
    ("A", ["答案是A。", "The answer is A.", "Answer: (A)", "The answer is **A**.", "A", "(A)", "\\boxed{A}", "A. bank",
           "\\boxed{\\text{A}}", "**A**"]),
    ("(1,2)", ["The answer is (1,2).", "\\boxed{（1，2）}", "答案是（1，2）。", "(1, 2)"]),
    ("12", ["twelve", "The answer is twelve.", "\\boxed{twelve}", "She has twelve apples.", "十二"]),
    ("1/2", ["one half", "The answer is one half.", "half", "a half", "一半"]),
    ("2/3", ["two thirds", "two-thirds", "The answer is two thirds.", "答案是三分之二。"]),
    ("2.5", ["two and a half", "2 and a half", "两个半小时", "两个半"]), ("1.5", ["一个半", "1页半"]),
    ("21", ["twenty-one", "twenty one"]), ("105", ["one hundred and five", "a hundred and five"]),
    ("\\{2,3\\}", ["The solutions are 2 and 3.", "解是2和3。", "x = 2 or x = 3", "x=2或x=3", "2 or 3",
                   "The answer is x=2 or x=3", "答案是 $x=2$ 或 $x=3$。", "$x=2$ or $x=3$"]),
    ("1000000", ["1 million", "The answer is 1 million people.", "1百万", "答案是100万人。", "a million"]),
    ("\\frac{\\pi}{2}", ["π/2", "The answer is π/2", "答案是π/2。"]),
    ("x^2+1", ["The answer is x²+1.", "答案是x²+1。"]),
    ("Yes", ["Yes", "The answer is Yes.", "\\boxed{\\text{Yes}}"]), ("x>3", ["x大于3", "x is greater than 3"]),
    ("25", ["5 squared", "5的平方", "the square of 5"]), ("60", ["5 dozen"]),
    ("30", ["从1到5共有30个", "from 1 to 5 there are 30"]),
    ("42", ["答案是42，其中6是第一个数。", "The answer is 42, because 6 * 7 = 42.", "6×7=42"]),
    ("-5", ["negative 5", "minus 5", "–5", "−5", "The answer is negative 5.", "negative five",
           "The answer is minus five.",
            "The answer is –5.", "零下5度", "零下五度", "答案是负5。"]),
    ("\\pi", ["π", "The answer is π.", "答案是π。"]), ("\\sqrt{2}", ["根号2", "√2", "根号二"]),
    ("6", ["not 5 but 6", "The answer is not 5 but 6.", "不是5，而是6", "答案不是5，而是6。", "7 minus 1 is 6"]),
    ("1,2", ["\\boxed{1，2}", "答案是1、2。", "1和2", "1 and 2", "The answer is 1 and 2.", "1,2"]),
    ("3000", ["3千", "三千", "3 thousand"]), ("300", ["3百"]), ("3000000", ["3 million", "three million", "3百万"]),
    ("3 kg", ["3千克"]), ("120", ["\\boxed{5!}", "5!"]),
    ("5", ["答案是5！", "5个苹果！", "答案是5个!", "一共5次", "5道题", "5 apples!", "It is 5.", "5 apples",
           "about 5", "x = 5"]),
    ("$x \\ge 5$", ["at least 5", "x≥5", "x大于等于5", "至少5"]),
]  # fmt: skip
SAYS_NOT = [
    ("#### 72", ["7", "2"]), ("A", ["The answer is B.", "B", "答案是B。", "The answer is AB.", "A or B"]),
    ("5", ["negative 5", "minus 5", "negative five", "5 or 6", "not 5 but 6", "at least 5", "more than 5",
           "The answer is at least 5.", "The answer is 5 or 6.", "The answer is not 5.", "The answer is not 5 but 6.",
           "答案不是5。", "零下5度", "大于5", "答案大于5。", "至少5", "5或6", "不是5，而是6", "答案是5或6。", "5次方",
           "5个以上",
           "5个或6个", "\\boxed{5!}", "\\boxed{\\geq 5}", "5!", "The answer is 5!", "5 or more", "5x", "5~6",
           "5到6", "5 to 6", "5的平方", "5²",
           "5 squared", "5点5", "log 5", "5i", "5 + x", "5次幂", "5½", "5‰", "5:6", "5 dozen", "5以上"]),
    ("7", ["5 + 7i", "从5到7"]),
    ("2", ["根号2", "答案是根号2。", "\\boxed{根号2}", "2百万", "2只3条", "两个半小时"]), ("1", ["一个半", "1页半"]),
    ("3", ["3√2", "3倍根号2", "3π", "\\boxed{3√2}", "答案是3√2。", "3千", "3百", "3千5"]), ("15", ["5个苹果3个梨"]),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "replies"), SAYS)
def test_what_says_it(maths: Maths, reference: str, replies: list[str]) -> None:
    found = maths.many([(reference, reply) for reply in replies])
    assert [reply for reply, score in zip(replies, found, strict=True) if score.value != 1] == []


@pytest.mark.parametrize(("reference", "replies"), SAYS_NOT)
def test_what_says_something_else(maths: Maths, reference: str, replies: list[str]) -> None:
    found = maths.many([(reference, reply) for reply in replies])
    assert [reply for reply, score in zip(replies, found, strict=True) if score.value != 0] == []


def english(value: int) -> str:
    """As people write a number, without its signs."""
    small = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen"
    )
    if value < 20:
        return small.split()[value]
    if value < 100:
        tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()[value // 10 - 2]  # noqa: SIM905
        return tens + (f"-{english(value % 10)}" if value % 10 else "")
    for size, name in ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if value >= size:
            more = value % size
            return f"{english(value // size)} {name}" + (f" and {english(more)}" if more else "")
    raise AssertionError


@given(st.integers(0, 10**12 - 1), st.integers(1, 9), st.integers(1, 99))
def test_english_numbers_of_any_size_are_read(value: int, over: int, whole: int) -> None:
    assert english_numbers(english(value)) == str(value)
    assert english_numbers(f"negative {english(value)}") == f"-{value}"
    assert english_numbers(f"{english(whole)} and {english(over)} tenths") == str(whole + Fraction(over, 10))
    assert settled(f"The answer is {english(value)}.") == Plain(Fraction(value)) == settled(english(value))


@given(st.text(alphabet="0123456789 -–√π²!abx≥().,，、和或不是大于根号千万至少", max_size=40), st.text(max_size=20))
def test_no_words_raise(text: str, other: str) -> None:
    for one in (text, other, f"negative {text} and one half of {other}"):
        formula(signs(one))
        english_numbers(one)
        settled(one)


def test_words_that_are_no_number_stay() -> None:
    for text in (
        "five six",
        "one of them",
        "the third one",
        "a second",
        "half of it",
        "twenty twelve",
        "hundred",
        "I have 2 or two",
    ):
        assert english_numbers(text) == text
    assert signs("7 minus 5") == "7 - 5" and signs("5–6") == "5–6" and signs("x – 3") == "x – 3"
    for text in ("3千克", "3千5", "3千五", "2万3亿", "3百分点"):
        assert written_out(text) == text
    assert written_out("1亿2千万和3.5万") == "120000000和35000" and read("2千5百个") == Plain(Fraction(2500))


LONG = [
    " ",
    "(",
    "$",
    "\\boxed{",
    "零",
    "1",
    "1 ",
    "=",
    "\n",
    ".",
    "不是",
    "≥5",
    "1和",
    "答：",
    "一又",
    "√(",
    "-",
    "第",
    "! ",
]


@pytest.mark.parametrize("piece", LONG)
def test_long_replies_take_no_longer_than_their_length(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the trainer's own process. The bound is a guard against what takes hours: it is far above what is needed."""
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    monkeypatch.setattr(Maths, "_asked", lambda *_: {"right": False, "said": ""})
    maths = Maths(workers=1)
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    for reply in (text, f"\\boxed{{5}}{text}x", f"{text}\\boxed{{5}}", f"The answer is {text}", f"答案是5{text}"):
        maths("7", reply)
        maths("$x$", reply)
    assert time.process_time() - started < 20


def test_only_what_stands_behind_all_thinking_counts(maths: Maths) -> None:
    assert maths("5", "<think>a</think>5").value == 1 and maths("5", "a</think>5").value == 1
    for reply in ("<think>a</think>3</think>5", "<think>5", "</think><think>5", "5</think>5</think>"):
        assert maths("5", reply).value == 0, reply


def test_a_process_that_is_broken_is_an_error_and_no_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run trains on zeros."""
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    worker = tmp_path / "broken_worker.py"
    worker.write_text("import sys\nsys.exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(module._Process, "module", "broken_worker")
    with Maths(workers=1) as broken, pytest.raises(DataError, match="status 3"):
        broken("$x$", "$x+0$")
    worker.write_text("import os, sys\nprint('{\"ready\": true}', flush=True)\nsys.stdin.readline()\nos._exit(4)\n")
    with Maths(workers=1) as broken, pytest.raises(DataError, match=r"could not be compared: .*status 4"):
        broken("$x$", "$x+0$")
    worker.write_text("import time\nprint('{\"ready\": true}', flush=True)\ntime.sleep(60)\n")
    with Maths(seconds=0.5, workers=1) as slow:
        assert slow("$x$", "$x+0$").value == 0


def test_what_cannot_be_read_is_said_to_the_end(maths: Maths) -> None:
    found: Any = maths("5", "at least 5")
    assert found.value == 0 and "nothing" not in maths("5", "6").detail
