from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qwill.base.errors import ConfigError
from qwill.serve.limits import MINUTE, NEVER, Limits, Meter, check, finish

SECOND = 10**9
limits = st.builds(
    Limits,
    requests_per_minute=st.none() | st.integers(1, 200),
    tokens_per_minute=st.none() | st.integers(1, 5000),
    concurrent=st.none() | st.integers(1, 5),
)


@dataclass
class Running:
    reserved: int
    at: int


class Machine(RuleBasedStateMachine):
    """A key in use, and a second look at it by rational numbers and by adding up what every window admitted."""

    @initialize(limits=limits, start=st.integers(0, 10**18))
    def start(self, limits: Limits, start: int) -> None:
        self.limits, self.meter, self.now = limits, Meter(limits), start
        self.running: list[Running] = []
        self.admitted: list[tuple[int, int]] = []  # (time, tokens that were kept in the end)
        self.overdrawn = False
        self.requests = Fraction(limits.requests_per_minute or 0)  # what is left
        self.tokens = Fraction(limits.tokens_per_minute or 0)

    def pass_time(self, nanoseconds: int) -> None:
        self.now += nanoseconds
        for name, rate in (("requests", self.limits.requests_per_minute), ("tokens", self.limits.tokens_per_minute)):
            if rate is not None:
                left = getattr(self, name) + Fraction(nanoseconds * rate, MINUTE)
                setattr(self, name, min(Fraction(rate), left))

    @rule(nanoseconds=st.integers(0, 3 * SECOND) | st.integers(0, 3 * MINUTE))
    def wait(self, nanoseconds: int) -> None:
        self.pass_time(nanoseconds)

    @rule(tokens=st.integers(0, 6000), patient=st.booleans())
    def ask(self, tokens: int, patient: bool) -> None:
        free = self.limits.concurrent is None or len(self.running) < self.limits.concurrent
        enough = self.limits.requests_per_minute is None or self.requests >= 1
        enough = enough and (self.limits.tokens_per_minute is None or self.tokens >= tokens)
        before = (self.meter.running, self.meter.request_debt, self.meter.token_debt)
        wait = check(self.meter, tokens, self.now)
        assert (wait is None) == (free and enough)
        if wait is None:
            self.take(tokens)
            return
        assert wait >= 1
        # A refusal counts nothing: asking a hundred times doesn't put it off.
        assert [check(self.meter, tokens, self.now) for _ in range(3)] == [wait] * 3
        assert (self.meter.running, self.meter.request_debt, self.meter.token_debt) <= before
        if wait == NEVER:
            assert self.limits.tokens_per_minute is not None and tokens > self.limits.tokens_per_minute
        elif free and patient:
            # The least number of whole seconds: not a second earlier, and then indeed.
            if wait > 1:
                self.pass_time((wait - 1) * SECOND)
                assert check(self.meter, tokens, self.now) == 1
                wait = 1
            self.pass_time(wait * SECOND)
            assert check(self.meter, tokens, self.now) is None
            self.take(tokens)

    def take(self, tokens: int) -> None:
        self.requests -= 1
        self.tokens -= tokens
        self.running.append(Running(tokens, self.now))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 10**6), share=st.fractions(0, 1), beyond=st.sampled_from([0] * 15 + [7]))
    def end(self, which: int, share: Fraction, beyond: int) -> None:
        one = self.running.pop(which % len(self.running))
        used = int(one.reserved * share) + beyond
        self.admitted.append((one.at, used))
        self.overdrawn = self.overdrawn or beyond > 0
        if self.limits.tokens_per_minute is None:
            finish(self.meter, one.reserved, used, self.now)
            return
        before = self.limits.tokens_per_minute - self.tokens
        finish(self.meter, one.reserved, used, self.now)
        after = Fraction(self.meter.token_debt, MINUTE)
        assert before - max(0, one.reserved - used) <= after <= before + max(0, used - one.reserved)
        assert after >= self.debt_of_a_bucket_that_knew()
        self.tokens = self.limits.tokens_per_minute - after

    def debt_of_a_bucket_that_knew(self) -> Fraction:
        """Charged at the beginning of each request with what it used in the end (or may still use)."""
        debt, at = Fraction(0), 0
        for begin, tokens in sorted([*self.admitted, *((one.at, one.reserved) for one in self.running)]):
            debt = max(Fraction(0), debt - Fraction((begin - at) * (self.limits.tokens_per_minute or 0), MINUTE))
            debt, at = debt + tokens, begin
        return max(Fraction(0), debt - Fraction((self.now - at) * (self.limits.tokens_per_minute or 0), MINUTE))

    @invariant()
    def what_is_left_is_exact(self) -> None:
        if not hasattr(self, "meter"):
            return
        assert self.meter.running == len(self.running)
        if self.limits.requests_per_minute is not None:
            at = self.now if self.meter.at_ns is None else self.meter.at_ns
            passed = (self.now - at) * self.limits.requests_per_minute
            debt = max(0, self.meter.request_debt - passed)
            assert Fraction(debt, MINUTE) == self.limits.requests_per_minute - self.requests
        if self.limits.tokens_per_minute is not None:
            at = self.now if self.meter.at_ns is None else self.meter.at_ns
            passed = (self.now - at) * self.limits.tokens_per_minute
            debt = max(0, self.meter.token_debt - passed)
            assert Fraction(debt, MINUTE) == self.limits.tokens_per_minute - self.tokens
        assert self.limits.concurrent is None or self.meter.running <= self.limits.concurrent

    @invariant()
    def no_window_has_more_than_its_share_and_a_burst(self) -> None:
        if not hasattr(self, "meter"):
            return
        if self.overdrawn:
            return  # tokens beyond what was asked for are paid back later
        kept = sorted([*self.admitted, *((one.at, one.reserved) for one in self.running)])
        for i, (begin, _) in enumerate(kept):
            tokens = 0
            for count, (end, used) in enumerate(kept[i:], start=1):
                tokens += used
                share = 1 + Fraction(end - begin, MINUTE)
                rate = self.limits.requests_per_minute
                assert rate is None or count <= rate * share
                rate = self.limits.tokens_per_minute
                assert rate is None or tokens <= rate * share


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_giving_back_leaves_what_using_only_that_much_would_have_left(rate: int, reserved: int, used: int) -> None:
    reserved = min(reserved, rate)
    used = min(used, reserved)
    one, other = Meter(Limits(tokens_per_minute=rate)), Meter(Limits(tokens_per_minute=rate))
    assert check(one, reserved, 5) is None and check(other, used, 5) is None
    finish(one, reserved, used, 5)
    finish(other, used, used, 5)
    assert one == other


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_requests_at_a_time_give_back_all_they_did_not_use_whichever_ends_first(order: tuple[int, int]) -> None:
    meter, tokens = Meter(Limits(tokens_per_minute=1000)), (100, 200)
    assert all(check(meter, reserved, 0) is None for reserved in tokens)
    for which in order:
        finish(meter, tokens[which], 10, 0)
    assert meter == Meter(Limits(tokens_per_minute=1000), token_debt=20 * MINUTE, at_ns=0)


