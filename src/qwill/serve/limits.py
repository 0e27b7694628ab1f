"""Limits of an API key: requests and tokens a minute, requests at a time. Pure logic: the caller tells the time.

Each rate is a token bucket that holds a minute's allowance and refills steadily. So any stretch of `t` minutes admits
at most allowance × (1 + t), and a key that has rested for a minute may use a minute's allowance at once. Arithmetic is
in integers (a bucket counts units of 1/60,000,000,000 of a request or token; a nanosecond brings `allowance` of them):
nothing drifts, and a client that waits as long as it was told is admitted unless somebody else came first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from qwill.base.errors import ConfigError

MINUTE = 60_000_000_000  # nanoseconds, and units of one request or token
NEVER = 2**31 - 1  # seconds; more tokens than a whole minute's allowance
_MOST = 10**12  # keeps sums far from where other languages' integers end


@dataclass(frozen=True)
class Limits:
    """None: without limit. concurrent: requests at a time."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and (type(value) is not int or not 1 <= value <= _MOST):
                raise ConfigError(f"{one.name}: {value!r} makes no limit; expected a whole number from 1, or nothing.")


@dataclass
class Meter:
    """What a key has left; starts full. One for each key and process, for one thread at a time.

    debt: units used and not yet refilled, 0 for a full bucket (so a new meter needs no time to begin with). held: for
    each running request, in the order of their beginnings, its tokens and the lowest token debt since then.
    """

    limits: Limits
    running: int = 0
    request_debt: int = 0
    token_debt: int = 0
    at_ns: int | None = None
    held: list[list[int]] = field(default_factory=list)


def check(meter: Meter, tokens: int, now_ns: int) -> int | None:
    """None: the request is admitted, and counted with `tokens` (its prompt and the longest reply it may have).

    Otherwise nothing is counted, and it is the least number of whole seconds (at least 1) after which it would be
    admitted if nothing else happened; 1 where it waits for another to end, which nobody can foresee; NEVER for more
    tokens than `tokens_per_minute`. now_ns: a clock that does not go back (time.monotonic_ns), else it stands still.
    """
    limits = meter.limits
    _refill(meter, now_ns)
    if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
        return NEVER
    wait = 0
    if limits.concurrent is not None and meter.running >= limits.concurrent:
        wait = 1
    if limits.requests_per_minute is not None:
        wait = max(wait, _wait(meter.request_debt + MINUTE, limits.requests_per_minute))
    if limits.tokens_per_minute is not None:
        wait = max(wait, _wait(meter.token_debt + tokens * MINUTE, limits.tokens_per_minute))
    if wait:
        return wait
    meter.running += 1
    if limits.requests_per_minute is not None:
        meter.request_debt += MINUTE
    if limits.tokens_per_minute is not None:
        meter.token_debt += tokens * MINUTE
        meter.held.append([tokens, meter.token_debt])
    return None


def finish(meter: Meter, reserved: int, used: int, now_ns: int) -> None:
    """An admitted request has ended, however: what it had reserved and did not use is given back.

    Call it exactly once for each. `used` beyond `reserved` is charged, and later requests wait for it.

    A bucket that had never been charged the unused tokens would have been full earlier, and what flows into a full
    bucket is lost. So no more is given back than the lowest debt since the request began (the reflected path: its debt
    is D(t) - min(unused, least D since)); else a key could save up allowances by holding requests open.
    """
    _refill(meter, now_ns)
    meter.running -= 1
    if meter.limits.tokens_per_minute is None:
        return
    same = [i for i, (tokens, _) in enumerate(meter.held) if tokens == reserved]
    i = min(same, key=lambda i: meter.held[i][1])  # of several alike, the one that gives back least
    _, lowest = meter.held.pop(i)
    back = min((reserved - used) * MINUTE, lowest)
    meter.token_debt -= back
    if back > 0:  # since it began the debt has been lower than it seemed, for those beside it too
        for j, one in enumerate(meter.held):
            one[1] = min(one[1], lowest - back) if j < i else one[1] - back


def _refill(meter: Meter, now_ns: int) -> None:
    passed = max(0, now_ns - meter.at_ns) if meter.at_ns is not None else 0
    meter.at_ns = now_ns if meter.at_ns is None else max(meter.at_ns, now_ns)
    meter.request_debt = max(0, meter.request_debt - passed * (meter.limits.requests_per_minute or 0))
    meter.token_debt = max(0, meter.token_debt - passed * (meter.limits.tokens_per_minute or 0))
    for one in meter.held:
        one[1] = min(one[1], meter.token_debt)


def _wait(debt: int, allowance: int) -> int:
    """Whole seconds until `debt` fits into a bucket of a minute's allowance."""
    missing = debt - allowance * MINUTE
    return -(-missing // (allowance * 1_000_000_000)) if missing > 0 else 0
