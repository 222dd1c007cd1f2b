"""Selectors over populations."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from darwin_align import Population
from darwin_align.core import Ancestor, Beam
from darwin_align.core.errors import ConfigError, OperatorError, RewardError
from darwin_align.core.selection import Selection
from darwin_align.operators import (
    ARGSSelector,
    FunctionSelector,
    NoSelection,
    SMCSelector,
    SpeculativeRejection,
    TopKReplacement,
    Tournament,
)
from tests.core.kit import REQUEST


def population(*rewards: float | None) -> Population:
    """Beams with these rewards and texts a, b, c …"""
    beams = [
        Beam(instruction=f"I{i}", text=chr(97 + i), tokens=(i,), length=1, reward=reward)
        for i, reward in enumerate(rewards)
    ]
    return Population(request=REQUEST, parent="P", beams=tuple(beams))


def states(population: Population) -> str:
    return "".join(beam.text for beam in population.beams)


def deciding(ancestors: Any, weights: Any = (0.0, 0.0, 0.0)) -> FunctionSelector:
    return FunctionSelector(function=lambda *_: (ancestors, weights))


@pytest.mark.parametrize(
    ("selector", "after"),
    [
        (TopKReplacement(survivors=1), "bbb"),
        (Tournament(size=20), "bbb"),
        (SMCSelector(temperature=0.01), "bbb"),
        (SMCSelector(threshold=0.0), "abc"),
        (NoSelection(), "abc"),
    ],
)
def test_built_ins(selector: Any, after: str) -> None:
    answer = selector.invoke(population(1.0, 3.0, 2.0))
    assert states(answer) == after
    assert [beam.instruction for beam in answer.beams] == ["I0", "I1", "I2"]
    assert (answer.step.index, answer.step.operator) == (1, "decode")
    if after == "bbb":
        assert [beam.ancestor for beam in answer.beams] == [Ancestor(beam=1, step=0), None, Ancestor(beam=1, step=0)]


def test_dropped_beams_and_the_first_response_take_no_part() -> None:
    start = population(9.0, 1.0, None, 2.0)
    start = start.with_beams(
        {
            0: start.beams[0].model_copy(update={"alive": False}),
            2: start.beams[2].model_copy(update={"first_response": True}),
        }
    )
    answer = TopKReplacement(survivors=1).invoke(start)
    assert states(answer) == "adcd"
    assert answer.beams[1].ancestor == Ancestor(beam=3, step=0)  # an index of the population, not of the contenders
    assert (answer.beams[0], answer.beams[2]) == (start.beams[0], start.beams[2])


def test_an_invalid_beam_loses_to_every_valid_one() -> None:
    start = population(9.0, 1.0, 2.0)
    start = start.with_beams({0: start.beams[0].model_copy(update={"valid": False})})
    assert states(TopKReplacement(survivors=2).invoke(start))[1:] == "bc"
    assert states(TopKReplacement(survivors=2).invoke(start))[0] in "bc"
    seen: list[Sequence[float]] = []
    FunctionSelector(function=lambda rewards, *_: (seen.append(rewards), ((0, 1, 2), (0, 0, 0)))[1]).invoke(start)
    assert seen == [[0.0, 1.0, 2.0]]


def test_none_drops_a_beam_and_weights_are_carried() -> None:
    answer = deciding((0, None, 0), (0.5, 0.0, -1.0)).invoke(population(1.0, 2.0, 3.0))
    assert [beam.alive for beam in answer.beams] == [True, False, True]
    assert [beam.log_weight for beam in answer.beams] == [0.5, 0.0, -1.0]
    assert [beam.wins for beam in answer.beams] == [1, 0, 0]  # who stayed or gave its state


def test_a_selector_may_name_the_winners() -> None:
    selector = FunctionSelector(function=lambda *_: Selection((0, 1), (0.0, 0.0), frozenset({1})))
    assert [beam.wins for beam in selector.invoke(population(1.0, 2.0)).beams] == [0, 1]


def ones() -> Iterator[int]:
    yield from (1, 1, 1)


@pytest.mark.parametrize("ancestors", [[1, 1, 1], np.array([1, 1, 1]), ones(), (True, 1, 1)])
def test_every_usual_kind_of_answer(ancestors: Any) -> None:
    answer = deciding(ancestors, np.zeros(3)).invoke(population(1.0, 2.0, 3.0))
    assert states(answer) == "bbb"
    assert [beam.wins for beam in answer.beams] == [0, 1, 0]


@pytest.mark.parametrize(
    ("ancestors", "weights", "message"),
    [
        ((0, 1), (0.0, 0.0, 0.0), r"was given 3 contenders and returned 2 ancestors and 3 weights"),
        ((0, 1, 2, 2), (0.0, 0.0, 0.0), r"returned 4 ancestors and 3 weights"),
        ((0, 1, 2), (0.0,), r"returned 3 ancestors and 1 weights"),
        ((0, 1, 3), (0.0, 0.0, 0.0), r"gave contender 2 the ancestor 3; contenders are 0 to 2"),
        ((0, 1, -1), (0.0, 0.0, 0.0), r"gave contender 2 the ancestor -1"),
        ((0, 1, 1.5), (0.0, 0.0, 0.0), r"select must return \(ancestors, weights\), not"),
        (("a", 1, 2), (0.0, 0.0, 0.0), r"select must return \(ancestors, weights\)"),
        (None, (0.0, 0.0, 0.0), r"select must return \(ancestors, weights\)"),
        ({0, 1, 2}, (0.0, 0.0, 0.0), r"select must return .*: two lists in the order of the contenders"),
        ({0: 1, 1: 1, 2: 1}, (0.0, 0.0, 0.0), r"select must return .*: two lists in the order"),
        ((0, 1, 2), {0.0: 1, 1.0: 1, 2.0: 1}, r"select must return .*: two lists in the order"),
        ((0, 1, 2), ("1", "2", "3"), r"select must return .*: two lists in the order"),
        ((0, 1, 2), ("heavy", 0.0, 0.0), r"select must return \(ancestors, weights\)"),
    ],
)
def test_answers_that_are_refused(ancestors: Any, weights: Any, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        deciding(ancestors, weights).invoke(population(1.0, 2.0, 3.0))


@pytest.mark.parametrize("reply", [None, 5, (0, 1, 2), "ab"])
def test_answers_of_another_kind_are_refused(reply: Any) -> None:
    with pytest.raises(OperatorError, match=r"select must return \(ancestors, weights\), not"):
        FunctionSelector(function=lambda *_: reply).invoke(population(1.0, 2.0, 3.0))


@pytest.mark.parametrize("ancestor", [None, 1])
def test_a_finished_contender_must_stay(ancestor: int | None) -> None:
    start = population(1.0, 2.0, 3.0)
    start = start.with_beams({0: start.beams[0].model_copy(update={"finish_reason": "stop"})})
    with pytest.raises(OperatorError, match=rf"gave contender 0 the ancestor {ancestor}, but it is finished"):
        deciding((ancestor, 1, 2)).invoke(start)
    taken = deciding((0, 0, 2)).invoke(start)
    assert taken.beams[1].finish_reason == "stop"  # who takes a finished state is finished


def test_the_worst_are_dropped_and_finished_ones_marked() -> None:
    start = population(1.0, 4.0, 2.0, 3.0)
    start = start.with_beams({2: start.beams[2].model_copy(update={"finish_reason": "stop"})})
    answer = SpeculativeRejection().invoke(start)
    assert [beam.alive for beam in answer.beams] == [False, True, True, True]
    assert [beam.wins for beam in answer.beams] == [0, 1, 0, 1]
    assert [beam.log_weight == 0.0 for beam in answer.beams] == [False, True, False, True]
    later = SpeculativeRejection().invoke(answer)  # the better of two, however good the marked one is
    assert later.contenders == (1, 2)


def with_logprobs(start: Population, *logprobs: float | None) -> Population:
    beams = {i: start.beams[i].model_copy(update={"logprob": logprob}) for i, logprob in enumerate(logprobs)}
    return start.with_beams(beams)


@pytest.mark.parametrize(("weight", "after"), [(0.1, "aaa"), (1.0, "bbb"), (5.0, "ccc")])
def test_args_weighs_reward_against_log_probability(weight: float, after: str) -> None:
    start = with_logprobs(population(1.0, 2.5, 3.0), -0.5, -1.0, -3.0)
    answer = ARGSSelector(weight=weight).invoke(start)
    assert states(answer) == after
    assert {beam.logprob for beam in answer.beams} == {start.beams["abc".index(after[0])].logprob}


def test_args_takes_no_invalid_candidate_and_needs_log_probabilities() -> None:
    start = with_logprobs(population(1.0, 2.0, 9.0), -1.0, -1.0, -1.0)
    invalid = start.with_beams({2: start.beams[2].model_copy(update={"valid": False})})
    assert states(ARGSSelector().invoke(invalid)) == "bbb"
    with pytest.raises(OperatorError, match="ARGS needs the log-probability of every state"):
        ARGSSelector().invoke(with_logprobs(start, -1.0, None, -1.0))


@pytest.mark.parametrize("selector", [ARGSSelector(), TopKReplacement(survivors=1), Tournament(size=20)])
def test_an_end_counts_once_it_is_selected(selector: Any) -> None:
    start = with_logprobs(population(1.0, 3.0, 2.0), -1.0, -1.0, -1.0)
    ends = {"pending_finish_reason": "stop"}
    chosen = selector.invoke(start.with_beams({1: start.beams[1].model_copy(update=ends)}))
    assert [(beam.text, beam.finish_reason, beam.pending_finish_reason) for beam in chosen.beams] == [
        ("b", "stop", None)
    ] * 3
    other = selector.invoke(start.with_beams({2: start.beams[2].model_copy(update=ends)}))
    assert [(beam.text, beam.finish_reason, beam.pending_finish_reason) for beam in other.beams] == [
        ("b", None, None)
    ] * 3


def test_an_end_stays_where_no_other_state_is_selected() -> None:
    start = population(1.0, 3.0, 2.0)
    answer = NoSelection().invoke(
        start.with_beams({2: start.beams[2].model_copy(update={"pending_finish_reason": "length"})})
    )
    assert [beam.finish_reason for beam in answer.beams] == [None, None, "length"]


def test_without_rewards_there_is_nothing_to_select_by() -> None:
    with pytest.raises(RewardError, match=r"select needs a reward for every beam; beams \[1\] have none: put a scorer"):
        TopKReplacement().invoke(population(1.0, None))


def test_impossible_settings() -> None:
    with pytest.raises(ConfigError, match=r"TopKReplacement.survivors = 0 is refused"):
        TopKReplacement(survivors=0)
    with pytest.raises(ConfigError, match=r"unknown setting 'k' for TopKReplacement"):
        TopKReplacement(k=3)
    with pytest.raises(ConfigError, match=r"SMCSelector.temperature = 0 is refused"):
        SMCSelector(temperature=0)
    with pytest.raises(ConfigError, match=r"SpeculativeRejection.rejection = 1.0 is refused"):
        SpeculativeRejection(rejection=1.0)
    with pytest.raises(ConfigError, match=r"ARGSSelector.weight = 0 is refused"):
        ARGSSelector(weight=0)
