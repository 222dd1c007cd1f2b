"""Every kind of cheating is refused by name: an operator cannot quietly break the algorithm."""

from array import array
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from darwin_align import Population, Request
from darwin_align.core import Ancestor, Beam, Event, Question, Usage
from darwin_align.core.errors import OperatorError, ReplayError, RewardError
from darwin_align.core.laws import check_rewards

DONE, OPEN, FRESH, DROPPED, FIRST = range(5)
"""A finished scored beam, an open scored one, an open unscored one, a dropped one, the first response."""
COMMON = {"instruction": "Hi", "tokens": (1, 2), "text": "ab", "length": 2}
POPULATION = Population(
    request=Request.of("Hi"),
    parent="Hi",
    beams=(
        Beam(**COMMON, reward=1.0, finish_reason="stop"),
        Beam(**COMMON, reward=2.0),
        Beam(**COMMON),
        Beam(**COMMON, reward=0.5, alive=False),
        Beam(**COMMON, first_response=True),
    ),
    max_new_tokens=5,
    usage=Usage(decoded_tokens=10),
)
Cheat = Callable[[Population], Any]


def ask(operator: str, **step: Any) -> Question:
    population = POPULATION.model_copy(
        update={"step": POPULATION.step.model_copy(update={"operator": operator, **step})}
    )
    return Question(operator, population)


def on(index: int, **changes: Any) -> Cheat:
    """Change one beam."""
    return lambda population: population.with_beams({index: population.beams[index].model_copy(update=changes)})


def whole(**changes: Any) -> Cheat:
    """Change the population."""
    return lambda population: population.model_copy(update=changes)


GREW = {"tokens": (1, 2, 3), "text": "abc", "length": 3, "reward": None}
DECODED = {OPEN: GREW, FRESH: GREW, FIRST: GREW}


def decoded(index: int | None = None, **changes: Any) -> Cheat:
    """An honest answer of a decoder but for one beam."""

    def answer(population: Population) -> Population:
        beams = {i: population.beams[i].model_copy(update=update) for i, update in DECODED.items()}
        if index is not None:
            beams[index] = beams.get(index, population.beams[index]).model_copy(update=changes)
        return population.with_beams(beams)

    return answer


TAKEN = {"tokens": (1, 2), "text": "ab", "length": 2, "reward": 1.0, "finish_reason": "stop"}
ANYONE = [
    (whole(request=Request.of("Other")), r"{} changed the population's request; operators answer with changed beams"),
    (whole(parent="Other"), r"{} changed the population's parent"),
    (whole(beams_per_mutation=2), r"{} changed the population's beams_per_mutation"),
    (whole(max_new_tokens=99), r"{} changed the population's max_new_tokens"),
    (whole(usage=Usage(decoded_tokens=9)), r"{} lowered the usage; operators may only add to it"),
    (lambda p: p.model_copy(update={"beams": p.beams[:-1]}), r"{} was given 5 beams and returned 4.*set alive=False"),
    (lambda p: p.model_copy(update={"beams": (*p.beams, p.beams[0])}), r"{} was given 5 beams and returned 6"),
    (on(DONE, text="better"), r"{} changed text of beam 0, which"),
    (on(DONE, tokens=(1,)), r"{} changed tokens of beam 0, which"),
    (on(DONE, finish_reason=None), r"{} changed finish_reason of beam 0, which"),
    (on(DONE, alive=False), r"{} changed alive of beam 0, which"),
    (on(DROPPED, text="x"), r"{} changed text of beam 3, which"),
    (on(FIRST, first_response=False), r"{} changed first_response of beam 4, which it must leave alone"),
    (lambda p: None, r"{} answered with None; operators answer with a population"),
    (lambda p: "text", r"{} answered with 'text'; operators answer with a population"),
]


@pytest.mark.parametrize("operator", ["mutate", "decode", "score", "select"])
@pytest.mark.parametrize(("cheat", "message"), ANYONE)
def test_what_no_operator_may_do(operator: str, cheat: Cheat, message: str) -> None:
    question = ask(operator)
    with pytest.raises(OperatorError, match=message.format(operator)):
        question.answered(cheat(decoded()(question.population) if operator == "decode" else question.population))


