"""Scorers and their combinations."""

from collections.abc import Sequence
from statistics import pstdev
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from darwin_align import Population, Request, Response
from darwin_align.core import Usage
from darwin_align.core.errors import ConfigError, RewardError
from darwin_align.operators import ChainScorer, Ensemble, FunctionScorer, LengthPenalty, Report, Scorer, WeightedSum
from darwin_align.operators.portal import call
from tests.core.kit import REQUEST

RESPONSES = [Response(text="one"), Response(text="one two three")]


def giving(*rewards: float, **report: Any) -> Scorer:
    """A scorer that always gives these rewards."""
    return FunctionScorer(function=lambda request, responses: Report(list(rewards), **report))


def decoded(*texts: str | None) -> Population:
    """A population whose beams hold these texts; ``None`` is an open first response."""
    start = Population.start(REQUEST, mutations=len(texts))
    return start.with_beams(
        {
            i: beam.model_copy(update={"text": text or "", "tokens": (1,), "first_response": text is None})
            for i, (beam, text) in enumerate(zip(start.beams, texts, strict=True))
        }
    )


def test_a_scorer_sees_the_original_conversation_and_each_state_once() -> None:
    seen: list[tuple[Request, list[str]]] = []

    def score(request: Request, responses: Sequence[Response]) -> list[int]:
        seen.append((request, [response.text for response in responses]))
        return [len(response.text) for response in responses]

    population = decoded("aa", "b", "aa", None)
    reworded = population.with_beams({0: population.beams[0].model_copy(update={"instruction": "Other"})})
    answer = FunctionScorer(function=score).invoke(reworded)
    assert [beam.reward for beam in answer.beams] == [2.0, 1.0, 2.0, None]
    assert seen == [(REQUEST, ["aa", "b"])]
    assert answer.usage == Usage(reward_calls=2)


def test_without_responses_the_scorer_is_not_called() -> None:
    def score(request: Request, responses: Sequence[Response]) -> list[float]:
        raise AssertionError("called")

    scorer = FunctionScorer(function=score)
    assert scorer.invoke(decoded(None)) == decoded(None)
    scored = FunctionScorer(function=lambda q, r: [1.0]).invoke(decoded("a"))
    assert scorer.invoke(scored) == scored


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_rewards_of_every_usual_kind(kind: Any) -> None:
    answer = FunctionScorer(function=lambda request, responses: kind([1.5, 2.5])).invoke(decoded("a", "b"))
    assert [beam.reward for beam in answer.beams] == [1.5, 2.5]


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), None, "good"])
def test_a_reward_that_is_no_finite_number_is_named(reward: Any) -> None:
    with pytest.raises(RewardError, match=r"the scorer's reward for response 1 is (nan|inf|None|'good')"):
        FunctionScorer(function=lambda request, responses: [1.0, reward]).invoke(decoded("a", "b"))


def test_a_wrong_number_of_rewards_is_named() -> None:
    with pytest.raises(RewardError, match=r"was given 2 responses and returned 1 rewards"):
        FunctionScorer(function=lambda request, responses: [1.0]).invoke(decoded("a", "b"))


COLUMNS = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=4)


@given(COLUMNS, st.data())
def test_weighted_sum(columns: list[tuple[float, float]], data: st.DataObject) -> None:
    weights = tuple(data.draw(st.lists(st.floats(-3, 3), min_size=len(columns), max_size=len(columns))))
    answer = WeightedSum(scorers=tuple(giving(*c) for c in columns), weights=weights).score(REQUEST, RESPONSES).answer
    assert answer == pytest.approx([sum(w * c[i] for w, c in zip(weights, columns, strict=True)) for i in (0, 1)])


@given(COLUMNS, st.floats(0, 3))
def test_ensemble_is_mean_less_caution_times_deviation(columns: list[tuple[float, float]], caution: float) -> None:
    answer = Ensemble(scorers=tuple(giving(*c) for c in columns), caution=caution).score(REQUEST, RESPONSES).answer
    for i in (0, 1):
        rewards = [column[i] for column in columns]
        assert answer[i] == pytest.approx(sum(rewards) / len(rewards) - caution * pstdev(rewards))


def test_length_penalty_counts_words_beyond_the_free_ones() -> None:
    scorer = LengthPenalty(scorer=giving(5.0, 5.0), per_word=0.5, free_words=2)
    assert scorer.score(REQUEST, RESPONSES).answer == [5.0, 4.5]  # brevity earns nothing


