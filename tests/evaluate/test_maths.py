"""Mathematical equality: math-verify's own cases, values in both languages, time limits from threads and processes."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import ConfigError
from qwill.evaluate import maths as module
from qwill.evaluate.maths import Maths, settled
from qwill.evaluate.numerals import to_chinese
from qwill.evaluate.plain_values import Plain, read, same

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "oracles" / "math_verify.json").read_text())[
    "cases"
]
# Of its tests, those that change a setting from math-verify's own defaults; there we answer as it does by default.
ON_PURPOSE = {
    ("test_latex_notation", 5): "the test reads LaTeX only; the number 9 on a line of its own is an answer too",
    ("test_latex_notation", 6): "as before",
    ("test_complex_math_expressions", 7): "the test rounds to 2 decimals",
    ("test_complex_math_expressions", 13): "the test rounds to 4 decimals",
    ("test_set_rel_assymetry", 2): "the test lets a relation stand for a set in the reply",
    ("test_strict_variable_comparison", 1): "the test is not strict about the names of variables",
}


def wrong(case: dict[str, Any], maths: Maths) -> bool:
    wanted = case["default"] if (case["test"], case["number"]) in ON_PURPOSE else case["expected"]
    return bool(maths(case["gold"], case["pred"]).value) != wanted


@pytest.fixture(scope="module")
def maths() -> Iterator[Maths]:
    pytest.importorskip("math_verify", reason="pip install 'qwill[eval]'")
    with Maths(seconds=30, workers=2) as made:
        yield made


def test_it_agrees_with_math_verify_on_its_own_cases_from_threads(maths: Maths) -> None:
    found = maths.many([(case["gold"], case["pred"]) for case in CASES])
    differ = {
        (case["test"], case["number"])
        for case, score in zip(CASES, found, strict=True)
        if bool(score.value) != case["expected"]
    }
    assert len(CASES) == 255 and differ == set(ON_PURPOSE)
    assert all(
        bool(score.value) == case["default"]
        for case, score in zip(CASES, found, strict=True)
        if (case["test"], case["number"]) in ON_PURPOSE
    )


def test_it_agrees_from_the_main_thread(maths: Maths) -> None:
    assert not [case for case in CASES[::10] if wrong(case, maths)]


def in_a_process(numbers: list[int], answers: Any, inherited: Maths | None = None) -> None:
    maths = inherited or Maths(seconds=30, workers=1)
    answers.put([number for number in numbers if wrong(CASES[number], maths)])
    maths.close()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_it_agrees_from_processes(maths: Maths, method: str) -> None:
    """A fork takes the parent's verifier with it, in the middle of its work."""
    maths("$x+1$", "$1+x$")
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    numbers = list(range(3, len(CASES), 25))
    arguments = (numbers, answers, *([maths] if method == "fork" else []))
    child = context.Process(target=in_a_process, args=arguments)
    child.start()
    assert answers.get(timeout=120) == []
    child.join(30)
    assert child.exitcode == 0 and maths("$x+1$", "$1+x$").value == 1


