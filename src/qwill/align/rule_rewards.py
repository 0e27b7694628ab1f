"""Rewards by rule: mathematics, programs, reasoning-gym, and penalties for length and repetition.

Each is made once and given all replies of a step; what is slow runs side by side, and results keep the replies' order.
A value is a number, or the DataError of a reply that could not be judged.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qwill.align.settings import RewardPart
from qwill.base.errors import ConfigError, DataError
from qwill.evaluate.sandbox import in_order
from qwill.evaluate.task import Example
from qwill.evaluate.tasks import final_answer

NGRAM = 4  # words
# Chinese characters that count as as many words: then docs/en and docs/zh, which say the same, repeat themselves alike
# (0.7 % in both without code and tables; with 4 characters it is 2.7 %).
HAN_NGRAM = 6
Said = list[dict[str, Any]]  # messages
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")
_HAN = re.compile("[\u3400-\u9fff]")


@dataclass(frozen=True)
class Made:
    """A reply as rewards see it. ended: by itself, not at the limit of `limit` tokens. said: the whole conversation
    behind the prompt, where there were tools; then `reply` is its last turn, and `tokens` are all of the model's."""

    row: dict[str, Any]
    reply: str
    ended: bool
    tokens: int = 0
    limit: int = 0
    said: Said | None = None


Value = float | DataError
Judge = Callable[[Sequence[Made]], Iterable[Value]]


def one_by_one(judge: Callable[[Made], float]) -> Judge:
    """Lazily, so that who counts failures can stop in time."""

    def judged(made: Sequence[Made]) -> Iterator[Value]:
        for one in made:
            yield attempt(judge, one)

    return judged


def side_by_side(judge: Callable[[Made], float], workers: int | None = None) -> Judge:
    """In threads, as many as cores: what waits for other processes."""
    return lambda made: in_order(made, lambda one: attempt(judge, one), workers)


def attempt(judge: Callable[[Made], float], one: Made) -> Value:
    try:
        return float(judge(one))
    except DataError as error:
        return error


def overlong(tokens: int, limit: int, buffer: int) -> float:
    """Soft overlong punishment: 0 up to limit − buffer tokens, from there falling in a line to −1 at the limit.

    DAPO, arXiv 2503.14476, eq. 13.
    """
    if buffer <= 0 or tokens <= limit - buffer:
        return -1.0 if tokens >= limit and buffer <= 0 else 0.0
    return max(-1.0, (limit - buffer - tokens) / buffer)


def repeated_share(text: str) -> float:
    """The share of a text's n-grams that stood in it before, 0 to below 1. An n-gram is NGRAM words or HAN_NGRAM
    Chinese characters; where both are mixed, as many as weigh that much together."""
    words = _WORD.findall(text.casefold())
    weights = [NGRAM if _HAN.match(word) else HAN_NGRAM for word in words]
    grams: list[tuple[str, ...]] = []
    end = weight = 0
    for start in range(len(words)):
        while end < len(words) and weight < NGRAM * HAN_NGRAM:
            weight += weights[end]
            end += 1
        if weight < NGRAM * HAN_NGRAM:
            break
        grams.append(tuple(words[start:end]))
        weight -= weights[start]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def rule_of(part: RewardPart, closing: list[Any]) -> Judge:
    """The rule that a part names; what must be closed at the end is put into `closing`. Raises ConfigError for a
    package that isn't installed."""
    match part.kind:
        case "maths":
            return _maths(part, closing)
        case "code":
            return _code(part)
        case "reasoning_gym":
            return _reasoning_gym(part, closing)
        case "overlong":
            return one_by_one(lambda one: overlong(one.tokens, one.limit, part.buffer))
        case "repetition":
            return one_by_one(lambda one: -repeated_share(one.reply))
    raise ConfigError(f"the reward {part.name} has the rule {part.kind}, which there is not.")


def check_rows(rows: Sequence[dict[str, Any]], parts: Sequence[RewardPart], place: Path) -> None:
    """Raises DataError naming the first problem without the column that a rule reads."""
    needs = {"code": ("test", "test_list"), "reasoning_gym": ("entry",)}
    for part in parts:
        columns = (part.answer,) if part.kind == "maths" else needs.get(part.kind, ())
        for row in rows if columns else ():
            if all(row.get(column) in (None, "", []) for column in columns):
                raise DataError(
                    f"{place}: problem {row['id']} has no {' or '.join(map(repr, columns))}, which the reward "
                    f"{part.name} reads; add it, or name another reward."
                )


def _maths(part: RewardPart, closing: list[Any]) -> Judge:
    from qwill.evaluate.maths import Maths, reference_of

    maths = Maths(part.seconds)
    closing.append(maths)
    return side_by_side(lambda one: maths(reference_of(one.row, part.answer), one.reply).value if one.ended else 0.0)


def _code(part: RewardPart) -> Judge:
    """1 where all tests pass; with `tests: share` the share of the row's test_list that passes, each run alone. All
    runs of a reply together have `part.seconds`; what was not run by then has not passed."""
    from qwill.evaluate.code_scorer import LIMITS, code_scorer

    def score(example: Example, answer: str, seconds: float) -> float:
        return code_scorer(limits=replace(LIMITS, seconds=min(LIMITS.seconds, seconds)))(example, answer).value

    def judge(one: Made) -> float:
        answer = final_answer(one.reply)
        example = _example(one.row)
        if not one.ended or answer is None:
            return 0.0
        tests = one.row.get("test_list")
        if part.tests == "all" or not isinstance(tests, list) or len(tests) < 2:
            return score(example, answer, part.seconds)
        passed, end = 0.0, time.monotonic() + part.seconds
        for test in tests:
            if (left := end - time.monotonic()) <= 0:
                break
            passed += score(Example(example.id, "", fields=one.row | {"test_list": [test]}), answer, left)
        return passed / len(tests)

    return side_by_side(judge)


def _reasoning_gym(part: RewardPart, closing: list[Any]) -> Judge:
    from qwill.evaluate.scorer_process import ScorerProcess

    if find_spec("reasoning_gym") is None:
        raise ConfigError(f"the reward {part.name} needs reasoning-gym; run: pip install 'qwill[eval]'.")
    process = ScorerProcess("qwill.evaluate.reasoning_gym_tasks:score", part.name, part.seconds)
    closing.append(process)

    def judge(one: Made) -> float:
        answer = final_answer(one.reply)
        return process(_example(one.row), answer).value if one.ended and answer is not None else 0.0

    return one_by_one(judge)


def _example(row: dict[str, Any]) -> Example:
    return Example(str(row.get("id", "")), "", language=str(row.get("language", "en")), fields=row)
