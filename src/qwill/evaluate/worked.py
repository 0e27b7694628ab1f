"""Thinking worked out step by step for the generated tasks, in English and Chinese: what a cold start imitates.

Sums and differences go column by column from the right, with carrying and borrowing; lists are sorted by selection,
digits are added one by one, numbers are compared from the left. Every step is one that a small model can make by
looking at a few tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[0-9]+")


def worked_out(family: str, values: Sequence[str], language: str, prompt: str, answer: str, short: str) -> str:
    """How `answer` is found. `prompt` says in which order numbers were given; `short` is what is said where there is
    nothing to work out."""
    zh = language == "zh"
    found = [int(number) for number in _NUMBER.findall(answer)]
    if family == "add":
        return _added(int(values[0]), int(values[1]), zh)
    if family == "split":
        return _subtracted(int(values[0]), found[0], zh)
    if family == "digits":
        return _summed(found, zh)
    if family == "sort":
        shown = [int(number) for number in _NUMBER.findall(prompt)]
        return _selected(shown, values[0] == "ascending", zh)
    if family == "reverse":
        return _reversed(values[0], zh)
    if family == "compare":
        return _compared(*(int(number) for number in _NUMBER.findall(prompt)[:2]), zh=zh)
    return short


def _added(a: int, b: int, zh: bool) -> str:
    steps, carry = [], 0
    for place in range(max(len(str(a)), len(str(b)))):
        terms = [n // 10**place % 10 for n in (a, b) if n >= 10**place or place == 0]
        total = sum(terms) + carry
        sum_ = " + ".join(map(str, [*terms, *([carry] if carry else [])]))
        steps.append(_step(f"{sum_} = {total}", total % 10, total // 10, zh))
        carry = total // 10
    if carry:
        steps.append(f"最后写{carry}。" if zh else f"Write {carry} in front.")
    return _columns(f"{a} + {b}", steps, a + b, zh)


def _subtracted(total: int, first: int, zh: bool) -> str:
    """What is left of `total` when `first` is taken."""
    steps, borrow = [], 0
    for place in range(len(str(total))):
        above, below = total // 10**place % 10 - borrow, first // 10**place % 10
        borrow = int(above < below)
        if borrow:
            above += 10
        digit = above - below
        step = f"{above} - {below} = {digit}"
        lent = ("借1。" if zh else " Borrow 1.") if borrow else ""
        steps.append(f"{step.replace(' ', '')}，写{digit}。{lent}" if zh else f"{step}, write {digit}.{lent}")
    head = f"先取{first}。" if zh else f"I take {first} first. "
    return head + _columns(f"{total} - {first}", steps, total - first, zh)


def _step(sum_: str, digit: int, carry: int, zh: bool) -> str:
    if zh:
        return f"{sum_.replace(' ', '')}，写{digit}" + (f"，进{carry}。" if carry else "。")
    return f"{sum_}, write {digit}" + (f", carry {carry}." if carry else ".")


def _columns(what: str, steps: Sequence[str], result: int, zh: bool) -> str:
    if zh:
        return f"{what.replace(' ', '')}，从右边起。{''.join(steps)}得{result}。"
    return f"{what}, from the right. {' '.join(steps)} That makes {result}."


def _summed(digits: Sequence[int], zh: bool) -> str:
    single = [int(digit) for number in digits for digit in str(number)]
    steps, total = [], single[0]
    for digit in single[1:]:
        steps.append(f"{total} + {digit} = {total + digit}")
        total += digit
    if zh:
        return f"从{single[0]}开始。" + "".join(f"{step.replace(' ', '')}。" for step in steps)
    return f"It starts with {single[0]}. " + " ".join(f"{step}." for step in steps)


def _selected(shown: Sequence[int], ascending: bool, zh: bool) -> str:
    left, steps = list(shown), []
    while len(left) > 1:
        chosen = min(left) if ascending else max(left)
        listed = ("、" if zh else ", ").join(map(str, left))
        word = ("最小" if ascending else "最大") if zh else ("smallest" if ascending else "largest")
        steps.append(f"{listed}中{word}的是{chosen}。" if zh else f"Of {listed} the {word} is {chosen}.")
        left.remove(chosen)
    return "".join([*steps, f"剩下{left[0]}。"]) if zh else " ".join([*steps, f"{left[0]} is left."])


def _reversed(digits: str, zh: bool) -> str:
    forwards, backwards = " ".join(digits), " ".join(digits[::-1])
    if zh:
        return f"各位数字是 {forwards}。从右往左是 {backwards}。"
    return f"The digits are {forwards}. From the right they are {backwards}."


def _compared(a: int, b: int, *, zh: bool) -> str:
    one, other = str(a), str(b)
    if len(one) != len(other):
        if zh:
            return f"{a}有{len(one)}位，{b}有{len(other)}位，位数多的{max(a, b)}更大。"
        return f"{a} has {len(one)} digits and {b} has {len(other)}, so {max(a, b)} is larger."
    steps = []
    for x, y in zip(one, other, strict=True):
        steps.append(f"{x} {'=' if x == y else '<' if x < y else '>'} {y}")
        if x != y:
            break
    if zh:
        return (
            f"两个数都有{len(one)}位。从左边起：{'，'.join(s.replace(' ', '') for s in steps)}，所以{max(a, b)}更大。"
        )
    return f"Both have {len(one)} digits. From the left: {', '.join(steps)}, so {max(a, b)} is larger."
