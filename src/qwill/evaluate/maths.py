"""Whether a reply to a mathematical problem is right: numbers exactly and at once, all else by math-verify.

    with Maths() as maths:
        maths("2/3", "所以答案是三分之二。").value          # 1.0
        maths.many([("$x^2$", "$x \\\\cdot x$"), ("5 km", "5000 m")])

What is plainly one value (plain_values.py) is compared here; sets, intervals, expressions and matrices go to processes
that are kept warm. Each has `seconds` by the clock for a reply and is ended then, from whichever thread or process it
was asked; math-verify's own limit, SIGALRM, fails silently in threads. What can't be decided in time counts as wrong;
a process that can't begin or that ends is an error, for nothing was compared.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from qwill.base.errors import ConfigError, DataError
from qwill.data.workers import available_cores
from qwill.evaluate.plain_values import NO_NOUN, NUMERALS, Plain, narrow, read, same
from qwill.evaluate.sandbox import in_order
from qwill.evaluate.scorer_process import ScorerProcess
from qwill.evaluate.spoken_maths import HAN, english_numbers, formula, signs
from qwill.evaluate.task import Example, Score
from qwill.evaluate.tasks import final_answer
from qwill.evaluate.text_scorers import references

SECONDS = 5.0  # for one reply
LONGEST = 100_000  # characters of a reply from its end: an answer stands there
SHORT = 200  # characters of a reply that may be nothing but its answer

_ANNOUNCED = re.compile(
    r"(?:####|(?:final )?answer is:?|(?:final )?answer:|答案(?:应该|应当)?(?:是|为|：|:)|答[：:]|结果(?:是|为))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[。\n]|(?<=[^\d])\.(?=\s|$)|\.(?=\s*$|\s+[A-Z])")
# Reasons behind an announced answer.
_REASON = re.compile(
    r"[，,；;]\s?(?:因为|所以|因此|由于|即|也就是|其中|理由|这|故)|,?\s(?:because|since)\b", re.IGNORECASE
)
# Words before what the last sentence says.
_LEAD = re.compile(r"[A-Za-z' ]{0,100}\b(?:is|are|be|equals)\s{1,3}(?=[^A-Za-z\s])")
_HAN = re.compile(f"[{HAN}]")
_TOKEN = re.compile(
    rf"[负+-]?[$¥€£]?[\d.,/]*\d(?:\s*[万亿%])?|[负]?(?:[{NUMERALS}]+又)?(?:[{NUMERALS}\d]+分之)?[{NUMERALS}]+(?:点[{NUMERALS}]+)?|一?半"
)
_IDIOM = re.compile(
    f"第[{NUMERALS}\\d]+|(?<![{NUMERALS}])[一两](?=下|共|些|起|样|直|定|般)|万一|千万(?=别|不)|十分(?!之)"
)
# Beside these a number is a part of something else.
_JOINED = re.compile(r"[A-Za-z0-9_^*+\-/×÷=<>≤≥≠√π²³½¼¾‰(){}\[\]|:~!\\√∪∈±]")
_UNIT_AFTER = re.compile(
    r"\s?(?:[a-zA-Z]+(?:[²³]|\^[23])?(?:/[a-z]+)?|[°%€$£]|[\u3400-\u9fff]{1,4}(?:/[\u3400-\u9fff]{1,2})?)"
)

# Before a last number: it is one of several, a part of another, or bounded.
_BEFORE = re.compile(
    r"\d\s+$|[,./+*×÷^≠≥≤<>百千万亿-]\s*$|\d[个只条元]?\s?(?:or|to|and|或者?|和|与|到|至|、|，)\s*$", re.I
)
# A number behind one of these is not what the text says it is.
_DOUBT = re.compile(
    rf"(?:^|[A-Za-z]{{2}}|[{HAN}]|[^\w\s)}}\]|$])\s{{0,3}}[≠≥≤<>]\s{{0,3}}[-$¥]?\.?[\d{NUMERALS}][\d.,/]*+(?![\s\S]{{0,200}}\d)"
)
_SEVERAL = re.compile(r"\d[个只条元]?\s?(?:\bor\b|\band\b|或者?|和|与|、|，)\s?-?\d", re.IGNORECASE)
# What makes it another number: 5次方, 5个以上, 50多.
_CHANGED = re.compile(
    rf"[\d{NUMERALS}]\s?[{HAN}]?(?:次方|次幂|以上|以下|以内|多|半)|\d(?:点\d|[½¼¾‰])"
    r"|\d\s?(?:~|到|至|\bto\b)\s?-?\d|\d\s(?:[a-z]{1,12}\s)?or\s(?:more|less|fewer|above|below|over)\b"
)
# A formula, of which prose would be any number.
_COMPUTED = re.compile(r"[\\^√π²³]|\d:\d|^\s*\d+!\s*$|^(?!.*(?:=|[A-Za-z]{2})).*(?:\+|\d[xyzi]\b)")
_WORDS = re.compile(r"[A-Za-z]{4,}")
_DELIMITED = re.compile(r"\$|\\boxed|\\\(|\\\[")
# Of a date or a time of day nothing can be computed.
_DATE = re.compile(r"\d\s?[年月日号时点分秒]\s?\d|^\s*\d{4}-\d{1,2}-\d{1,2}\s*$|^\s*\d{1,2}/\d{1,2}/\d{4}\s*$")


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
        """1 where the reply's answer equals the reference. Raises DataError where nothing can be compared at all."""
        text, reference = final_answer(str(reply)), str(reference)
        if text is None:
            return Score(0.0, "the thinking has no end")
        text = text[-LONGEST:]
        wanted, said = read(english_numbers(signs(narrow(reference)))), settled(text)
        if wanted is not None and said is not None and (equal := same(wanted, said)) is not None:
            return Score(float(equal), f"says {said.number} {said.unit}".rstrip())
        if _is_itself(reference, text):
            return Score(1.0, "says the same in the same words")
        readings = [] if _DATE.search(narrow(reference)) else _said_readings(text)
        if not readings:
            return Score(0.0, "says nothing that could be compared")
        answer = self._asked(_wanted_readings(reference), readings)
        if "error" in answer and not answer.get("late"):
            raise DataError(f"mathematics could not be compared: the process {answer['error']}")
        if trouble := answer.get("error") or answer.get("trouble"):
            return Score(0.0, f"could not be compared: {trouble}"[:300])
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


