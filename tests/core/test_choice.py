"""Choices among finished answers: the best, and one that is drawn."""

from collections import Counter

import pytest

from darwin_align.core import Beam, SearchConfig
from darwin_align.core.choice import Answer, chances, in_order
from darwin_align.core.config import Choice
from darwin_align.core.selection import REJECTED

REWARDS = (0.0, 1.0, 2.0, 2.5)


def answers(*rewards: float, **more: object) -> list[Answer]:
    return [
        Answer(Beam(instruction="Hi", text=f"{i}", reward=reward, finish_reason="stop", **more), 0, i)
        for i, reward in enumerate(rewards)
    ]


def config(choice: Choice, temperature: float = 1.0, seed: int = 0) -> SearchConfig:
    drawn = {} if choice == "best" else {"reward_temperature": temperature}
    return SearchConfig(choice=choice, seed=seed, **drawn)


@pytest.mark.parametrize("choice", ["soft"])
def test_a_search_draws_by_the_stated_chances(choice: Choice) -> None:
    drawn = Counter(in_order(answers(*REWARDS), config(choice, 0.8, seed))[0].place for seed in range(4000))
    for place, chance in enumerate(chances(REWARDS, choice, 0.8)):
        assert drawn[place] / 4000 == pytest.approx(chance, abs=0.03)


@pytest.mark.parametrize("choice", ["soft"])
def test_the_temperature_goes_from_the_best_to_a_plain_sample(choice: Choice) -> None:
    assert chances(REWARDS, choice, 1e-3) == pytest.approx([0, 0, 0, 1])
    assert chances(REWARDS, choice, 1e6) == pytest.approx([0.25] * 4, abs=1e-3)


def test_the_best_is_the_first_of_equals_and_the_first_response_before_all() -> None:
    assert chances([2.0, 1.0, 2.0], "best") == [1.0, 0.0, 0.0]
    assert [answer.place for answer in in_order(answers(2.0, 1.0, 2.0), config("best"))] == [0, 2, 1]
    (first,) = answers(2.0, first_response=True)
    assert in_order([*answers(2.0, 3.0)[:1], first], config("best"))[0].beam.first_response


@pytest.mark.parametrize("choice", ["best", "soft"])
def test_invalid_and_unscored_answers_come_last(choice: Choice) -> None:
    (bad,) = answers(9.0, valid=False)
    unscored = Answer(Beam(instruction="Hi", finish_reason="stop"), 0, 7)
    order = in_order([bad, unscored, *answers(0.0)], config(choice))
    assert [answer.beam.reward for answer in order] == [0.0, None, 9.0]


def test_carried_weights_count_and_a_rejected_answer_is_not_drawn() -> None:
    (rejected,) = answers(9.0, log_weight=REJECTED)
    heavy, light = (Answer(Beam(instruction="Hi", reward=1.0, finish_reason="stop", log_weight=w), 0, i)
                    for i, w in ((1, 2.0), (2, 0.0)))  # fmt: skip
    drawn = Counter(in_order([rejected, heavy, light], config("soft", 1.0, seed))[0].place for seed in range(900))
    assert drawn[0] == 0
    assert 4 < drawn[1] / drawn[2] < 12  # e^2 to 1


@pytest.mark.parametrize("choice", ["best", "soft"])
def test_rewards_of_any_size(choice: Choice) -> None:
    assert chances([-1e308, 1e308], choice, 1.0) == [0.0, 1.0]
    assert chances([], choice) == []
    assert chances([3.0], choice) == [1.0]
    assert in_order([], config(choice)) == []
