"""``decoder | scorer | selector`` is a chain that a notebook runs by hand."""

import pickle
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import Runnable

from darwin_align import Population
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import OperatorError
from darwin_align.operators import (
    Continuation,
    Decoder,
    IdentityMutator,
    LengthPenalty,
    Mutator,
    Operator,
    RuleMutator,
    Scorer,
    SMCSelector,
    TopKReplacement,
    WeightedSum,
)
from tests.core.kit import REQUEST, Babbler

START = Population.start(REQUEST, mutations=4, first_response=True, max_new_tokens=20)


def chain() -> Runnable[Population, Population]:
    return Decoder(policy=ScriptedPolicy(length=12)) | ScriptedScorer() | TopKReplacement(survivors=1)


async def test_three_steps_by_hand() -> None:
    population = START.model_copy(update={"step": START.step.model_copy(update={"tokens": 5})})
    by_hand, loop, indices = population, population, []
    for _ in range(3):
        by_hand, loop = chain().invoke(by_hand), await chain().ainvoke(loop)
        indices.append(by_hand.step.index)
    assert by_hand == loop
    assert indices == [1, 2, 3]
    assert by_hand.open == ()
    assert len({beam.tokens[:10] for beam in by_hand.beams if not beam.first_response}) == 1  # replaced twice
    assert by_hand.beams[-1].reward == ScriptedScorer().reward(by_hand.beams[-1].text)
    assert by_hand.usage.decoded_tokens == 5 * 13


def test_the_chain_can_be_drawn() -> None:
    drawing = chain().get_graph().draw_mermaid()
    assert all(name in drawing for name in ("Decoder", "ScriptedScorer", "TopKReplacement"))


def test_each_operator_is_one_traced_run() -> None:
    names: list[str] = []

    class Trace(BaseCallbackHandler):
        def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            names.append(kwargs["name"])

    chain().invoke(START, {"callbacks": [Trace()]})
    assert names == ["RunnableSequence", "Decoder", "ScriptedScorer", "TopKReplacement"]


@pytest.mark.parametrize(
    "operator",
    [
        Decoder(policy=ScriptedPolicy()),
        Decoder(policy=Babbler()),
        IdentityMutator(),
        RuleMutator(templates=("{instruction} Please.",)),
        SMCSelector(temperature=0.3),
    ],
)
def test_operators_survive_pickle(operator: Operator) -> None:
    again = pickle.loads(pickle.dumps(operator))  # noqa: S301 - our own
    population = START.with_beams({i: b.model_copy(update={"reward": 1.0}) for i, b in enumerate(START.beams)})
    assert type(again) is type(operator)
    assert again.invoke(population) == operator.invoke(population)


@pytest.mark.parametrize("operator", [IdentityMutator(), ScriptedScorer(), TopKReplacement()])
async def test_call_arguments_are_refused(operator: Operator) -> None:
    with pytest.raises(TypeError, match=rf"{type(operator).__name__} takes no call arguments: survivors"):
        operator.invoke(START, survivors=3)
    with pytest.raises(TypeError, match=r"takes no call arguments"):
        await operator.ainvoke(START, survivors=3)


async def test_an_authors_error_crosses_as_it_is() -> None:
    class Broken(Scorer):
        def score(self, request: Any, responses: Any) -> list[float]:
            raise KeyError("my own")

    scorer = LengthPenalty(scorer=WeightedSum(scorers=(Broken(),), weights=(1.0,)))
    ended = START.with_beams({i: b.model_copy(update={"finish_reason": "stop"}) for i, b in enumerate(START.beams)})
    with pytest.raises(KeyError, match="my own"):
        scorer.invoke(ended)
    with pytest.raises(KeyError, match="my own"):
        await scorer.ainvoke(ended)


async def test_a_stop_iteration_is_no_answer() -> None:
    class Exhausted(Mutator):
        def mutate(self, context: Any) -> list[str]:
            return [next(iter(()))]

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        Exhausted().invoke(START)
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await Exhausted().ainvoke(START)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, r"generate must return a list of continuations, not None"),
        ("text", r"generate must return a list of continuations, not 'text'"),
        ([], r"the policy was given 5 rows and returned 0 continuations"),
        ([Continuation("x", new_tokens=1)] * 6, r"the policy was given 5 rows and returned 6 continuations"),
    ],
)
def test_a_policys_wrong_reply_is_named(reply: Any, message: str) -> None:
    class Wrong:
        def generate(self, rows: Any) -> Any:
            return reply

    with pytest.raises(OperatorError, match=message):
        Decoder(policy=Wrong()).invoke(START)


def test_rows_carry_state_request_limit_and_seed() -> None:
    rows = []

    class Watching(ScriptedPolicy):
        def generate(self, given: Any) -> Any:
            rows.extend(given)
            return super().generate(given)

    start = START.model_copy(update={"max_new_tokens": 7, "search_id": "s1"})
    reworded = start.with_beams({0: start.beams[0].model_copy(update={"instruction": "Other words"})})
    decoder = Decoder(policy=Watching(length=50))
    once = decoder.invoke(reworded.model_copy(update={"step": start.step.model_copy(update={"tokens": 5})}))
    twice = decoder.invoke(once)
    first, again = rows[:5], rows[5:]
    assert [row.request.instruction for row in first] == ["Other words"] + [REQUEST.instruction] * 4
    assert [row.max_tokens for row in first + again] == [5] * 5 + [2] * 5
    assert [row.tokens for row in again] == [beam.tokens for beam in once.beams]
    assert [row.text for row in again] == [beam.text for beam in once.beams]
    assert [row.seed for row in first] == [row.seed for row in again]
    assert len({row.seed for row in first}) == 5
    assert {row.search_id for row in rows} == {"s1"}
    assert {beam.finish_reason for beam in twice.beams} == {"length"}


def test_log_probabilities_add_up() -> None:
    class Sure:
        def generate(self, rows: Any) -> list[Continuation]:
            return [Continuation(row.text + "x", new_tokens=1, logprob=-0.5) for row in rows]

    decoder = Decoder(policy=Sure())
    twice = decoder.invoke(decoder.invoke(START))
    assert {beam.logprob for beam in twice.beams} == {-1.0}
    assert {(beam.text, beam.length, beam.tokens) for beam in twice.beams} == {("xx", 2, ())}
