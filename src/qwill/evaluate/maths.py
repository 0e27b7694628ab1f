"""Whether a reply to a mathematical problem is right: numbers exactly and at once, all else by math-verify.

    with Maths() as maths:
        maths("2/3", "所以答案是三分之二。").value          # 1.0
        maths.many([("$x^2$", "$x \\\\cdot x$"), ("5 km", "5000 m")])

What is plainly one value (plain_values.py) is compared here; sets, intervals, expressions and matrices go to processes
that are kept warm. Each has `seconds` by the clock for a reply and is ended then, from whichever thread or process it
was asked; math-verify's own limit, SIGALRM, fails silently in threads. What can't be decided in time counts as wrong.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from qwill.base.errors import ConfigError, DataError
from qwill.data.workers import available_cores
from qwill.evaluate.plain_values import Plain, narrow, read, same
from qwill.evaluate.sandbox import in_order
from qwill.evaluate.scorer_process import ScorerProcess
from qwill.evaluate.task import Example, Score
from qwill.evaluate.text_scorers import references

SECONDS = 5.0  # for one reply
LONGEST = 100_000  # characters of a reply from its end: an answer stands there

_ANNOUNCED = re.compile(
    r"(?:####|(?:final )?answer is:?|(?:final )?answer:|答案(?:应该|应当)?(?:是|为|：|:)|答[：:]|结果(?:是|为))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[。\n]|(?<=[^\d])\.(?=\s|$)|\.(?=\s*$|\s+[A-Z])")
_HAN = re.compile("[\u3400-\u9fff]")
_NUMERAL = "零〇一二两三四五六七八九十百千万亿"
_TOKEN = re.compile(
    rf"[负+-]?[$¥€£]?[\d.,/]*\d(?:\s*[万亿%])?|[负]?(?:[{_NUMERAL}]+又)?(?:[{_NUMERAL}\d]+分之)?[{_NUMERAL}]+(?:点[{_NUMERAL}]+)?|一?半"
)
_IDIOM = re.compile(
    f"第[{_NUMERAL}\\d]+|(?<![{_NUMERAL}])[一两](?=下|共|些|起|样|直|定|般)|万一|千万(?=别|不)|十分(?!之)"
)
# Beside these a number is a part of something else.
_JOINED = re.compile(r"[A-Za-z0-9_^*+\-/×÷=<>≤≥√π(){}\[\]|:~!\\√∪∈±]")
_UNIT_AFTER = re.compile(
    r"\s?(?:[a-zA-Z]+(?:[²³]|\^[23])?(?:/[a-z]+)?|[°%€$£]|[\u3400-\u9fff]{1,4}(?:/[\u3400-\u9fff]{1,2})?)"
)


class _Process(ScorerProcess):
    module = "qwill.evaluate.maths_worker"

    def equal(self, wanted: list[str], said: list[str]) -> dict[str, Any]:
        request = json.dumps({"wanted": wanted, "said": said}).encode() + b"\n"
        return self._ask(self._child or self._start(), request, self._seconds)


class Maths:
    """Compares references with replies; may be called from any number of threads, and after a fork."""

    def __init__(self, seconds: float = SECONDS, workers: int | None = None) -> None:
        """`workers` processes, by default one for each core, are begun when they are first needed. Raises ConfigError
        where math-verify isn't installed."""
        if find_spec("math_verify") is None:
            raise ConfigError("comparing mathematics needs math-verify; run: pip install 'qwill[eval]'.")
        self.seconds, self.workers = seconds, workers or available_cores()
        self._begin()

    def _begin(self) -> None:
        self._owner, self._lock = os.getpid(), threading.Lock()
        self._free: list[_Process] = []
        self._slots = threading.Semaphore(self.workers)

    def __call__(self, reference: Any, reply: str) -> Score:
        """1 where the reply's answer equals the reference."""
        text = _answered(str(reply))
        if text is None:
            return Score(0.0, "the thinking has no end")
        wanted, said = read(str(reference)), settled(text)
        if wanted is not None and said is not None and (equal := same(wanted, said)) is not None:
            return Score(float(equal), f"says {said.number} {said.unit}".rstrip())
        answer = self._asked(_wanted_readings(str(reference)), _said_readings(text))
        if "error" in answer:
            return Score(0.0, f"could not be compared: {answer['error']}"[:300])
        return Score(
            float(answer["right"]), f"says {answer['said']}" if answer["said"] else "says nothing mathematical"
        )

    def many(self, pairs: Sequence[tuple[Any, str]]) -> list[Score]:
        """In their order, `workers` at a time."""
        return in_order(pairs, lambda pair: self(*pair), self.workers)

    def _asked(self, wanted: list[str], said: list[str]) -> dict[str, Any]:
        if os.getpid() != self._owner:
            self._begin()  # the parent's processes answer to the parent
        with self._slots:
            with self._lock:
                process = self._free.pop() if self._free else None
            try:
                if process is None:
                    process = _Process("qwill.evaluate.maths_worker:equal", "math", self.seconds)
                return process.equal(wanted, said)
            finally:
                if process is not None:
                    with self._lock:
                        self._free.append(process)

    def close(self) -> None:
        if os.getpid() == self._owner:
            with self._lock:
                while self._free:
                    self._free.pop().close()

    def __enter__(self) -> Maths:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def maths_scorer(seconds: float) -> Callable[[Example, str], Score]:
    """The scorer `math`: 1 where the reply equals one of the example's answers."""
    maths = Maths(seconds)

    def score(example: Example, reply: str) -> Score:
        found = Score(0.0, "the example has no answer")
        for one in references(example):
            found = maths(one, reply)
            if found.value:
                break
        return found

    return score


