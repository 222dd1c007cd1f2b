"""Mutators: how rewordings are filled up, and what is refused."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel

from darwin_align import Population, Request
from darwin_align.core import Usage
from darwin_align.core.errors import ConfigError, OperatorError
from darwin_align.core.seeds import derive
from darwin_align.operators import (
    ChatModelMutator,
    Continuation,
    FunctionMutator,
    IdentityMutator,
    LexicalIntent,
    MutationContext,
    MutationPrompt,
    Mutator,
    PolicyMutator,
    Report,
    Row,
    RuleMutator,
)
from darwin_align.operators.prompts import delimited
from tests.core.kit import ASKED, REQUEST

THREE = Population.start(REQUEST, mutations=3, beams_per_mutation=2, first_response=True)


def instructions(population: Population) -> list[str]:
    return [population.beams[group[0]].instruction for group in population.groups()]


def scripted(*answers: Any) -> tuple[Mutator, list[tuple[int, int]]]:
    """A mutator that gives these answers in turn, and a record of the (n, seed) of its calls."""
    calls: list[tuple[int, int]] = []

    def mutate(request: Request, instruction: str, n: int, seed: int) -> Any:
        calls.append((n, seed))
        return answers[len(calls) - 1]

    return FunctionMutator(function=mutate), calls


def test_each_mutation_fills_its_group_and_the_first_response_stays() -> None:
    mutator, calls = scripted(["A", "B", "C"])
    answer = mutator.invoke(THREE)
    assert [beam.instruction for beam in answer.beams] == ["A", "A", "B", "B", "C", "C", ASKED]
    assert len(calls) == 1
    assert answer.notes == ()


def test_too_few_are_requested_once_more_with_another_seed() -> None:
    mutator, calls = scripted(["A"], ["B", "C"])
    answer = mutator.invoke(THREE)
    assert instructions(answer) == ["A", "B", "C"]
    assert [n for n, _ in calls] == [3, 2]
    assert calls[0][1] != calls[1][1]
    assert answer.notes == ()


def test_then_the_parent_fills_up_and_the_notes_say_so() -> None:
    mutator, calls = scripted(["A"], [])
    answer = mutator.invoke(THREE)
    assert instructions(answer) == ["A", ASKED, ASKED]
    assert [n for n, _ in calls] == [3, 2]
    assert answer.notes == ("the parent fills 2 of 3 places",)


def test_refused_and_blank_mutations_are_replaced_and_noted() -> None:
    mutator, _ = scripted(["Brew green tea.", "Bake bread.", " "], ["Bake a cake.", "Green tea: how to brew it?"])
    answer = mutator.guarded(LexicalIntent()).invoke(THREE)
    assert instructions(answer) == ["Brew green tea.", "Green tea: how to brew it?", ASKED]
    assert answer.notes == (
        "refused 'Bake bread.': it leaves the topic: of brew, green, tea it keeps none",
        "refused ' ': it is blank",
        "refused 'Bake a cake.': it leaves the topic: of brew, green, tea it keeps none",
        "the parent fills 1 of 3 places",
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (["A"] * 4, r"the mutator was called for 3 instructions and returned 4"),
        ("ABC", r"mutate must return a list of texts, not 'ABC'"),
        (None, r"mutate must return a list of texts, not None"),
        (["A", None], r"mutate must return a list of texts, not \['A', None\]"),
        ([["A"]], r"mutate must return a list of texts"),
    ],
)
def test_answers_that_are_no_mutations(answer: Any, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        scripted(answer)[0].invoke(THREE)


def test_a_report_adds_its_usage_and_notes() -> None:
    mutator, _ = scripted(Report(["A"], Usage(decoded_tokens=4), ("first",)), Report(["B", "C"], Usage(policy_calls=1)))
    answer = mutator.invoke(THREE)
    assert answer.usage == Usage(decoded_tokens=4, policy_calls=1)
    assert answer.notes == ("first",)


def test_checks_are_given_the_request_and_may_be_async() -> None:
    async def check(request: Request, mutation: str) -> str | None:
        return None if request.instruction == ASKED and mutation != "B" else "no B"

    mutator, _ = scripted(["A", "B", "C"], ["D"])
    answer = mutator.guarded(check).invoke(THREE)
    assert instructions(answer) == ["A", "C", "D"]
    assert answer.notes == ("refused 'B': no B",)
    assert mutator.checks == ()  # guarded returns another mutator


def test_identity() -> None:
    assert instructions(IdentityMutator().invoke(THREE)) == [ASKED] * 3
    assert IdentityMutator().invoke(THREE.model_copy(update={"parent": "P"})).beams[0].instruction == "P"


def test_rules_are_drawn_without_repetition_as_long_as_there_are_enough() -> None:
    rules = RuleMutator(templates=("{instruction} A", "{instruction} B", "{instruction} C", "{instruction} D"))
    draws = [
        rules.mutate(MutationContext.of(REQUEST, instruction="mutated before", n=3, seed=seed)) for seed in range(40)
    ]
    assert all(len(set(draw)) == 3 for draw in draws)
    assert all(text.startswith(ASKED) for draw in draws for text in draw)  # templates do not pile up
    assert {text for draw in draws for text in draw} == {f"{ASKED} {letter}" for letter in "ABCD"}
    nine = MutationContext.of(REQUEST, n=9, seed=1)
    assert rules.mutate(nine) == rules.mutate(nine)
    with pytest.raises(ConfigError, match="templates"):
        RuleMutator(templates=())


class Writer:
    """A policy that answers every row with the next of its replies, and keeps the rows."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.rows = list(replies), list[Row]()

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        self.rows += rows
        return [Continuation(self.replies.pop(0), new_tokens=5, prefilled_tokens=7) for _ in rows]