def test_combinations_add_up_usage_and_notes() -> None:
    parts = (giving(1.0, 2.0, usage=Usage(reward_tokens=3), notes=("a",)), giving(0.0, 1.0, usage=Usage(seconds=2.0)))
    for scorer in (WeightedSum(scorers=parts, weights=(1, 1)), Ensemble(scorers=parts)):
        report = LengthPenalty(scorer=scorer).score(REQUEST, RESPONSES)
        assert report.usage == Usage(reward_tokens=3, seconds=2.0)
        assert report.notes == ("a",)


@pytest.mark.parametrize("bad", [(1.0,), (1.0, float("nan"))])
def test_a_part_that_errs_is_named_at_once(bad: tuple[float, ...]) -> None:
    for scorer in (
        WeightedSum(scorers=(giving(1, 2), giving(*bad)), weights=(1, 0)),
        Ensemble(scorers=(giving(*bad),)),
        LengthPenalty(scorer=giving(*bad)),
    ):
        with pytest.raises(RewardError):
            scorer.invoke(decoded("a", "b"))


def test_impossible_combinations() -> None:
    with pytest.raises(ConfigError, match=r"2 scorers but 1 weights: give one weight for each"):
        WeightedSum(scorers=(giving(1), giving(1)), weights=(1,))
    with pytest.raises(ConfigError, match=r"Ensemble.scorers = \(\) is refused"):
        Ensemble(scorers=())
    with pytest.raises(ConfigError, match=r"Ensemble.caution = -1 is refused"):
        Ensemble(scorers=(giving(1),), caution=-1)
    with pytest.raises(ConfigError, match=r"unknown setting 'per_words' for LengthPenalty: did you mean 'per_word'"):
        LengthPenalty(scorer=giving(1), per_words=1)


JUDGE = ChatPromptTemplate.from_template("Rate this answer to {instruction}: {response}")


@pytest.mark.parametrize("drive", ["invoke", "ainvoke"])
async def test_a_langchain_chain_scores(drive: str) -> None:
    for parser in (StrOutputParser() | float, StrOutputParser(), None):
        judge = JUDGE | FakeListChatModel(responses=["7.5"])
        scorer = ChainScorer(chain=judge | parser if parser else judge)
        answer = await scorer.ainvoke(decoded("a")) if drive == "ainvoke" else scorer.invoke(decoded("a"))
        assert answer.beams[0].reward == 7.5


@pytest.mark.parametrize("drive", ["invoke", "ainvoke"])
async def test_a_chain_may_be_async_only_and_is_given_what_it_needs(drive: str) -> None:
    seen: list[dict[str, Any]] = []

    async def judge(given: dict[str, Any]) -> float:
        seen.append(given)
        return float(len(given["response"]))

    scorer = ChainScorer(chain=RunnableLambda(judge))
    answer = await scorer.ainvoke(decoded("a", "bb")) if drive == "ainvoke" else scorer.invoke(decoded("a", "bb"))
    assert [beam.reward for beam in answer.beams] == [1.0, 2.0]
    assert seen[0]["instruction"] == REQUEST.instruction
    assert [message.text for message in seen[0]["messages"]] == [REQUEST.instruction]
    assert seen[0]["finished"] is False


@pytest.mark.parametrize("output", ["very good", "", None, [1.0]])
def test_a_chain_that_answers_no_number_is_refused(output: Any) -> None:
    with pytest.raises(RewardError, match=r"the scoring chain answered .*, which is no number: end it with a parser"):
        call(ChainScorer(chain=RunnableLambda(lambda _: output)).score, REQUEST, RESPONSES)


@pytest.mark.parametrize("given", [{"a": 1.0, "b": 2.0}, {1.0, 2.0}])
async def test_rewards_without_an_order_are_refused_in_a_search(given: Any) -> None:
    bare = FunctionScorer(function=lambda request, responses: given)
    for scorer in (bare, LengthPenalty(scorer=bare)):
        with pytest.raises(RewardError, match=r"not a list of 2 rewards: give a list of numbers in the order"):
            scorer.invoke(decoded("a", "b"))
        with pytest.raises(RewardError, match=r"in the order of the responses"):
            await scorer.ainvoke(decoded("a", "b"))


def test_weights_without_an_order_are_refused() -> None:
    parts = (giving(1.0), giving(2.0))
    with pytest.raises(ConfigError, match=r"weights=\{.*\} has no order: give a list or a tuple"):
        WeightedSum(scorers=parts, weights={2.0, 0.5})  # type: ignore[arg-type]
    assert WeightedSum(scorers=parts, weights=[2.0, 0.5]).score(REQUEST, RESPONSES[:1]).answer == [3.0]  # type: ignore[arg-type]
