"""Who is waited for, and for how long."""

from __future__ import annotations

import pytest

from darwin_align.backends.local.engine.admission import AdmissionDelay


def returned(patience: AdmissionDelay, owner: str, away: float, stayed: float = 8.0, at: float = 0.0) -> None:
    patience.left(owner, now=at, stayed=stayed)
    patience.came(owner, now=at + away)


def test_nobody_is_waited_for_before_anybody_came_back():
    patience = AdmissionDelay()
    patience.left("a", now=0.0, stayed=8.0)
    assert patience.hold(now=0.0) == 0.0


def test_the_last_to_leave_is_waited_for_as_long_as_the_longest_absence():
    patience = AdmissionDelay()
    returned(patience, "a", away=0.5)
    returned(patience, "b", away=0.25)
    patience.left("a", now=10.0, stayed=8.0)
    patience.left("b", now=10.25, stayed=8.0)
    assert patience.hold(now=10.25) == pytest.approx(0.8 * 0.5), "an absence fades"
    patience.came("b", now=10.3)
    assert 0 < patience.hold(now=10.3) < 0.2
    assert patience.hold(now=11.0) == 0.0


def test_a_slow_reward_is_not_waited_for():
    patience = AdmissionDelay()
    returned(patience, "a", away=1.5, stayed=8.0)
    patience.left("a", now=10.0, stayed=8.0)
    assert patience.hold(now=10.0) == 0.0
    patience.share = 1.0  # where nothing could be done meanwhile
    assert patience.hold(now=10.0) == 1.5


def test_who_is_over_or_unnamed_is_not_waited_for():
    patience = AdmissionDelay()
    returned(patience, "a", away=0.5)
    for owner in ("a", ""):
        patience.left(owner, now=10.0, stayed=8.0)
    patience.forget("a")
    assert patience.hold(now=10.0) == 0.0


def test_who_never_comes_back_is_forgotten():
    patience = AdmissionDelay()
    for i in range(50):
        patience.left(f"search {i}", now=1000.0 * i, stayed=1.0)
    assert len(patience._away) == 1