@pytest.mark.parametrize(
    ("operator", "cheat", "message"),
    [
        ("mutate", on(OPEN, text="x"), r"mutate changed text of beam 1, which it must leave alone"),
        ("mutate", on(OPEN, wins=3), r"mutate changed wins of beam 1"),
        ("mutate", on(OPEN, instruction=" "), r"the mutator gave beam 1 a blank instruction"),
        ("mutate", on(FIRST, instruction="Ho"), r"mutate changed the first response \(beam 4\), which takes no part"),
        ("decode", decoded(OPEN, tokens=(9, 2, 3)), r"decode rewrote tokens of beam 1: it may only append to a state"),
        ("decode", decoded(OPEN, tokens=(1,), length=1), r"decode rewrote tokens of beam 1"),
        ("decode", decoded(OPEN, length=5, tokens=(1, 2, 3, 4, 5)), r"from 2 to 5 tokens; at most 2 were requested"),
        ("decode", decoded(OPEN, length=1), r"decode took beam 1 from 2 to 1 tokens"),
        ("decode", decoded(OPEN, length=2), r"decode gave beam 1 no token and did not finish it: the search would nev"),
        ("decode", decoded(OPEN, reward=2.0), r"decode kept the reward of beam 1's former state: set reward=None"),
        (
            "decode",
            decoded(OPEN, tokens=(1, 2), length=2, reward=2.0, finish_reason="stop"),
            r"decode kept the reward of beam 1's former state",
        ),
        ("decode", lambda p: p, r"decode gave beam 1 no token and did not finish it"),
        ("decode", decoded(FIRST, wins=1), r"decode changed wins of beam 4, which it must leave alone"),
        ("decode", decoded(OPEN, instruction="Ho"), r"decode changed instruction of beam 1"),
        ("score", on(FRESH, text="x", reward=1.0), r"score changed text of beam 2, which it must leave alone"),
        ("score", on(FRESH, reward=None), r"score left beams 2 without a reward"),
        ("score", on(FRESH, reward=float("nan")), r"reward for response 0 is nan: rewards must be finite numbers"),
        ("score", on(FRESH, reward="1"), r"reward for response 0 is '1'"),
        ("score", on(DONE, reward=9.0), r"score changed beam 0, which needs no reward"),
        ("score", on(OPEN, reward=9.0), r"score changed beam 1, which needs no reward"),
        ("score", on(FIRST, reward=9.0), r"score changed beam 4, which needs no reward"),
        ("select", on(OPEN, text="best", reward=9.0), r"select gave beam 1 a state that no contender has"),
        ("select", on(OPEN, reward=9.0), r"select gave beam 1 a state that no contender has: use Beam.take_state"),
        ("select", on(OPEN, **TAKEN), r"select gave beam 1 a state that no contender has"),  # without its ancestor
        ("select", on(OPEN, **TAKEN, ancestor=Ancestor(beam=77, step=0)), r"a state that no contender has"),
        ("select", on(OPEN, **TAKEN, ancestor=Ancestor(beam=-5, step=0)), r"a state that no contender has"),
        ("select", on(OPEN, **TAKEN, ancestor=Ancestor(beam=FRESH, step=0)), r"a state that no contender has"),
        (
            "select",
            on(OPEN, **COMMON | {"reward": None}, ancestor=Ancestor(beam=FIRST, step=0)),
            r"a state that no contender has",
        ),
        ("select", on(OPEN, reward=0.5, ancestor=Ancestor(beam=DROPPED, step=0)), r"a state that no contender has"),
        ("select", on(DROPPED, alive=True), r"select changed alive of beam 3, which was dropped"),
        ("select", on(OPEN, log_weight=float("inf")), r"select gave beam 1 the weight inf: weights must be finite"),
        ("select", on(FIRST, wins=1), r"select changed the first response \(beam 4\), which takes no part in it"),
        ("select", on(DONE, ancestor=Ancestor(beam=OPEN, step=0)), r"select changed ancestor of beam 0, which is fin"),
        ("select", on(OPEN, instruction="Ho"), r"select changed instruction of beam 1, which it must leave alone"),
    ],
)
def test_what_one_operator_may_not_do(operator: str, cheat: Cheat, message: str) -> None:
    question = ask(operator, tokens=2)
    with pytest.raises(OperatorError, match=message):
        question.answered(cheat(question.population))


def test_a_candidates_end_is_the_selectors_to_settle() -> None:
    question = ask("decode", candidates=True)
    ended = {**GREW, "finish_reason": "stop"}
    with pytest.raises(
        OperatorError, match=r"decode finished beam 1, a candidate that is not selected yet: set pending_finish_reason"
    ):
        question.answered(decoded(OPEN, **ended)(question.population))
    answer = decoded(OPEN, **GREW, pending_finish_reason="stop")(question.population)
    assert question.fold(question.answered(answer)) == answer
    first = decoded(FIRST, **ended)(question.population)  # it is no candidate
    assert question.fold(question.answered(first)) == first

    population = on(OPEN, pending_finish_reason="stop")(ask("select").population)
    question = Question("select", population)
    with pytest.raises(OperatorError, match=r"select left it open whether beam 1 ends: use Beam.settled"):
        question.answered(on(OPEN, wins=1)(population))
    for end in (None, "length"):  # the state ends otherwise
        with pytest.raises(OperatorError, match=r"select changed finish_reason of beam 1, which is finished"):
            question.answered(on(OPEN, pending_finish_reason=None, finish_reason=end)(population))
    settled = on(OPEN, pending_finish_reason=None, finish_reason="stop", wins=1)(population)
    assert question.fold(question.answered(settled)) == settled
    taken = on(OPEN, **TAKEN, pending_finish_reason=None, ancestor=Ancestor(beam=DONE, step=0))(population)
    assert question.fold(question.answered(taken)) == taken


