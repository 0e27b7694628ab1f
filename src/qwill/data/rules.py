"""What a filter family is made of: rules, each a measured value, a limit and the reason that it gives.

A family measures every value of a document, whether or not a rule has failed before, since a threshold sweep needs them
all; its decision is the first rule in the published order whose value lies outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Values(Protocol):
    """Measured values by name: a dict, or something that measures when it is asked."""

    def __getitem__(self, name: str, /) -> float: ...


@dataclass(frozen=True)
class Rule:
    """A document fails when its `value` is below (`below`) or else above `limit`; at the limit it passes.

    `setting` is the field of the family's dataclass that holds the limit; "" where it is no setting. `only` = (value,
    low, high): the rule is for documents alone whose other value is low <= … < high. A value that cannot be measured (a
    mean of no words, a share of no lines) is nan, which is neither below nor above and passes.
    """

    reason: str
    value: str
    below: bool
    limit: float
    setting: str
    only: tuple[str, float, float] | None = None

    def fails(self, values: Values) -> bool:
        if self.only is not None and not self.only[1] <= values[self.only[0]] < self.only[2]:
            return False
        value = values[self.value]
        return value < self.limit if self.below else value > self.limit


def first_failing(rules: Iterable[Rule], values: Values) -> tuple[str, float] | None:
    """(reason, value) of the first rule that fails, None when all pass."""
    return next(((rule.reason, values[rule.value]) for rule in rules if rule.fails(values)), None)


def share(part: float, whole: float) -> float:
    """part / whole, nan of nothing: where datatrove divides by zero (a document without words or lines)."""
    return part / whole if whole else float("nan")
