"""The circuit breaker: exactly when it opens, who may try, and for how long it leaves a server alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from darwin_align.backends.endpoint.breaker import LONGEST_PAUSE, Breaker


def opened(failures: int = 3, pause: float = 4.0, now: float = 0.0) -> Breaker:
    breaker = Breaker(failures, pause)
    for _ in range(failures):
        breaker.failed(breaker.begin(), now)
    return breaker


@given(failures=st.integers(1, 20), answered=st.integers(0, 20))
def test_opens_on_exactly_so_many_failures_in_a_row(failures: int, answered: int) -> None:
    breaker = Breaker(failures, 1.0)
    for _ in range(min(answered, failures - 1)):
        assert not breaker.failed(breaker.begin(), 0.0)
    breaker.begin()
    breaker.succeeded()
    opened = [breaker.failed(breaker.begin(), 0.0) for _ in range(failures)]
    assert opened == [False] * (failures - 1) + [True]
    assert breaker.ready_in(0.0) == 1.0


def test_is_ready_when_the_pause_is_over_and_not_before() -> None:
    breaker = opened(pause=4.0, now=10.0)
    assert [breaker.ready_in(now) for now in (10.0, 13.5, 14.0, 99.0)] == [4.0, 0.5, 0.0, 0.0]


def test_one_call_tries_and_the_others_wait() -> None:
    breaker = opened(pause=4.0)
    trial = breaker.begin()
    assert breaker.ready_in(100.0) > 0
    breaker.failed(trial, 100.0)
    assert breaker.ready_in(100.0) == 8.0
    breaker.begin()
    breaker.succeeded()
    assert breaker.ready_in(100.0) == 0.0


def test_pauses_double_up_to_a_minute_for_as_long_as_it_takes() -> None:
    breaker, now, pauses = opened(pause=5.0), 0.0, []
    for _ in range(3000):  # two days: a number that doubles for so long is no float any more
        pauses.append(breaker.ready_in(now))
        now += pauses[-1]
        assert not breaker.failed(breaker.begin(), now), "it was open before: nothing new to tell"
    assert pauses[:6] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert set(pauses[4:]) == {LONGEST_PAUSE}


def test_a_longer_pause_than_a_minute_is_the_users_own() -> None:
    breaker = opened(pause=90.0)
    assert breaker.ready_in(0.0) == 90.0
    breaker.failed(breaker.begin(), 90.0)
    assert breaker.ready_in(90.0) == 90.0


def test_success_forgets_all_failures_and_pauses() -> None:
    breaker = opened(failures=2, pause=5.0)
    breaker.failed(breaker.begin(), 5.0)
    breaker.begin()
    breaker.succeeded()
    assert breaker.in_a_row == 0
    assert not breaker.failed(breaker.begin(), 6.0)
    assert breaker.failed(breaker.begin(), 6.0)
    assert breaker.ready_in(6.0) == 5.0


def test_an_abandoned_trial_is_no_evidence() -> None:
    breaker = opened(pause=4.0)
    trial = breaker.begin()
    breaker.abandoned(trial)
    assert breaker.ready_in(4.0) == 0.0, "the next one may try at once"
    breaker.failed(breaker.begin(), 4.0)
    assert breaker.ready_in(4.0) == 8.0, "only a failure doubles the pause"


def test_stragglers_change_nothing_while_it_is_open() -> None:
    breaker = Breaker(2, 4.0)
    early = [breaker.begin() for _ in range(5)]
    assert [breaker.failed(call, 1.0) for call in early[:3]] == [False, True, False]
    assert breaker.ready_in(1.0) == 4.0


def test_a_straggler_is_not_taken_for_the_trial() -> None:
    breaker = Breaker(2, 4.0)
    early = [breaker.begin() for _ in range(4)]
    for call in early[:2]:
        breaker.failed(call, 0.0)
    trial = breaker.begin()
    assert not breaker.failed(early[2], 5.0)
    breaker.abandoned(early[3])
    assert breaker.ready_in(5.0) == 0.4, "the trial is still under way: nobody else may try, nor is the pause longer"
    breaker.failed(trial, 6.0)
    assert breaker.ready_in(6.0) == 8.0


def test_a_straggler_that_succeeds_closes_it() -> None:
    breaker = Breaker(2, 4.0)
    calls = [breaker.begin() for _ in range(3)]
    for call in calls[:2]:
        breaker.failed(call, 0.0)
    breaker.succeeded()
    assert breaker.ready_in(0.0) == 0.0


def test_a_trial_of_an_earlier_opening_is_a_straggler_of_the_next() -> None:
    breaker = opened(failures=2, pause=4.0)
    slow = breaker.begin()
    breaker.succeeded()  # a straggler
    for _ in range(2):
        breaker.failed(breaker.begin(), 10.0)
    breaker.failed(slow, 11.0)
    assert breaker.ready_in(11.0) == 3.0


class Traffic(RuleBasedStateMachine):
    """Calls begin when they may and end in any order; the rules of the class's docstring must hold throughout."""

    @initialize(failures=st.integers(1, 4), pause=st.floats(0.5, 50.0))
    def start(self, failures: int, pause: float) -> None:
        self.breaker, self.failures, self.pause = Breaker(failures, pause), failures, pause
        self.now, self.on_their_way, self.trial = 0.0, set[int](), 0
        self.in_a_row, self.pauses = 0, list[float]()

    @rule(seconds=st.floats(0.0, 100.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.ready_in(self.now) == 0)
    @rule()
    def begin(self) -> None:
        assert not self.trial, "one call tries at a time"
        call = self.breaker.begin()
        assert call not in self.on_their_way
        self.on_their_way.add(call)
        self.trial = call if self.pauses else 0

    @precondition(lambda self: self.on_their_way)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.on_their_way.remove(data.draw(st.sampled_from(sorted(self.on_their_way))))
        self.breaker.succeeded()
        self.in_a_row, self.trial, self.pauses = 0, 0, []

    @precondition(lambda self: self.on_their_way)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.on_their_way)))
        self.on_their_way.remove(call)
        self.breaker.abandoned(call)
        self.trial = 0 if call == self.trial else self.trial

    @precondition(lambda self: self.on_their_way)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.on_their_way)))
        self.on_their_way.remove(call)
        self.in_a_row += 1
        opens = not self.pauses and self.in_a_row >= self.failures
        assert self.breaker.failed(call, self.now) == opens
        if opens or call == self.trial:
            self.trial = 0
            self.pauses.append(self.breaker.ready_in(self.now))

    @invariant()
    def pauses_double(self) -> None:
        if not hasattr(self, "pauses"):
            return
        if not self.pauses:
            assert self.breaker.ready_in(self.now) == 0
            return
        assert self.pauses[0] == pytest.approx(self.pause)
        for shorter, longer in pairwise(self.pauses):
            assert longer == pytest.approx(min(2 * shorter, LONGEST_PAUSE))


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(stateful_step_count=40)
