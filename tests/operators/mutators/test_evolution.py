"""Crossover, fusion and critique: what they make of a search so far, beside another mutator."""

from collections.abc import Sequence
from typing import Any

import pytest

from darwin_align import DarwinSearch, SearchResult
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.archive import Entry
from darwin_align.core.errors import ConfigError
from darwin_align.core.exploration import ScoredAnswer
from darwin_align.operators import (
    AspectMutator,
    Continuation,
    CritiqueMutator,
    CrossoverMutator,
    FusionMutator,
    IdentityMutator,
    MutationContext,
    PolicyMutator,
    Row,
)
from darwin_align.operators.mutators.aspects.data import bank_of
from darwin_align.operators.portal import call
from tests.core.kit import ASKED, timeless

ORDER, DEPTH = "Begin with what matters most.", "Give the reasons, too."
INNER = AspectMutator()


def answer(text: str, reward: float, *guidance: str) -> ScoredAnswer:
    return ScoredAnswer(text=text, reward=reward, instruction=" ".join([ASKED, *guidance]))


def known(*answers: ScoredAnswer, n: int = 1, **more: Any) -> MutationContext:
    best_first = tuple(sorted(answers, key=lambda one: -one.reward))
    tried = tuple(dict.fromkeys(one.instruction for one in answers))
    archive = tuple(Entry(instruction=one.instruction, reward=one.reward) for one in best_first[:2])
    return MutationContext.of(ASKED, n=n, seed=3, answers=best_first, archive=archive, tried=tried, **more)


# -- crossover


def test_a_child_has_the_guidance_of_both_parents_and_the_request_as_it_is() -> None:
    made = CrossoverMutator(inner=INNER).mutate(known(answer("x", 2.0, ORDER), answer("y", 1.0, DEPTH), n=5))
    assert set(made) == {f"{ASKED} {ORDER} {DEPTH}", f"{ASKED} {DEPTH} {ORDER}"}


def test_a_child_that_was_tried_or_is_a_parent_is_none() -> None:
    both = answer("x", 3.0, ORDER, DEPTH)
    context = known(answer("y", 2.0, ORDER), answer("z", 1.0, DEPTH), both, n=9)
    made = CrossoverMutator(inner=INNER).mutate(context)
    assert f"{ASKED} {ORDER} {DEPTH}" not in made
    assert ASKED not in made


def test_a_reworded_parent_takes_the_others_guidance() -> None:
    reworded = ScoredAnswer(text="x", reward=2.0, instruction="Explain how green tea is brewed.")
    made = CrossoverMutator(inner=INNER).mutate(known(reworded, answer("y", 1.0, DEPTH), n=5))
    assert made == [f"Explain how green tea is brewed. {DEPTH}"]


def test_guidance_that_contradicts_is_not_combined() -> None:
    bank = {aspect.kind: aspect.text for aspect in bank_of("en").aspects}
    brief, deep = bank["brevity"], bank["depth"]
    made = CrossoverMutator(inner=INNER).mutate(known(answer("x", 2.0, brief), answer("y", 1.0, deep)))
    assert made == []


def test_material_stays_where_it_is() -> None:
    whole = "Translate into French: I am here"
    texts = {reward: f"{guidance} {whole}" for reward, guidance in ((2.0, ORDER), (1.0, DEPTH))}
    answers = tuple(ScoredAnswer(text=str(r), reward=r, instruction=text) for r, text in texts.items())
    context = MutationContext.of(whole, n=5, answers=answers)
    made = CrossoverMutator(inner=INNER).mutate(context)
    assert made
    assert all(one.endswith(whole) and ORDER in one and DEPTH in one for one in made)


# -- fusion


def test_the_best_answers_are_shown_in_tags_that_they_cannot_close() -> None:
    context = known(answer("tea one", 3.0), answer("</draft> two", 2.0), answer("tea three", 1.0), answer("no", 0.0))
    [made] = FusionMutator(inner=INNER).mutate(context)
    assert made.startswith(f"{ASKED}\n\n")
    assert made.index("tea one") < made.index("two") < made.index("tea three")
    assert "\nno\n" not in made
    assert made.count("\n</draft-") == 3


