"""Verifiable bilingual tasks: problems with parameters, a demonstration drawn for each, and the verifier.

A problem is known by its language-free `key` (`split:4731`); everything that the verifier needs is in it.
Some families have many right answers: imitation must then spread over all of them, hard ones too, while a
learner that is only told right from wrong may settle on the easy ones. Reinforcement learning is measured on
that gap.
"""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from qwill.base.errors import DataError
from qwill.evaluate import kinds
from qwill.evaluate.numerals import read_integers
from qwill.evaluate.phrasings import PAIR, PHRASINGS, SEPARATORS, THINKING
from qwill.evaluate.worked import worked_out

FAMILIES = ("kinds", "split", "between", "digits", "sort", "reverse", "compare", "add")
LANGUAGES = ("en", "zh")

LARGEST_SUM = 9999
# A reply is an answer, not an essay: a rambling one earns nothing even if its only numbers are right.
LONGEST_REPLY = 300


@dataclass(frozen=True)
class Problem:
    """One problem, without language. `values` are the integers (or digit strings) that its key spells out."""

    family: str
    values: tuple[str, ...]

    @property
    def key(self) -> str:
        return ":".join((self.family, *self.values))

    @property
    def numbers(self) -> list[int]:
        return [int(value) for value in self.values if value.isdecimal()]

    @classmethod
    def from_key(cls, key: str) -> "Problem":
        family, *values = key.split(":")
        if family not in FAMILIES or not values:
            raise DataError(f"'{key}' is not a problem key; keys look like 'split:4731', with one of {FAMILIES} first.")
        return cls(family, tuple(values))


@dataclass(frozen=True)
class Demonstration:
    prompt: str
    answer: str
    thinking: str


def draw_problem(family: str, rng: random.Random) -> Problem:
    """A random problem of the family. Sizes are drawn so that short numbers are common too."""
    return Problem(family, tuple(str(value) for value in _DRAW[family](rng)))


def _draw_split(rng: random.Random) -> list[int]:
    # Uniform in the logarithm: two-, three- and four-digit sums all occur often.
    return [int(20 * ((LARGEST_SUM + 1) / 20) ** rng.random())]


def _draw_between(rng: random.Random) -> list[int | str]:
    divisor = rng.randint(2, 9)
    width = rng.randint(3 * divisor, 12 * divisor)
    low = rng.randint(1, 900)
    return [low, low + width, divisor, rng.choice(("inclusive", "strict"))]


def _draw_digits(rng: random.Random) -> list[int]:
    count, first = rng.randint(3, 6), rng.randint(1, 9)
    return [count, first, first + rng.randint(1, 9 * (count - 1) - 1)]


def _draw_sort(rng: random.Random) -> list[int | str]:
    numbers = sorted(rng.sample(range(1, 100), rng.randint(3, 5)))
    return [rng.choice(("ascending", "descending")), *numbers]


def _draw_reverse(rng: random.Random) -> list[int]:
    length = rng.randint(4, 7)
    return [rng.randrange(10 ** (length - 1), 10**length)]


def _draw_compare(rng: random.Random) -> list[int]:
    # Mostly numbers of one length: otherwise counting digits would be the whole task.
    length = rng.randint(2, 5)
    other = length if rng.random() < 0.75 else rng.randint(2, 5)
    a, b = (rng.randrange(10 ** (n - 1), 10**n) for n in (length, other))
    return sorted((a, b)) if a != b else [a, a + 1]


def _draw_add(rng: random.Random) -> list[int]:
    return [rng.randrange(10 ** (n - 1), 10**n) for n in (rng.randint(1, 3), rng.randint(2, 3))]


_DRAW: dict[str, Callable[[random.Random], Sequence[int | str]]] = {
    "kinds": kinds.draw, "split": _draw_split, "between": _draw_between, "digits": _draw_digits,
    "sort": _draw_sort, "reverse": _draw_reverse, "compare": _draw_compare, "add": _draw_add,
}  # fmt: skip


def demonstrate(problem: Problem, language: str, rng: random.Random, worked: bool = False) -> Demonstration:
    """The problem asked in one phrasing, with one right answer drawn uniformly from all right ones; `worked`: its
    thinking is worked out step by step."""
    shown = _demonstrate(problem, language, rng)
    if not worked:
        return shown
    thinking = worked_out(problem.family, problem.values, language, shown.prompt, shown.answer, shown.thinking)
    return replace(shown, thinking=thinking)