def settled(text: str) -> Plain | None:
    """The plain value that a reply settles on, None where there is none or another reading may be meant: in its only
    box, else behind its last announcement, else the whole of it, else the last number of a text without formulas."""
    text = _plain(text)
    if (answer := _announced(text)) is not None:
        return read(answer)
    if "\\boxed" in text:
        return None
    text = english_numbers(text) if len(text) <= SHORT else text
    if (whole := read(text)) is not None:
        return whole
    return _last(text) if len(text) <= 2000 and not re.search(r"[\\$^=_{}]", text) else None


def _narrow(text: str) -> str:
    """With narrow signs; ！ behind Chinese or at the end is punctuation and no factorial."""
    return narrow(re.sub(f"！(?=[\\s*{HAN}]|\\Z)", "。", text))


@lru_cache(256)
def _plain(text: str) -> str:
    return signs(_narrow(text))


@lru_cache(256)
def _announced(text: str) -> str | None:
    """What stands in the only box, else what is announced last; None where there is neither, or more boxes than one."""
    boxes, marks = text.count("\\boxed"), list(_ANNOUNCED.finditer(text))
    if boxes:
        inside = _box(text)
        if boxes > 1 or inside is None or (marks and marks[-1].start() > text.rfind("\\boxed")):
            return None
        return english_numbers(inside) if len(inside) <= SHORT else inside
    if not marks:
        return None
    behind = text[marks[-1].end() :].strip().strip("*").strip()
    end = _SENTENCE_END.search(behind)
    answer = behind[: end.start()] if end else behind
    if (reason := _REASON.search(answer)) and reason.start():
        answer = answer[: reason.start()].strip()
    return english_numbers(answer) if len(answer) <= SHORT else answer


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
    behind = re.match(r"\s*\$*\s*(\\?%|percent\b|pct\b)", text[at : at + 20])
    return text[start : at - 1] + ("%" if behind else "")


def _last(text: str) -> Plain | None:
    tokens = list(_TOKEN.finditer(_IDIOM.sub(lambda match: " " * len(match[0]), text)))
    if not tokens:
        return None
    token = tokens[-1]
    before, behind = text[: token.start()], text[token.end() :]
    around = _CHANGED.finditer(text, max(0, token.start() - 20), token.end() + 20)
    if any(found.start() < token.end() and token.start() < found.end() for found in around):
        return None
    if _JOINED.match(before[-1:]) or (_JOINED.match(behind[:1]) and not _UNIT_AFTER.match(behind)):
        return None
    if re.match(r"\s*[-+*/^×÷=,]\s*\w|\s+\d", behind) or _BEFORE.search(before[-20:]):
        return None
    value, unit = token[0].rstrip(".,"), _UNIT_AFTER.match(behind)
    if unit:
        for length in range(len(unit[0]), 0, -1):
            if (found := read(value + unit[0][:length])) is not None:
                return None if behind[length : length + 1] in NO_NOUN else found
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
    return re.sub(rf"负?(?:[{NUMERALS}]+又)?[{NUMERALS}]+(?:分之[{NUMERALS}]+)?(?:点[{NUMERALS}]+)?", digits, text)


