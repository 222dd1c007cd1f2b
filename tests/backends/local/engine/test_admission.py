"""Who is waited for, and for how long."""

from __future__ import annotations

import pytest

from darwin_align.backends.local.engine.admission import AdmissionDelay


def returned(admission: AdmissionDelay, owner: str, away: float, stayed: float = 8.0, at: float = 0.0) -> None:
    admission.job_finished(owner, now=at, stayed=stayed)
    admission.arrived(owner, now=at + away)


def test_nobody_is_waited_for_before_anybody_came_back():
    admission = AdmissionDelay()
    admission.job_finished("a", now=0.0, stayed=8.0)
    assert admission.delay(now=0.0) == 0.0


def test_the_last_to_leave_is_waited_for_as_long_as_the_longest_absence():
    admission = AdmissionDelay()
    returned(admission, "a", away=0.5)
    returned(admission, "b", away=0.25)
    admission.job_finished("a", now=10.0, stayed=8.0)
    admission.job_finished("b", now=10.25, stayed=8.0)
    assert admission.delay(now=10.25) == pytest.approx(0.8 * 0.5), "an absence fades"
    admission.arrived("b", now=10.3)
    assert 0 < admission.delay(now=10.3) < 0.2
    assert admission.delay(now=11.0) == 0.0


def test_a_slow_reward_is_not_waited_for():
    admission = AdmissionDelay()
    returned(admission, "a", away=1.5, stayed=8.0)
    admission.job_finished("a", now=10.0, stayed=8.0)
    assert admission.delay(now=10.0) == 0.0
    admission.share = 1.0  # where nothing could be done meanwhile
    assert admission.delay(now=10.0) == 1.5


def test_who_is_over_or_unnamed_is_not_waited_for():
    admission = AdmissionDelay()
    returned(admission, "a", away=0.5)
    for owner in ("a", ""):
        admission.job_finished(owner, now=10.0, stayed=8.0)
    admission.forget("a")
    assert admission.delay(now=10.0) == 0.0


def test_who_never_comes_back_is_forgotten():
    admission = AdmissionDelay()
    for i in range(50):
        admission.job_finished(f"search {i}", now=1000.0 * i, stayed=1.0)
    assert len(admission._between_calls) == 1