@pytest.mark.parametrize(
    ("operator", "answer"),
    [
        ("mutate", on(OPEN, instruction="Hello")),
        ("decode", decoded()),
        (
            "decode",
            decoded(OPEN, tokens=(1, 2), text="ab", length=2, finish_reason="length"),
        ),  # it ends without a token
        ("score", on(FRESH, reward=3.0)),
        ("score", on(FRESH, reward=3.0, valid=False)),
        ("select", on(OPEN, **TAKEN, ancestor=Ancestor(beam=DONE, step=0))),
        ("select", on(OPEN, alive=False)),
        ("select", on(OPEN, log_weight=-2.5, wins=1)),
        ("score", lambda p: on(FRESH, reward=3.0)(p.spend(Usage(reward_calls=3)).note("seen"))),
    ],
)
def test_honest_answers_pass_and_are_folded_as_they_were(operator: str, answer: Cheat) -> None:
    question = ask(operator)
    given = answer(question.population)
    event = question.answered(given, seconds=0.5)
    assert question.fold(event) == given
    assert question.fold(Event.from_json(event.to_json())) == given


@pytest.mark.parametrize(
    ("field", "value"),
    [("finish_reason", "eos"), ("logprob", float("nan")), ("logprob", "low"), ("tokens", (1, 2, "x"))],
)
def test_a_value_of_a_wrong_kind_is_an_operators_error(field: str, value: Any) -> None:
    question = ask("decode")
    with pytest.raises(OperatorError, match=rf"a beam's {field} cannot be"):
        question.fold(question.answered(decoded(OPEN, **{field: value})(question.population)))
    with pytest.raises(OperatorError, match=r"decode gave beam 1 the state \(1, 2, 3\), 7: give ids and a text"):
        question.answered(decoded(OPEN, text=7)(question.population))


def test_events_answer_their_own_question_only() -> None:
    event = ask("score").answered(on(FRESH, reward=3.0)(ask("score").population))
    for other in (ask("decode"), ask("score", cycle=1), ask("score", index=1)):
        with pytest.raises(ReplayError, match=r"but the recorded event answers \('score', 0, 0\): replay events with"):
            other.fold(event)
    with pytest.raises(ReplayError, match=r"belongs to a search with another request, seed or setting"):
        Question("score", ask("score").population, search=5).fold(event)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([1.0], r"the scorer was given 2 responses and returned 1 rewards: one for each"),
        ([1.0, 2.0, 3.0], r"the scorer was given 2 responses and returned 3 rewards"),
        ([], r"returned 0 rewards"),
        (None, r"the scorer returned None, not a list of 2 rewards"),
        (0.5, r"the scorer returned 0.5, not a list of 2 rewards"),
        (torch.tensor(0.5), r"the scorer returned tensor\(0.5000\), not a list of 2 rewards"),
        ([1.0, float("nan")], r"the scorer's reward for response 1 is nan: rewards must be finite numbers"),
        ([float("inf"), 1.0], r"response 0 is inf"),
        ([1.0, float("-inf")], r"response 1 is -inf"),
        ([1.0, None], r"response 1 is None"),
        (["1.0", 1.0], r"response 0 is '1.0'"),
        ("12", r"the scorer returned '12', not a list of 2 rewards"),
        (b"12", r"the scorer returned b'12', not a list of 2 rewards"),
        ({0: 5.0, 1: 7.0}, r"the scorer returned \{0: 5.0, 1: 7.0\}, not a list .*in the order of the responses"),
        ({1.0, 2.0}, r"the scorer returned \{1.0, 2.0\}, not a list"),
        (frozenset({1.0, 2.0}), r"not a list"),
        ({1: 5.0, 2: 7.0}.keys(), r"not a list"),
        (Counter([1, 2]), r"not a list"),
        ([1.0, 2j], r"response 1 is 2j"),
        ([1.0, 10**400], r"response 1 is 1000"),
        ([[1.0], [2.0]], r"response 0 is \[1.0\]"),
        (torch.tensor([[1.0], [2.0]]), r"response 0 is \[1.0\]"),
        (torch.tensor([1.0, float("nan")]), r"response 1 is nan"),
    ],
)
def test_rewards_that_are_refused(rewards: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        check_rewards(rewards, 2)


@pytest.mark.parametrize(
    "rewards",
    [
        [1, 2.5],
        (1.0, 2.5),
        (reward for reward in (1.0, 2.5)),
        np.array([1.0, 2.5]),
        np.array([1.0, 2.5], dtype=np.float32),
        [np.float32(1), np.float64(2.5)],
        [np.int64(1), 2.5],
        {"a": 1.0, "b": 2.5}.values(),
        deque([1.0, 2.5]),
        array("d", [1.0, 2.5]),
        map(float, (1, 2.5)),
        torch.tensor([1.0, 2.5]),
        torch.tensor([1.0, 2.5], dtype=torch.bfloat16, requires_grad=True),
        [torch.tensor(1.0), torch.tensor(2.5)],
    ],
)
def test_rewards_in_an_order_are_taken(rewards: Any) -> None:
    checked = check_rewards(rewards, 2)
    assert checked == [1.0, 2.5]
    assert {type(reward) for reward in checked} == {float}


def test_passed_and_failed_are_rewards() -> None:
    assert check_rewards([True, np.bool_(False)], 2) == [1.0, 0.0]