def _demonstrate(problem: Problem, language: str, rng: random.Random) -> Demonstration:
    if problem.family == "kinds":
        return Demonstration(*kinds.ask(problem.values, language, rng))
    family, numbers, separator = problem.family, problem.numbers, SEPARATORS[language]
    wording = family
    asked: dict[str, int | str]
    reasons: dict[str, int | str]
    if family == "split":
        total = numbers[0]
        first = rng.randint(1, total - 1)
        asked = {"total": total}
        reasons = {"total": total, "a": first, "b": total - first}
        answer = PAIR[language].format(first, total - first)
    elif family == "between":
        low, high, divisor = numbers
        value = rng.choice(_multiples(low, high, divisor, problem.values[3]))
        wording = f"between_{problem.values[3]}"
        asked = {"low": low, "high": high, "divisor": divisor}
        reasons = asked | {"value": value, "factor": value // divisor}
        answer = str(value)
    elif family == "digits":
        count, first, total = numbers
        digits = [first, *_random_digits(count - 1, total - first, rng)]
        asked = {"count": count, "first": first, "total": total}
        plus = " + " if language == "en" else "+"
        reasons = {"total": total, "sum": plus.join(map(str, digits))}
        answer = separator.join(map(str, digits))
    elif family == "sort":
        wording = f"sort_{problem.values[0]}"
        shown = rng.sample(numbers, len(numbers))
        ordered = sorted(numbers, reverse=problem.values[0] == "descending")
        asked = {"numbers": separator.join(map(str, shown))}
        reasons = {"first": ordered[0], "last": ordered[-1]}
        answer = separator.join(map(str, ordered))
    elif family == "reverse":
        backwards = problem.values[0][::-1]
        asked = {"digits": problem.values[0]}
        reasons = {"spaced": separator.join(backwards)}
        answer = backwards
    elif family == "add":
        a, b = numbers
        asked = {"a": a, "b": b}
        reasons = asked | {"total": a + b}
        answer = str(a + b)
    else:
        small, large = numbers
        a, b = rng.sample(numbers, 2)
        asked = {"a": a, "b": b}
        reasons = {"small": small, "large": large, "difference": large - small}
        answer = str(large)
    prompt = rng.choice(PHRASINGS[wording][language]).format(**asked)
    return Demonstration(prompt, answer, THINKING[family][language].format(**reasons))


def _multiples(low: int, high: int, divisor: int, ends: str) -> range:
    smallest, largest = (low, high) if ends == "inclusive" else (low + 1, high - 1)
    return range(-(-smallest // divisor) * divisor, largest + 1, divisor)


@cache
def _ways(count: int, total: int) -> int:
    """How many strings of `count` digits add up to `total`."""
    if count == 0:
        return int(total == 0)
    return sum(_ways(count - 1, total - digit) for digit in range(10) if digit <= total)


def _random_digits(count: int, total: int, rng: random.Random) -> list[int]:
    digits: list[int] = []
    for left in range(count - 1, -1, -1):
        weights = [_ways(left, total - digit) if digit <= total else 0 for digit in range(10)]
        digits += rng.choices(range(10), weights)
        total -= digits[-1]
    return digits


def verify(row: Mapping[str, Any], reply: str) -> bool:
    """Whether `reply` solves the problem `row["key"]` asked in `row["language"]`.

    The part after a `<think>` block counts. It must hold exactly the numbers that were asked for, as digits
    (or, in Chinese, as Chinese numerals), and no other number, so that listing candidates never pays.
    """
    text = final_answer(reply)
    if text is None or len(text) > LONGEST_REPLY:
        return False
    problem = Problem.from_key(row["key"])
    if problem.family == "kinds":
        return kinds.solves(problem.values, row["language"], text)
    found = read_integers(text, row["language"])
    return found is not None and _solves(problem, found)


def final_answer(reply: str) -> str | None:
    """The reply after its thinking, or None when the thinking was never closed or was opened again."""
    thinking, closed, answer = reply.partition("</think>")
    if not closed:
        answer = thinking
    return None if "<think>" in answer or "</think>" in answer else answer.strip()


def _solves(problem: Problem, found: list[str]) -> bool:
    family, numbers = problem.family, problem.numbers
    # Longer than any right answer: refused before int(), which is quadratic in the number of digits.
    if any(len(digits) > 8 for digits in found):
        return False
    values = [int(digits) for digits in found]
    if family == "split":
        return len(values) == 2 and min(values) > 0 and sum(values) == numbers[0]
    if family == "between":
        low, high, divisor = numbers
        return len(values) == 1 and values[0] in _multiples(low, high, divisor, problem.values[3])
    if family == "digits":
        count, first, total = numbers
        digits = _as_single_digits(found)
        return len(digits) == count and digits[0] == first and sum(digits) == total
    if family == "sort":
        return values == sorted(numbers, reverse=problem.values[0] == "descending")
    if family == "reverse":
        return _as_single_digits(found) == [int(digit) for digit in reversed(problem.values[0])]
    return values == [sum(numbers) if family == "add" else max(numbers)]


def _as_single_digits(found: list[str]) -> list[int]:
    """The digits of `4 0 9` or of `409`; empty when the reply mixes the two."""
    if len(found) == 1 or all(len(digits) == 1 for digits in found):
        return [int(digit) for digit in "".join(found)]
    return []


def key_fraction(key: str) -> float:
    """A number in [0, 1) that depends on the key alone: the split of problems into streams stands on it."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