def _wanted_readings(reference: str) -> list[str]:
    """The reference as a formula. As prose it would be any number in it too: 3 of y = 2x + 3."""
    text = narrow(reference)
    if _DELIMITED.search(text):
        return [_numerals_to_digits(text) if _HAN.search(text) else text]
    text = signs(text)
    if re.fullmatch(r"\s*[+-]?\d+,\d+\s*", text):
        return [f"${text}$", text]  # a decimal comma, or two numbers
    if _HAN.search(text):
        text = _numerals_to_digits(text)
    return [f"${formula(text)}$"]


def _said_readings(reply: str) -> list[str]:
    """What math-verify is to read of a reply. Its answer alone as a formula, where it is announced or all there is and
    is written without dollars; and the reply itself, unless math-verify would take a number out of words that say
    something else of it (at least 5, 5 or 6), or out of Chinese, in which it knows no numerals."""
    plain = _plain(reply)
    answer = _announced(plain)
    own = answer is not None
    wide = narrow(reply) != reply or bool(_HAN.search(reply))
    if answer is None and "\\boxed" in plain:
        inside = _box(plain) if wide else None
        return [f"${_numerals(inside)}$"] if inside else [plain if wide else reply]
    if answer is None:
        short = len(plain) <= SHORT
        answer = english_numbers(plain) if short else _last_sentence(plain)
    doubtful = _DOUBT.search(answer) is not None or (not _DELIMITED.search(answer) and _SEVERAL.search(answer))
    changed = list(_CHANGED.finditer(answer))
    if changed and not re.search(r"\d", answer[changed[-1].end() :]) and not _DELIMITED.search(answer):
        return []
    readings = []
    if (own or short) and len(answer) <= 2 * SHORT:
        text = _numerals(answer) if wide else formula(_LEAD.sub("", answer, count=1))
        # 3千5 is 3500 to some; English words would be products of their letters.
        words = _WORDS.search(re.sub(r"\\[A-Za-z]+", " ", text))
        clean = not re.search(r"\d\s*[百千万亿]", answer) and not (words and not _HAN.search(answer))
        if text and clean and (wide or not _DELIMITED.search(answer)):
            readings.append(f"${text}$")
        if not clean and wide:
            return readings
    # As prose it would be the number before a root or a power.
    if doubtful or (readings and _COMPUTED.search(answer) and not _DELIMITED.search(answer)):
        return readings
    if wide:
        return readings if own else [*readings, plain]
    if answer in reply:
        return [*readings, reply]
    return [*readings, answer]


def _numerals(text: str) -> str:
    return formula(_numerals_to_digits(text))


def _last_sentence(text: str) -> str:
    tail = text[-2000:].strip()
    ends = [end.end() for end in _SENTENCE_END.finditer(tail) if end.end() < len(tail)]
    return tail[ends[-1] :] if ends else tail


def _is_itself(reference: str, reply: str) -> bool:
    """Whether the reply's answer, or all of it, is the reference word for word, or the letter that it is."""
    wanted = _words_of(english_numbers(_plain(reference)))
    plain = _plain(reply)
    said = [answer for answer in (_announced(plain), plain) if answer is not None and len(answer) <= 2000]
    if re.fullmatch("[A-Z]", wanted):
        letters = [re.match(r"[\s*($]*(?:\\text\{)?([A-Z])(?:\}?[\s*$]*(?:[).:。,，]|\Z))", answer) for answer in said]
        return any(letter is not None and letter[1] == wanted for letter in letters)
    return bool(wanted) and any(_words_of(answer) == wanted for answer in said)


def _words_of(text: str) -> str:
    """Without what is only form: bold, dollars, boxes and \\text around all, brackets around a letter, an end."""
    text = " ".join(text.split()).strip(" *$").rstrip(".。 ")
    found = re.fullmatch(r"\\(?:boxed|text|mathrm|textbf)\s?\{(.*)\}", text)
    text = found[1].strip() if found and "{" not in found[1] else text
    return text[1] if re.fullmatch(r"\([A-Z]\)", text) else text
