"""Crossover: the guidance of two good instructions in one (evolution has two parents)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from darwin_align.core.clauses import sentences
from darwin_align.core.seeds import derive, gumbel
from darwin_align.operators.context import MutationContext
from darwin_align.operators.mutators.aspects.data import Bank, bank_of, conflict
from darwin_align.operators.mutators.aspects.language import language_of
from darwin_align.operators.mutators.aspects.placement import goes_before, order_of, placed
from darwin_align.operators.mutators.evolution.base import Evolved

__all__ = ["CrossoverMutator"]


class CrossoverMutator(Evolved):
    """Adds to one good instruction the guidance that another good one has.

    Guidance is what stands around the request's own words: sentences of an
    :class:`~darwin_align.operators.mutators.aspects.AspectMutator`, of critiques, or clauses. Parents are the archive's
    instructions and those of the three best answers; pairs are drawn by the mean rank of their rewards. Sentences
    that contradict each other are not combined. No tokens are spent.
    """

    def mutate(self, context: MutationContext) -> list[str]:
        """Cross up to n pairs."""
        parents = _parents(context)
        children = {
            child: (first + second) / 2 - gumbel(derive(context.seed, "pair", first, second), "crossover")
            for first, one in enumerate(parents)
            for second, other in enumerate(parents)
            if (child := _crossed(context, one, other)) is not None
        }
        return sorted(children, key=children.__getitem__)[: context.n]


def _parents(context: MutationContext) -> list[str]:
    """Good instructions, best first."""
    rewards = {entry.instruction: entry.reward for entry in context.archive}
    for answer in context.answers[:3]:
        rewards[answer.instruction] = max(answer.reward, rewards.get(answer.instruction, answer.reward))
    return sorted(rewards, key=lambda instruction: -rewards[instruction])


def _crossed(context: MutationContext, one: str, other: str) -> str | None:
    """The first instruction with the other's guidance; ``None`` where that is nothing new, or contradicts its own."""
    whole = context.request.instruction
    bank = bank_of(language_of(order_of(whole, bank_of("en"))) or "en")
    before = goes_before(whole, bank, closed=False)
    own = set(_kinds(bank, one))
    child = one
    for sentence in _guidance(whole, other):
        if sentence in one or any(conflict(kind, own) for kind in _kinds(bank, sentence)):
            continue
        child = placed(child, sentence, before=before)
    known = {*context.tried, *context.accepted, *context.refused, context.instruction}
    return None if child == one or child in known else child


def _guidance(whole: str, instruction: str) -> Sequence[str]:
    """Sentences around the request's own words; none where these were reworded."""
    if whole not in instruction:
        return ()
    before, _, after = instruction.partition(whole)
    return [*sentences(before), *sentences(after)]


def _kinds(bank: Bank, text: str) -> Iterator[str]:
    return (aspect.kind for aspect in bank.aspects if aspect.text in text)
