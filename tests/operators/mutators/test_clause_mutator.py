"""ClauseMutator: which clauses it draws, how often, and what a search does with them."""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from math import exp
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from scipy.stats import chisquare

from darwin_align import Budget, Request, SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.core import PRESETS, Clause, Event, Usage
from darwin_align.core.clauses import sentences, with_clauses
from darwin_align.core.errors import ConfigError, ReplayError
from darwin_align.operators import ClauseMutator, MutationContext
from tests.core.kit import ASKED, CLAUSES, REQUEST, preset_of, search_of, timeless

TEXTS = [clause.text for clause in CLAUSES]
SMALL: dict[str, Any] = {"max_new_tokens": 20, "seed": 11}
NONE_GIVEN = (
    r"^mutator='clauses' adds clauses, and there are none: give clauses=learn_clauses\(results\), with the results "
    r"of earlier searches, or write some: clauses=\(Clause\(text='Be thorough.'\),\)$"
)


def drawn(n: int, instruction: str = ASKED, seed: int = 1, **settings: Any) -> list[list[str]]:
    """The clauses that n mutations add, in their order."""
    mutator = ClauseMutator(**{"clauses": CLAUSES, **settings})
    mutations = mutator.mutate(MutationContext.of(REQUEST, instruction=instruction, n=n, seed=seed))
    assert all(mutation.startswith(instruction) for mutation in mutations)
    return [sentences(mutation.removeprefix(instruction)) for mutation in mutations]


def odds(temperature: float = 0.15) -> dict[str, float]:
    weights = {clause.text: exp(clause.worth / temperature) for clause in CLAUSES}
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}


# What is drawn


def test_the_seed_decides_and_the_number_of_mutations_does_not() -> None:
    assert drawn(8, seed=3) == drawn(8, seed=3)
    assert drawn(8, seed=3)[:5] == drawn(5, seed=3)
    assert len({str(drawn(8, seed=seed)) for seed in range(20)}) == 20


def test_the_order_in_which_clauses_are_given_does_not_matter() -> None:
    assert drawn(50, clauses=CLAUSES[::-1]) == drawn(50)
    assert drawn(50, clauses=(*CLAUSES, CLAUSES[0])) == drawn(50)


@given(st.sets(st.sampled_from(TEXTS)), st.integers(1, 7), st.integers(0, 2**62))
def test_no_clause_comes_twice_nor_one_that_the_instruction_has(here: set[str], most: int, seed: int) -> None:
    instruction = " ".join([ASKED, *sorted(here)])
    left = len(TEXTS) - len(here)
    for added in drawn(6, instruction, seed, most=most):
        assert len(set(added)) == len(added)
        assert set(added) <= set(TEXTS) - here
        assert min(1, left) <= len(added) <= min(most, left)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_all_numbers_of_clauses_are_equally_likely(most: int) -> None:
    counts = Counter(len(added) for added in drawn(2000, most=most))
    assert set(counts) == {*range(1, most + 1)}
    assert chisquare(list(counts.values())).pvalue > 1e-3 if most > 1 else counts[1] == 2000


def test_where_too_few_are_left_all_of_them_are_added() -> None:
    counts = Counter(len(added) for added in drawn(600, clauses=CLAUSES[:2], most=6))
    assert counts[1] / 600 == pytest.approx(1 / 6, abs=0.05)
    assert counts[1] + counts[2] == 600


@pytest.mark.parametrize("temperature", [0.1, 0.15, 1.0])
def test_the_first_clause_is_drawn_by_its_worth(temperature: float) -> None:
    first = Counter(added[0] for added in drawn(4000, temperature=temperature))
    assert chisquare([first[t] for t in TEXTS], [4000 * odds(temperature)[t] for t in TEXTS]).pvalue > 1e-3


def test_the_second_is_drawn_by_its_worth_among_the_rest() -> None:
    pairs = Counter(tuple(added) for added in drawn(12000, temperature=0.5, most=2) if len(added) == 2)
    shares = odds(0.5)
    expected = {(a, b): shares[a] * shares[b] / (1 - shares[a]) for a, b in permutations(TEXTS, 2)}
    total = pairs.total()
    assert total > 5000
    assert chisquare([pairs[pair] for pair in expected], [total * p for p in expected.values()]).pvalue > 1e-3


