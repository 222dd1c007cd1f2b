"""How far to follow a reward, found on judged answers."""

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_align.core import SearchConfig, calibrate
from darwin_align.core.calibration import expected_best
from darwin_align.core.errors import ConfigError
from darwin_align.core.seeds import uniform

RIGHT = ([0.0, 1.0, 2.0, 3.0], [0.0, 0.3, 0.6, 0.9])
HACKED = ([0.0, 1.0, 2.0, 3.0], [-3.0, 0.4, 0.9, -0.2])
"""The largest reward is a mistake."""


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=6), st.data())
def test_the_expected_best_is_the_mean_over_all_choices_of_n(
    pairs: list[tuple[int, float]], data: st.DataObject
) -> None:
    rewards, verdicts = [float(reward) for reward, _ in pairs], [verdict for _, verdict in pairs]
    n = data.draw(st.integers(1, len(pairs)))

    def best(chosen: tuple[int, ...]) -> float:
        top = max(rewards[i] for i in chosen)
        return fmean(verdicts[i] for i in chosen if rewards[i] == top)

    # Of equals within one choice each is as likely; over all choices their shares are equal too.
    assert expected_best(rewards, verdicts, n) == pytest.approx(
        fmean(best(chosen) for chosen in combinations(range(len(pairs)), n)), abs=1e-9
    )


def test_a_reward_that_is_right_is_followed_to_the_end() -> None:
    assert calibrate([RIGHT] * 10).settings == {"mutations": 3}
    assert calibrate([RIGHT] * 10, "soft").settings == {"choice": "best"}


def test_a_reward_that_is_hacked_is_followed_less() -> None:
    assert calibrate([HACKED] * 10).settings == {"mutations": 1}
    found = calibrate([HACKED] * 10, "soft")
    assert found.settings["choice"] == "soft"
    config = SearchConfig.preset("best_of_n", mutations=3, **found.settings)  # a search takes them
    assert config.reward_temperature == found.settings["reward_temperature"] > 0
    chosen = next(point for point in found.curve if point.value == config.reward_temperature)
    assert chosen.verdict == max(point.verdict for point in found.curve)
    reversed_verdicts = ([0.0, 1.0, 2.0], [2.0, 1.0, 0.0])
    worst = calibrate([reversed_verdicts] * 4)
    assert worst.settings == {"cycles": 0}  # a plain sample is better than any choice by this reward
    assert SearchConfig.preset("best_of_n", **worst.settings).answers == 1


def test_chance_alone_does_not_move_it() -> None:
    """Where the reward says nothing, small samples favour some n by chance: mostly the best of all is kept."""
    kept = 0
    for trial in range(60):
        judged = [
            ([uniform(trial, "reward", p, i) for i in range(6)], [uniform(trial, "verdict", p, i) for i in range(6)])
            for p in range(12)
        ]
        kept += calibrate(judged).settings == {"mutations": 5}
    assert kept >= 45


def test_the_curve_begins_with_the_best_of_all_and_states_its_errors() -> None:
    found = calibrate([RIGHT, HACKED] * 5)
    assert [point.value for point in found.curve] == [4, 3, 2, 1]
    assert (found.curve[0].gain, found.curve[0].error) == (0.0, 0.0)
    assert found.curve[0].verdict == pytest.approx((0.9 - 0.2) / 2)
    assert all(point.error > 0 for point in found.curve[1:])
    assert found.prompts == 10


@pytest.mark.parametrize(
    ("judged", "says"),
    [
        ([RIGHT], "1 judged prompts tell nothing"),
        ([RIGHT, ([1.0], [1.0, 2.0])], "prompt 2 has 1 rewards and 2 verdicts"),
        ([RIGHT, ([1.0, 2.0], [1.0, 2.0])], "prompt 2 has 2 answers and prompt 1 has 4"),
        ([([1.0], [1.0])] * 2, "fewer than two answers"),
        ([RIGHT, ([1.0, 2.0, 3.0, float("nan")], [0.0] * 4)], "prompt 2 has a reward or verdict that is no finite"),
    ],
)
def test_what_cannot_be_used_is_refused(judged: list[tuple[list[float], list[float]]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        calibrate(judged)


def test_temperatures_need_rewards_that_differ_and_a_choice_that_is_known() -> None:
    with pytest.raises(ConfigError, match="all answers to a prompt have the same reward"):
        calibrate([([1.0, 1.0], [0.0, 1.0])] * 3, "soft")
    with pytest.raises(ConfigError, match="tune='best' is unknown: use 'n' or 'soft'"):
        calibrate([RIGHT] * 3, "best")  # type: ignore[arg-type]