def reference_of(row: dict[str, Any], column: str = "answer") -> Any:
    """Raises DataError for a row without one."""
    if row.get(column) in (None, ""):
        raise DataError(f"problem {row.get('id')} has no {column!r} to compare replies with; add that column.")
    return row[column]


def _answered(reply: str) -> str | None:
    """Behind the thinking; None where it was never closed."""
    _, closed, answer = reply.rpartition("</think>")
    text = answer if closed else reply
    return None if "<think>" in text else text[-LONGEST:]


def settled(text: str) -> Plain | None:
    """The plain value that a reply settles on, None where there is none or another reading may be meant: in its only
    box, else behind its last announcement, else the whole of it, else the last number of a text without formulas."""
    text = narrow(text)
    boxes, marks = text.count("\\boxed"), list(_ANNOUNCED.finditer(text))
    if boxes:
        inside = _box(text)
        if boxes > 1 or inside is None or (marks and marks[-1].start() > text.rfind("\\boxed")):
            return None
        return read(inside)
    if marks:
        behind = text[marks[-1].end() :].strip().strip("*").strip()
        end = _SENTENCE_END.search(behind)
        return read(behind[: end.start()] if end else behind)
    if (whole := read(text)) is not None:
        return whole
    return _last(text) if len(text) <= 2000 and not re.search(r"[\\$^=_{}]", text) else None


def _box(text: str) -> str | None:
    """What stands in the last box, with the sign of a percentage behind it."""
    found = re.search(r"\\boxed\s*\{", text[(start := text.rfind("\\boxed")) :])
    if not found or found.start():
        return None
    at = start = start + found.end()
    depth = 1
    while at < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    if depth:
        return None
    behind = re.match(r"\s*\$*\s*(\\?%|percent\b|pct\b)", text[at:])
    return text[start : at - 1] + ("%" if behind else "")


def _last(text: str) -> Plain | None:
    tokens = list(_TOKEN.finditer(_IDIOM.sub(lambda match: " " * len(match[0]), text)))
    if not tokens:
        return None
    token = tokens[-1]
    before, behind = text[: token.start()], text[token.end() :]
    if _JOINED.match(before[-1:]) or (_JOINED.match(behind[:1]) and not _UNIT_AFTER.match(behind)):
        return None
    if re.match(r"\s*[-+*/^×÷=,]\s*\w|\s+\d", behind) or re.search(r"\d\s+$|[,./+*×÷^-]\s*$", before):
        return None
    value, unit = token[0].rstrip(".,"), _UNIT_AFTER.match(behind)
    if unit:
        for length in range(len(unit[0]), 0, -1):
            if (found := read(value + unit[0][:length])) is not None:
                return found
        if behind[:1].isascii() and behind[:1].isalpha():
            return None
    return read(value)


def _numerals_to_digits(text: str) -> str:
    """Chinese numerals within formulas: x等于三分之二 as x=\\frac{2}{3}."""

    def digits(match: re.Match[str]) -> str:
        value = read(match[0])
        if value is None:
            return match[0]
        number = value.number / (100 if value.unit == "%" else 1)
        sign, number = ("-" if number < 0 else ""), abs(number)
        return (
            f"{sign}{number}"
            if number.denominator == 1
            else f"{sign}\\frac{{{number.numerator}}}{{{number.denominator}}}"
        )

    text = re.sub("等于|＝", "=", text)
    return re.sub(rf"负?(?:[{_NUMERAL}]+又)?[{_NUMERAL}]+(?:分之[{_NUMERAL}]+)?(?:点[{_NUMERAL}]+)?", digits, text)


def _wanted_readings(reference: str) -> list[str]:
    text = narrow(reference)
    if _HAN.search(text):
        text = _numerals_to_digits(text)
    return [text] if "$" in text or "\\boxed" in text or "\\(" in text or "\\[" in text else [f"${text}$", text]


def _said_readings(reply: str) -> list[str]:
    """The reply as it is; where it has Chinese or wide characters its answer alone too, with numerals as digits."""
    plain = narrow(reply)
    if plain == reply and not _HAN.search(reply):
        return [reply]
    inside, marks = (_box(plain) if "\\boxed" in plain else None), list(_ANNOUNCED.finditer(plain))
    if inside is None and marks:
        inside = re.split(r"[。\n]", plain[marks[-1].end() :].strip())[0]
    readings = [plain]
    for text in (inside, plain if inside is None and len(plain) <= 200 else None):
        if text:
            formula = re.sub(r"[\u3400-\u9fff，。；、：]+", " ", _numerals_to_digits(text)).strip(" $.")
            readings.insert(0, f"${formula}$")
    return readings if inside is None else readings[:1]