def test_what_takes_for_ever_ends_in_time_from_any_thread() -> None:
    pytest.importorskip("math_verify", reason="pip install 'qwill[eval]'")
    with Maths(seconds=1.5, workers=1) as maths:
        assert maths("$x+1$", "$1+x$").value == 1  # begun, so that the time is the reply's
        found: list[Any] = []
        started = time.monotonic()
        thread = threading.Thread(target=lambda: found.append(maths("$5$", "It is $10^{10^{10}}$")))
        thread.start()
        thread.join(30)
        assert time.monotonic() - started < 15 and found[0].value == 0 and "1.5 s" in found[0].detail
        deep = maths("$5$", "$" + "(" * 3000 + "5" + ")" * 3000 + "$")
        assert deep.value == 0
        assert maths("$x+1$", "$1+x$").value == 1  # begun again


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("2/3", "所以答案是三分之二。"), ("0.5", "一共是百分之五十"), ("50%", "答案：１／２"),
        ("123", "结果是一百二十三个。"), ("20000", "两万"), ("20000", "2万元"), ("123.5", "１２３．５"),
        ("1234567", "1,234,567"), ("7/3", "二又三分之一"), ("-3", "答案是负三。"), ("3.14", "大约是三点一四"),
        ("350000000", "三亿五千万人"), ("5", "小明一共买了五个苹果"), ("5 km", "5000 m"),
        ("5千米", "\\boxed{5000\\text{ 米}}"), ("1.5小时", "答案是90分钟。"), ("2.5 m²", "25000 cm^2"),
        ("$\\frac{1}{2}$", "The answer is 0.5."), ("28", "It is 28%"), ("28%", "The final answer is $28\\%$."),
        ("120000", "1.2\\times10^{5}"), ("16386.20", "**Answer:** $16,386.20"), ("9", "第二步：3×3，答：9"),
        ("90°", "90度"), ("12", "<think>也许是 13</think>12"), ("0.003", "千分之三"), ("1.2元", "120分"),
        ("7.5", "7½"), ("2.5", "The answer is 2 ½."), ("0.25", "答案是¼。"), ("½", "0.5"), ("15/2", "7 1/2"),
    ],
)  # fmt: skip
def test_plain_values_are_equal_without_math_verify(wanted: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maths = without_processes(monkeypatch)
    assert maths(wanted, said).value == 1


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("2/3", "答案是二分之三"), ("5 km", "5 m"), ("5 km", "5 kg"), ("0.28", "0.28%"), ("50%", "5%"),
        ("123", "一百二十四"), ("20000", "二千"), ("5", "五个苹果里有三个是红的，所以是三"),
        ("12", "<think>12</think>13"), ("12", "<think>12"), ("1000", "答案是１０５０．５。"),
       
    ],
)  # fmt: skip
def test_plain_values_that_differ(wanted: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_processes(monkeypatch)(wanted, said).value == 0


def without_processes(monkeypatch: pytest.MonkeyPatch) -> Maths:
    def never(*_: Any) -> None:
        raise AssertionError("asked math-verify")

    monkeypatch.setattr(module, "find_spec", lambda _: True)
    monkeypatch.setattr(Maths, "_asked", never)
    return Maths()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("$x=\\frac{2}{3}$", "答案是x等于三分之二。"),
        ("$\\{1,2\\}$", "解集为 $\\{２, 1\\}$"),
        ("$[0,1)$", "\\boxed{[0, 1)}"),
        ("$\\frac{\\pi}{2}$", "pi/2"),
        ("$2\\pi$", "答案是2pi"),
        ("$\\frac{\\sqrt{3}}{2}$", "sqrt(3)/2"),
    ],
)
def test_formulas_as_people_write_them(maths: Maths, wanted: str, said: str) -> None:
    assert maths(wanted, said).value == 1


@given(st.integers(0, 99_999_999), st.integers(1, 9999))
def test_numerals_of_any_number_are_read(value: int, under: int) -> None:
    assert read(to_chinese(value)) == Plain(Fraction(value))
    wide = "".join(chr(ord(c) + 0xFEE0) for c in str(value))
    assert read(wide) == read(f"{value:,}") == read(str(value)) == Plain(Fraction(value))
    assert read(f"{to_chinese(under)}分之{to_chinese(value % under)}") == Plain(Fraction(value % under, under))
    assert read(f"\\frac{{{value}}}{{{under}}}") == read(f"{value}/{under}") == Plain(Fraction(value, under))
    percent = read(f"百分之{to_chinese(value)}")
    assert percent == read(f"{value}%") == read(f"{value}\\%") and percent is not None
    assert same(Plain(Fraction(value, 100)), percent) and same(percent, Plain(Fraction(value)))


@given(st.text(alphabet="0123456789一二三十百千万亿点分之半负.,/%$\\{}frac km米×^-() =，。", max_size=40))
def test_no_text_raises(text: str) -> None:
    read(text)
    settled(text)


def test_what_is_not_one_plain_value_is_left_to_others() -> None:
    for text in ("1,22", "1 000", "x", "2^3", "3+4", "(1,2)", "一百五", "12 34/5", "7x", "1/0", "", "-", "9" * 100):
        assert read(text) is None, text
    for text in ("$x$ is 3 or 4", "3 + 4", "2^10", "f(3)", "\\boxed{1} and \\boxed{2}", "between 3 and x4"):
        assert settled(text) is None, text


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs math-verify; run: pip install 'qwill\[eval\]'"):
        Maths()


@given(st.fractions(max_denominator=50), st.fractions(max_denominator=50), st.sampled_from([1, 2, 10, 100, -1]))
def test_values_are_the_same_only_where_they_are_equal(one: Fraction, other: Fraction, times: int) -> None:
    for wanted, said in ((one, other), (one, one * times), (one * times, one)):
        found = same(Plain(wanted), Plain(said))
        assert found is (wanted == said) or (
            found is None and abs(wanted - said) <= max(1, abs(wanted)) / Fraction(1000)
        )
        if wanted != said:
            assert same(Plain(wanted, "km"), Plain(said, "km")) is not True
        assert same(Plain(wanted, "km"), Plain(wanted * 1000, "m")) is True
