"""What is accepted as an operator, by the sync and by the async driver, also inside a running event loop."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda

from darwin_align import Population, Request, Response
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.core.errors import ConfigError
from darwin_align.operators import (
    ChainMutator,
    ChainScorer,
    ChatModelMutator,
    Continuation,
    Decoder,
    FunctionScorer,
    IdentityMutator,
    NoSelection,
    Row,
    TopKReplacement,
    Tournament,
    as_decoder,
    as_mutator,
    as_scorer,
    as_selector,
)
from tests.core.kit import REQUEST

START = Population.start(REQUEST, mutations=2)
DECODED = START.with_beams(
    {i: b.model_copy(update={"text": "ab"[i], "tokens": (i,), "length": 1}) for i, b in enumerate(START.beams)}
)
SCORED = DECODED.with_beams({i: b.model_copy(update={"reward": float(i)}) for i, b in enumerate(DECODED.beams)})


def mutate(request: Request, instruction: str, n: int, seed: int) -> list[str]:
    return ["Explain X", "Explain Y"][:n]


def generate(rows: Sequence[Row]) -> list[Continuation]:
    return [Continuation(text="x", tokens=(7,), new_tokens=1, finish_reason="stop") for _ in rows]


def score(request: Request, responses: Sequence[Response]) -> list[float]:
    return [float(ord(response.text)) for response in responses]


def select(
    rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
) -> tuple[list[int], list[float]]:
    return [1, 1], [0.0, 0.0]


def asynchronous(function: Any) -> Any:
    async def method(*args: Any) -> Any:
        return function(*args)

    return method


class Callable_:  # noqa: N801 - an object that is called
    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


OPERATORS = {
    "mutate": (as_mutator, mutate, START, lambda p: [b.instruction for b in p.beams] == ["Explain X", "Explain Y"]),
    "generate": (as_decoder, generate, START, lambda p: [b.text for b in p.beams] == ["x", "x"]),
    "score": (as_scorer, score, DECODED, lambda p: [b.reward for b in p.beams] == [97.0, 98.0]),
    "select": (as_selector, select, SCORED, lambda p: [b.text for b in p.beams] == ["b", "b"]),
}
FORMS = {
    "function": lambda name, function: function,
    "async function": lambda name, function: asynchronous(function),
    "object with the method": lambda name, function: SimpleNamespace(**{name: function}),
    "object with an async method": lambda name, function: SimpleNamespace(**{name: asynchronous(function)}),
    "callable object": lambda name, function: Callable_(function),
    "callable object, async": lambda name, function: Callable_(asynchronous(function)),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("form", FORMS)
async def test_one_method_runs_by_both_drivers(name: str, form: str) -> None:
    coerce, function, start, right = OPERATORS[name]
    operator = coerce(FORMS[form](name, function))
    assert right(operator.invoke(start))  # as in a notebook's cell: an event loop is running
    assert right(await operator.ainvoke(start))
    assert coerce(operator) is operator


@pytest.mark.parametrize("name", ["mutate", "generate", "select"])
@pytest.mark.parametrize("wrap", [lambda f: f, asynchronous])
async def test_a_runnable_lambda_is_its_function(name: str, wrap: Any) -> None:
    coerce, function, start, right = OPERATORS[name]
    operator = coerce(RunnableLambda(wrap(function)))
    assert right(operator.invoke(start))
    assert right(await operator.ainvoke(start))


@pytest.mark.parametrize("wrap", [lambda f: f, asynchronous])
async def test_a_runnable_lambda_scores_one_response_as_every_chain_does(wrap: Any) -> None:
    operator = as_scorer(RunnableLambda(wrap(lambda given: ord(given["response"]))))
    for answer in (operator.invoke(DECODED), await operator.ainvoke(DECODED)):
        assert [beam.reward for beam in answer.beams] == [97.0, 98.0]


async def test_chains() -> None:
    model = FakeListChatModel(responses=["1. Explain X\n2. Explain Y"])
    prompt = ChatPromptTemplate.from_template("Reword {instruction} {n} times.")
    items = prompt | model | (lambda message: [line[3:] for line in message.text.split("\n")])
    for chain in (prompt | model, prompt | model | StrOutputParser(), items):
        mutator = as_mutator(chain)
        assert isinstance(mutator, ChainMutator)
        for answer in (mutator.invoke(START), await mutator.ainvoke(START)):
            assert [beam.instruction for beam in answer.beams] == ["Explain X", "Explain Y"]
    judge = ChatPromptTemplate.from_template("{instruction} {response}") | FakeListChatModel(responses=["3"])
    assert isinstance(as_scorer(judge), ChainScorer)
    assert isinstance(as_mutator(model), ChatModelMutator)


@pytest.mark.parametrize(
    ("coerce", "operator", "start"),
    [
        (as_mutator, IdentityMutator(), START),
        (as_decoder, Decoder(policy=ScriptedPolicy()), START),
        (as_scorer, FunctionScorer(function=score), DECODED),
        (as_selector, TopKReplacement(survivors=1), SCORED),
    ],
)
def test_operators_behind_langchains_wrappers_stay_operators(coerce: Any, operator: Any, start: Population) -> None:
    expected = operator.invoke(start)
    for wrapped in (
        operator,
        operator.with_config(tags=["x"]),
        operator.with_retry(stop_after_attempt=2),
        operator.with_fallbacks([operator]),
        operator.configurable_alternatives(ConfigurableField(id="which"), other=operator),
    ):
        assert coerce(wrapped) is wrapped
        assert coerce(wrapped).invoke(start) == expected


def test_alternatives_are_chosen_by_the_configuration() -> None:
    selector = as_selector(
        NoSelection().configurable_alternatives(ConfigurableField(id="selector"), tournament=Tournament(size=30))
    )
    assert selector.invoke(SCORED).beams[0].text == "a"
    assert selector.invoke(SCORED, {"configurable": {"selector": "tournament"}}).beams[0].text == "b"


@pytest.mark.parametrize(
    ("coerce", "message"),
    [
        (as_mutator, r"as mutator: give a Mutator, a function, or an object with the method mutate\(request, instr"),
        (as_decoder, r"as policy: give a Policy, a function, or an object with the method generate\(rows\)"),
        (as_scorer, r"as scorer: give a Scorer, a function, or an object with the method score\(request, responses"),
        (as_selector, r"as selector: give a Selector, a function, or an object with the method select\(rewards"),
    ],
)
@pytest.mark.parametrize("given", [None, 5, "gpt", {"score": 1}, str, object()])
def test_anything_else_is_refused_by_name(coerce: Any, message: str, given: Any) -> None:
    with pytest.raises(ConfigError, match=rf"cannot use {type(given).__name__} .*{message}"):
        coerce(given)


@pytest.mark.parametrize("coerce", [as_mutator, as_scorer, as_selector, as_decoder])
def test_one_operator_in_the_place_of_another_is_refused(coerce: Any) -> None:
    own = {as_mutator: IdentityMutator, as_selector: NoSelection}.get(coerce)
    for operator in (
        IdentityMutator(),
        FunctionScorer(function=score),
        NoSelection(),
        Decoder(policy=ScriptedPolicy()),
    ):
        fits = type(operator) is own or (coerce, type(operator)) in {(as_scorer, FunctionScorer), (as_decoder, Decoder)}
        if fits:
            assert coerce(operator) is operator
        else:
            with pytest.raises(ConfigError, match=f"cannot use {type(operator).__name__}"):
                coerce(operator)