def test_the_number_of_clauses_does_not_depend_on_which() -> None:
    first = {n: Counter(added[0] for added in drawn(6000) if len(added) == n) for n in (1, 2, 3)}
    for counts in first.values():
        assert chisquare([counts[t] for t in TEXTS], [counts.total() * odds()[t] for t in TEXTS]).pvalue > 1e-3


def test_the_temperature_leads_from_the_best_to_any() -> None:
    assert {tuple(added) for added in drawn(50, temperature=1e-3, most=1)} == {(TEXTS[0],)}
    assert {tuple(added) for added in drawn(50, temperature=1e-3)} == {tuple(TEXTS[:n]) for n in (1, 2, 3)}
    first = Counter(added[0] for added in drawn(2000, temperature=1e6))
    assert chisquare([first[text] for text in TEXTS]).pvalue > 1e-3


def test_behind_several_lines_comes_a_blank_one() -> None:
    kind = ClauseMutator(clauses=(Clause(text="Be kind."),))
    assert kind.mutate(MutationContext.of(REQUEST)) == [f"{ASKED} Be kind."]
    code = "What does this print?\nprint(1)"
    assert kind.mutate(MutationContext.of(code)) == [f"{code}\n\nBe kind."]
    for mutation in ClauseMutator(clauses=CLAUSES).mutate(MutationContext.of(code, n=20)):
        head, added = mutation.split("\n\n")
        assert head == code
        assert "\n" not in added