def test_the_policy_is_called_once_for_a_list() -> None:
    policy = Writer("1. Explain A\n2. Explain B\n3. Explain C\n4. Explain D")
    answer = PolicyMutator(policy=policy).invoke(THREE)
    assert instructions(answer) == ["Explain A", "Explain B", "Explain C"]
    assert answer.usage == Usage(prefilled_tokens=7, decoded_tokens=5, policy_calls=1)
    [row] = policy.rows
    assert row.request.instruction.endswith(delimited(ASKED, "request", derive(THREE.step.seed, "mutate", 0)))
    assert row.request.sampling.temperature == 1.0
    assert row.max_tokens == 512


def test_the_policy_is_called_for_one_rewording_at_a_time() -> None:
    policy = Writer("Explain A", "Explain B", "Explain C")
    answer = PolicyMutator(policy=policy, prompt=MutationPrompt("{instruction}")).invoke(THREE)
    assert instructions(answer) == ["Explain A", "Explain B", "Explain C"]
    assert len({row.seed for row in policy.rows}) == 3
    assert answer.usage.policy_calls == 3


def test_a_policy_that_answers_instead_is_refused_and_called_once_more() -> None:
    policy = Writer("1. You need a kettle.\n2. Explain B\n3. First, boil water.", "1. Explain A\n2. Sure, do it.")
    answer = PolicyMutator(policy=policy).invoke(THREE)
    assert instructions(answer) == ["Explain B", "Explain A", ASKED]
    assert answer.notes[0] == "refused 'You need a kettle.': it answers instead of rewording: it begins as answers do"
    assert answer.notes[-1] == "the parent fills 1 of 3 places"
    assert answer.usage.decoded_tokens == 10


def test_copies_of_the_parent_and_of_each_other_are_no_rewordings() -> None:
    before = THREE.model_copy(update={"parent": "Explain A"})
    policy = Writer("1. Explain a!\n2. Explain B\n3. Please explain B.", "1. Explain B\n2. Explain C")
    answer = PolicyMutator(policy=policy).invoke(before)
    assert instructions(answer) == ["Explain B", "Explain C", "Explain A"]
    assert answer.exploration is not None
    copies = {"it is a copy of the instruction": 1, "it is a copy of another rewording": 2}
    assert (answer.exploration.accepted, answer.exploration.refused) == (2, copies)


def test_prose_holds_no_mutations() -> None:
    answer = PolicyMutator(policy=Writer("Green tea is nice.", "Really nice.")).invoke(THREE)
    assert instructions(answer) == [ASKED] * 3
    assert answer.notes == (
        "no rewording was found in the reply 'Green tea is nice.'",
        "no rewording was found in the reply 'Really nice.'",
        "the parent fills 3 of 3 places",
    )


@pytest.mark.parametrize("one", [False, True])
async def test_any_chat_model(one: bool) -> None:
    replies = ["Explain A", "Explain B", "Explain C"] if one else ['["Explain A", "Explain B", "Explain C"]']
    prompt: dict[str, Callable[..., Any] | MutationPrompt] = {"prompt": MutationPrompt("{instruction}")} if one else {}
    for drive in (lambda m: m.ainvoke(THREE), None):
        mutator = ChatModelMutator(model=FakeListChatModel(responses=replies), **prompt)
        answer = await drive(mutator) if drive else mutator.invoke(THREE)
        assert sorted(instructions(answer)) == ["Explain A", "Explain B", "Explain C"]
