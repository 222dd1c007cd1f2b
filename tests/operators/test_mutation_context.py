"""What mutators are given: the parent, and what the search knows."""

from typing import Any

import pytest
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from darwin_align import DarwinSearch, MutationContext, Mutator, Request, SearchConfig, SearchResult
from darwin_align.core import Population
from darwin_align.core.errors import ConfigError, OperatorError
from darwin_align.operators import FunctionMutator
from tests.core.kit import ASKED, REQUEST, WORDS, search_of, timeless

SMALL: dict[str, Any] = {"max_new_tokens": 12, "replacement_period": 4, "seed": 5}


class Numbered(Mutator):
    """Keeps its contexts."""

    seen: list[MutationContext]

    def mutate(self, context: MutationContext) -> list[str]:
        self.seen.append(context)
        return [f"{context.request.instruction} Version {len(self.seen)}.{i}." for i in range(context.n)]


def watched(**settings: Any) -> tuple[list[MutationContext], SearchResult]:
    mutator = Numbered(seen=[])
    result = search_of(mutator=mutator).invoke(ASKED, **{**SMALL, **settings})
    return mutator.seen, result


def test_the_first_context_knows_the_request_alone() -> None:
    first = watched(cycles=2)[0][0]
    assert (first.request.instruction, first.instruction, first.n) == (ASKED, ASKED, 5)
    assert (first.reward, first.best, first.worst, first.archive) == (None, None, None, ())
    assert first.tried == (ASKED,)


def test_later_ones_know_all_finished_answers_by_their_rewards() -> None:
    seen, result = watched(cycles=3, selector="none")
    last = seen[-1]
    ended = [result.first_response.instruction, *(f"{ASKED} Version {c}.{i}." for c in (1, 2) for i in range(5))]
    assert sorted(answer.instruction for answer in last.answers) == sorted(ended)
    rewards = [answer.reward for answer in last.answers]
    assert rewards == sorted(rewards, reverse=True)
    assert last.best == last.answers[0]
    assert last.worst == last.answers[-1]
    assert last.reward == {entry.instruction: entry.reward for entry in last.archive}[last.instruction]
    assert set(last.tried) == set(ended)
    known = {beam.instruction: (beam.text, beam.reward) for beam in result.ranking}
    for answer in last.answers:
        if answer.instruction in known:
            assert (answer.text, answer.reward) == known[answer.instruction]


def test_with_a_budget_the_first_response_is_known_before_the_first_rewording() -> None:
    first = watched(cycles=1, budget={"tokens": 500})[0][0]
    assert first.best is not None
    assert first.best.instruction == ASKED
    assert first.reward == first.best.reward


def test_a_second_call_is_given_what_was_accepted_and_refused() -> None:
    seen: list[MutationContext] = []

    def mutate(context: MutationContext) -> list[str]:
        seen.append(context)
        return [f"Draft {len(seen)}", "Bad"]

    population = Population.start(REQUEST, mutations=3)
    FunctionMutator(function=mutate).guarded(lambda request, text: "bad" if text == "Bad" else None).invoke(population)
    assert [(context.n, context.accepted, context.refused) for context in seen] == [
        (3, (), ()),
        (2, ("Draft 1",), ("Bad",)),
    ]


@pytest.mark.parametrize(
    "given",
    [
        lambda context: [f"{context.instruction} {i}" for i in range(context.n)],
        lambda request, instruction, n, seed: [f"{instruction} {i}" for i in range(n)],
        lambda context, how="{} {}": [how.format(context.instruction, i) for i in range(context.n)],
        lambda *given: [f"{given[1]} {i}" for i in range(given[2])],
        RunnableLambda(lambda context: [f"{context.instruction} {i}" for i in range(context.n)]),
    ],
)
def test_functions_of_one_context_and_of_four_arguments(given: Any) -> None:
    result = search_of(mutator=given).invoke(ASKED, cycles=1, **SMALL)
    expected = search_of(mutator=lambda context: [f"{ASKED} {i}" for i in range(5)]).invoke(ASKED, cycles=1, **SMALL)
    assert timeless(result) == timeless(expected)


async def test_an_async_function_and_an_object() -> None:
    class Rewords:
        async def mutate(self, context: MutationContext) -> list[str]:
            return [context.instruction.upper()] * context.n

    async def reword(context: MutationContext) -> list[str]:
        return [context.instruction.upper()] * context.n

    for given in (Rewords(), reword):
        result = await search_of(mutator=given).ainvoke(ASKED, cycles=1, **SMALL)
        assert {beam.instruction for beam in result.ranking} <= {ASKED, ASKED.upper()}
        assert result.exploration
        assert result.exploration.accepted == 5


def test_a_subclass_with_the_arguments_of_before_is_refused_when_it_is_defined() -> None:
    message = (
        r"^Old\.mutate\(self, request.* cannot be called with one context\. Define it as `def mutate\(self, context"
    )
    with pytest.raises(ConfigError, match=message):

        class Old(Mutator):
            def mutate(self, request: Request, instruction: str, n: int, seed: int) -> list[str]:  # type: ignore[override]
                return [instruction] * n


def test_a_chain_may_name_what_the_search_knows() -> None:
    seen: list[str] = []

    def keep(prompt: Any) -> list[str]:
        seen.append(prompt.to_string())
        return [f"{ASKED} Again {'abc'[len(seen)]} {word}." for word in WORDS[:5]]

    template = "{n}: {instruction} ({reward}) best {best} ({best_reward}), worst {worst} ({worst_reward}), {archive}"
    chain = ChatPromptTemplate.from_template(template) | RunnableLambda(keep)
    result = search_of(mutator=chain).invoke(ASKED, cycles=2, selector="none", **SMALL)
    assert seen[0] == f"Human: 5: {ASKED} (None) best  (None), worst  (None), {{}}"
    first = [beam for beam in result.ranking if "Again c" not in beam.instruction]
    best = [beam.text for beam in first if beam.reward == first[0].reward]
    assert any(f"best {text} ({first[0].reward})" in seen[1] for text in best)


def test_the_context_goes_to_json_and_back() -> None:
    context = watched(cycles=2)[0][1]
    assert MutationContext.from_json(context.to_json()) == context


def test_an_operator_that_changes_what_the_search_knows_is_refused() -> None:
    from darwin_align.core import darwin
    from darwin_align.core.exploration import Exploration, Knowledge

    question = next(darwin(REQUEST, SearchConfig(seed=1)))
    with pytest.raises(OperatorError, match="changed the population's known"):
        question.answered(question.population.model_copy(update={"known": Knowledge(tried=("x",))}))
    search = DarwinSearch(policy=search_of().policy, scorer=search_of().scorer, mutator=lambda context: [])
    algorithm = darwin(REQUEST, SearchConfig(seed=1, cycles=1))
    question = next(algorithm)
    question = algorithm.send(question.answered(search.operators(search.config)["mutate"].invoke(question.population)))
    with pytest.raises(OperatorError, match="decode set the population's exploration"):
        question.answered(question.population.model_copy(update={"exploration": Exploration()}))