@pytest.mark.parametrize("gap", [" ", "\n", "\n\n"])
def test_once_all_clauses_stand_there_the_instruction_stays(gap: str) -> None:
    full = gap.join([ASKED, *TEXTS])
    assert ClauseMutator(clauses=CLAUSES).mutate(MutationContext.of(REQUEST, instruction=full, n=3)) == [full] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clauses": ()}, r"ClauseMutator.clauses = \(\) is refused: tuple should have at least 1 item"),
        ({}, r"ClauseMutator needs clauses=…"),
        ({"clauses": CLAUSES, "most": 0}, r"ClauseMutator.most = 0 is refused: input should be greater than 0"),
        ({"clauses": CLAUSES, "temperature": 0.0}, r"ClauseMutator.temperature = 0.0 is refused"),
        ({"clauses": ["Be kind."]}, r"ClauseMutator.clauses.0 = 'Be kind.' is refused"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClauseMutator(**settings)


# In a search


def test_mutations_cost_nothing() -> None:
    policy = ScriptedPolicy(length=9)
    config = preset_of("learned_clauses", mutations=6)
    result = search_of(mutator=None, policy=policy, config=config).invoke(ASKED, seed=1)
    for event in result.events:
        if event.operator == "mutate":
            assert event.delta.usage == Usage()
    assert policy.calls == 1, "all answers are written side by side"
    assert result.usage.decoded_tokens == 10 * 7
    assert result.usage.policy_calls == result.usage.reward_calls == 7


def test_over_the_cycles_clauses_add_up_and_none_is_repeated() -> None:
    search = search_of(mutator=None, config=preset_of("learned_clauses", cycles=4, selector="none"))
    most = 0
    for seed in range(10):
        for beam in search.invoke(ASKED, max_new_tokens=20, seed=seed).ranking:
            head, *added = sentences(beam.instruction)
            assert head == ASKED
            assert len(set(added)) == len(added)
            assert set(added) <= set(TEXTS)
            most = max(most, len(added))
    assert most == len(TEXTS)


def test_the_guard_and_other_checks_refuse_clauses_too() -> None:
    def guard(request: Request, mutation: str) -> str | None:
        return "it asks for tips" if "tip" in mutation else None

    search = search_of(mutator=None, guard=guard, config=preset_of("learned_clauses"))
    refused = 0
    for seed in range(10):
        result = search.invoke(ASKED, max_new_tokens=20, seed=seed)
        assert all("tip" not in beam.instruction for beam in result.ranking)
        refused += sum(note.endswith("it asks for tips") for note in result.notes)
        assert all("Add a tip!" in note for note in result.notes if note.endswith("it asks for tips"))
    assert refused > 10
    nothing = search.model_copy(update={"guard": lambda request, mutation: "no"}).invoke(ASKED, **SMALL)
    assert nothing.notes[-2] == "the parent fills 13 of 13 places"
    assert nothing.notes[-1].startswith("hardly any rewording could be used")
    assert {beam.instruction for beam in nothing.ranking} == {ASKED}


def test_the_default_guard_lets_clauses_through() -> None:
    result = search_of(mutator=None, config=preset_of("learned_clauses")).invoke(ASKED, **SMALL)
    guarded = search_of(mutator=None, config=preset_of("learned_clauses")).model_copy(update={"guard": None})
    assert result.notes == ()
    assert timeless(guarded.invoke(ASKED, **SMALL)) == timeless(result)


def test_a_clause_that_leaves_no_space_in_the_context_is_refused() -> None:
    class Narrow(ScriptedPolicy):
        def refusal(self, request: Request, max_new_tokens: int) -> str | None:
            return "it is too long" if len(request.instruction) > 60 else None

    clauses = (Clause(text="Be kind."), Clause(text=f"Be {'very ' * 20}kind."))
    search = search_of(mutator=None, policy=Narrow(), config=preset_of("learned_clauses", clauses=clauses))
    result = search.invoke(ASKED, **SMALL)
    assert {beam.instruction for beam in result.ranking} == {ASKED, f"{ASKED} Be kind."}
    assert any(note.endswith("kind.': it is too long") for note in result.notes)


def test_without_clauses_the_error_states_what_to_do() -> None:
    with pytest.raises(ConfigError, match=NONE_GIVEN):
        search_of(mutator=None, config=SearchConfig.preset("learned_clauses"))
    with pytest.raises(ConfigError, match=NONE_GIVEN):
        search_of(mutator=None).invoke(ASKED, mutator="clauses")
    with pytest.raises(ConfigError, match=NONE_GIVEN):
        search_of(mutator=None).invoke(ASKED, **PRESETS["learned_clauses"], clauses=[])


@pytest.mark.parametrize("changes", [{}, {"mutator": "identity"}, {"mutator": "policy"}])
async def test_clauses_that_no_mutator_would_add_are_refused(changes: dict[str, str]) -> None:
    message = r"^clauses only serves mutator='clauses' or mutator='aspects': set that too, or leave clauses out$"
    with pytest.raises(ConfigError, match=message):
        SearchConfig(clauses=CLAUSES, **changes)
    with pytest.raises(ConfigError, match=message):
        search_of(mutator=None).invoke(ASKED, clauses=CLAUSES, **changes)
    with pytest.raises(ConfigError, match=message):
        await search_of(mutator=None).ainvoke(ASKED, clauses=CLAUSES, **changes)


async def test_clauses_of_one_call() -> None:
    search = search_of(mutator=None, config=SearchConfig(cycles=1, **SMALL))
    expected = search_of(mutator=None, config=SearchConfig(cycles=1, mutator="clauses", clauses=CLAUSES, **SMALL))
    wanted = timeless(expected.invoke(ASKED))
    for given_ in (CLAUSES, list(CLAUSES), [clause.model_dump() for clause in CLAUSES]):
        settings: dict[str, Any] = {"mutator": "clauses", "clauses": given_}
        result = search.invoke(ASKED, **settings)
        assert result.config.clauses == CLAUSES
        assert all(set(sentences(beam.instruction)) <= {ASKED, *TEXTS} for beam in result.ranking)
        assert timeless(result) == wanted
        assert timeless(await search.ainvoke(ASKED, **settings)) == wanted
        assert [timeless(one) for one in search.batch([ASKED] * 3, **settings)] == [wanted] * 3
        assert timeless(search.bind(**settings).invoke(ASKED)) == wanted
    assert search.config.clauses == ()


@pytest.mark.parametrize("changes", [{}, {"cycles": 3, "selector": "top_k", "replacement_period": 4}])
def test_replays(changes: dict[str, Any]) -> None:
    search = search_of(mutator=None, config=preset_of("learned_clauses", **{**SMALL, **changes}))
    result = search.invoke(ASKED)
    stored = [Event.from_json(event.to_json()) for event in result.events]
    assert search.invoke(ASKED, replay=stored) == result
    for known in range(len(stored)):
        assert timeless(search.invoke(ASKED, replay=stored[:known])) == timeless(result)
    for other in (CLAUSES[1:], CLAUSES[::-1], [*CLAUSES[:-1], Clause(text=TEXTS[-1])]):
        with pytest.raises(ReplayError, match="belongs to a search with another request, seed or setting"):
            search.invoke(ASKED, replay=stored, clauses=other)


def test_an_explicit_mutator_may_draw_otherwise() -> None:
    config = SearchConfig(cycles=1, mutations=8, selector="none", **SMALL)
    as_set = search_of(mutator=None, config=config.replace(mutator="clauses", clauses=CLAUSES)).invoke(ASKED)
    given_ = search_of(mutator=ClauseMutator(clauses=CLAUSES), config=config).invoke(ASKED)
    assert given_.ranking == as_set.ranking
    greedy = ClauseMutator(clauses=CLAUSES, most=1, temperature=1e-3)
    result = search_of(mutator=greedy, config=config).invoke(ASKED)
    assert {beam.instruction for beam in result.ranking} <= {ASKED, f"{ASKED} {TEXTS[0]}"}
    with pytest.raises(ConfigError, match=r"config.mutator would be ignored beside an explicit mutator"):
        search_of(mutator=greedy, config=preset_of("learned_clauses"))


def test_in_a_conversation_the_last_question_gets_clauses_and_is_rewarded_without() -> None:
    seen: list[Request] = []

    def score(request: Request, responses: Sequence[Any]) -> list[float]:
        seen.append(request)
        return [0.0 for _ in responses]

    talk = [SystemMessage("Be short."), HumanMessage("Hi!"), AIMessage("Hello."), HumanMessage(ASKED)]
    search = search_of(mutator=None, scorer=score, config=preset_of("learned_clauses"))
    result = search.invoke(talk, **SMALL)
    assert any(beam.instruction != ASKED for beam in result.ranking)
    assert all(request == result.request for request in seen)
    assert all(beam.instruction.startswith(ASKED) for beam in result.ranking)


def test_a_budget_holds_here_too() -> None:
    config = preset_of("learned_clauses", cycles=9, budget=Budget(tokens=300))
    result = search_of(mutator=None, policy=ScriptedPolicy(length=9), config=config).invoke(ASKED, seed=1)
    assert result.stop_reason == "budget: tokens"
    assert result.cycles < 9


@pytest.mark.parametrize(
    ("instruction", "added"),
    [
        ("Green tea", "Green tea\nBe kind. Add a tip."),
        ("Explain:\nx = 1", "Explain:\nx = 1\n\nBe kind. Add a tip."),
        ("Green tea? ", "Green tea? Be kind. Add a tip."),
        ("茶？", "茶？ Be kind. Add a tip."),
    ],
)
def test_clauses_stay_sentences_of_their_own(instruction: str, added: str) -> None:
    assert with_clauses(instruction, ["Be kind.", "Add a tip."]) == added
    assert {"Be kind.", "Add a tip."} <= set(sentences(added))


def test_a_clause_without_an_end_mark_runs_into_no_other() -> None:
    assert with_clauses("Hi!", ["Be kind", "Add a tip"]) == "Hi! Be kind\nAdd a tip"


def test_a_clause_of_two_sentences_is_known_again() -> None:
    mutator = ClauseMutator(clauses=(Clause(text="Be thorough. Be kind."),))
    instruction = "Hi! Be thorough. Be kind."
    assert mutator.mutate(MutationContext.of(instruction, n=2)) == [instruction] * 2
    assert mutator.mutate(MutationContext.of("Hi! Be kind.")) == ["Hi! Be kind. Be thorough. Be kind."]


def test_a_blank_clause_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Clause.text = ' ' is refused"):
        Clause(text=" ")