@pytest.mark.parametrize("answers", [[], [answer("one", 1.0)], [answer("one", 1.0), answer("x" * 5000, 2.0)]])
def test_fewer_than_two_drafts_are_not_fused(answers: list[ScoredAnswer]) -> None:
    assert FusionMutator(inner=INNER).mutate(known(*answers)) == []


def test_it_is_not_shown_the_same_twice() -> None:
    two = (answer("tea one", 3.0), answer("tea two", 2.0))
    [made] = FusionMutator(inner=INNER).mutate(known(*two))
    again = known(*two).model_copy(update={"tried": (made,)})
    assert FusionMutator(inner=INNER).mutate(again) == []


# -- critique


class Critic:
    """Replies with the next of its replies, and keeps what it was given."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.given = list(replies), list[str]()

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        self.given += [row.request.instruction for row in rows]
        return [Continuation(self.replies.pop(0), new_tokens=4) for _ in rows]


def critique(policy: Critic) -> CritiqueMutator:
    return CritiqueMutator(inner=INNER, policy=PolicyMutator(policy=policy))


def test_the_best_and_the_worst_are_compared_and_an_order_is_added() -> None:
    policy = Critic('"Name the temperature in degrees." It helps.')
    made = call(lambda: critique(policy).mutate(known(answer("80 degrees {n}", 3.0), answer("warm", 1.0))))
    assert made.answer == [f"{ASKED} Name the temperature in degrees."]
    [given] = policy.given
    assert given.index("80 degrees {n}") < given.index("warm")
    assert made.usage.decoded_tokens == 4


@pytest.mark.parametrize("reply", ["", "The first answer is longer.", "Why is it so?", "x" * 300, "Here is one:"])
def test_other_replies_are_noted(reply: str) -> None:
    made = call(lambda: critique(Critic(reply)).mutate(known(answer("good", 3.0), answer("bad", 1.0))))
    assert made.answer == []
    assert "no rewording was found" in made.notes[0]


@pytest.mark.parametrize("answers", [[], [answer("one", 1.0)], [answer("one", 1.0), answer("two", 1.0)]])
def test_without_a_difference_the_policy_is_not_called(answers: list[ScoredAnswer]) -> None:
    made = call(lambda: critique(Critic()).mutate(known(*answers)))
    assert (made.answer, made.usage.decoded_tokens) == ([], 0)


# -- in a search


def search(mutator: str) -> SearchResult:
    policy = ScriptedPolicy(["red", "green", "blue"], length=6)
    scorer = ScriptedScorer(reward=lambda text: text.split().count("red") + len(text) / 100)
    made = DarwinSearch(policy=policy, scorer=scorer)
    return made.invoke(ASKED, mutator=mutator, seed=4, cycles=3, max_new_tokens=6, replacement_period=2)


def instructions(result: SearchResult) -> list[list[str]]:
    """Of each mutation's places."""
    changed = [event.delta.beams for event in result.events if event.operator == "mutate"]
    return [[str(fields.get("instruction")) for fields in beams.values()] for beams in changed]


@pytest.mark.parametrize("mutator", ["crossover", "fusion", "critique"])
def test_the_default_mutator_makes_the_first_cycle_and_the_other_places(mutator: str) -> None:
    found, plain = search(mutator), search("auto")
    first, *later = instructions(found)
    same, *_ = instructions(plain)
    assert first == same
    assert found.exploration is not None
    assert found.exploration.filled_by_parent == 0
    if mutator == "fusion":
        assert all(sum("drafts" in one for one in cycle) == 1 for cycle in later)
    assert found.reward is not None
    assert found.reward >= max(one.reward or 0.0 for one in found.ranking)
    assert timeless(search(mutator)) == timeless(found), "the seed decides"


def test_the_guard_holds_for_both() -> None:
    def no_reasons(_: object, mutation: str) -> str | None:
        return "no" if DEPTH in mutation or "reasons" in mutation else None

    mutator = CrossoverMutator(inner=INNER).guarded(no_reasons)
    assert isinstance(mutator, CrossoverMutator)
    assert mutator.inner.checks == mutator.checks == (no_reasons,)


def test_an_inner_mutator_is_needed() -> None:
    with pytest.raises(ConfigError, match="inner must be a Mutator"):
        CrossoverMutator(inner=lambda context: [])
    assert not IdentityMutator().prepares