def test_requests_held_open_save_no_allowance_up() -> None:
    meter = Meter(Limits(tokens_per_minute=100))
    for minute in range(5):
        assert check(meter, 100, minute * MINUTE) is None
    for _ in range(4):  # what they didn't use has long flowed in again
        finish(meter, 100, 0, 4 * MINUTE)
        assert check(meter, 1, 4 * MINUTE) == 1
    finish(meter, 100, 0, 4 * MINUTE)
    assert check(meter, 100, 4 * MINUTE) is None


@pytest.mark.parametrize("order", [(40, 20), (20, 40)])
def test_what_one_gives_back_is_no_longer_there_for_another_to_give_back(order: tuple[int, int]) -> None:
    meter = Meter(Limits(tokens_per_minute=60))
    assert check(meter, 40, 0) is None and check(meter, 20, 0) is None
    assert check(meter, 50, 50 * SECOND) is None  # 10 of the 60 were still missing
    for reserved in order:
        finish(meter, reserved, 0, 50 * SECOND)
        assert meter.token_debt == 50 * MINUTE


def test_a_minute_of_one_request() -> None:
    meter = Meter(Limits(requests_per_minute=1))
    assert check(meter, 0, 0) is None
    assert check(meter, 0, 0) == 60
    assert check(meter, 0, MINUTE - 1) == 1
    assert check(meter, 0, MINUTE) is None


def test_where_it_waits_for_another_to_end_the_answer_is_a_second() -> None:
    meter = Meter(Limits(concurrent=1))
    assert check(meter, 0, 0) is None
    assert check(meter, 0, 0) == 1
    finish(meter, 0, 0, 0)
    assert check(meter, 0, 0) is None


def test_more_than_a_minutes_allowance_can_never_be_had() -> None:
    meter = Meter(Limits(tokens_per_minute=100))
    assert check(meter, 101, 0) == NEVER
    assert check(meter, 100, 0) is None
    assert check(meter, 100, 0) == 60


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    meter = Meter(Limits(requests_per_minute=1))
    assert check(meter, 0, 2 * MINUTE) is None
    assert check(meter, 0, 0) == 60
    assert check(meter, 0, 3 * MINUTE) is None


def test_no_limits_admit_everything() -> None:
    meter = Meter(Limits())
    assert all(check(meter, 10**15, 0) is None for _ in range(1000))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "3", 10**13])
def test_what_makes_no_limit_is_refused(wrong: object) -> None:
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
        with pytest.raises(ConfigError, match=f"{name}: .*expected a whole number"):
            Limits(**{name: wrong})  # type: ignore[arg-type]
