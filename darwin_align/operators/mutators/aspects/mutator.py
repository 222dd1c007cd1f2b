"""The mutator that adds guidance sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from statistics import fmean, pstdev

from pydantic import Field

from darwin_align.core.clauses import Clause
from darwin_align.core.seeds import derive, gumbel
from darwin_align.operators.context import MutationContext
from darwin_align.operators.mutator import Mutator
from darwin_align.operators.mutators.aspects.data import PROPERTIES, Aspect, Bank, bank_of, conflict, fixed_by
from darwin_align.operators.mutators.aspects.language import language_of
from darwin_align.operators.mutators.aspects.placement import goes_before, order_of, placed
from darwin_align.operators.report import Report

__all__ = ["AspectMutator"]

_LEARNED = "learned: "
"""Kind of a learned clause, before its text: each is a kind of its own."""
_ONCE_MORE = 2.0
"""What each sentence of a kind takes from that kind's chance within one mutation, as a logarithm of odds."""
_NO_BANK = "the instruction's language has no guidance sentences of its own: English ones are added"
_REPEATED = "the instruction is to be repeated word for word, so no guidance sentence is added to it"


class AspectMutator(Mutator):
    """Adds a short guidance sentence to the parent, in the instruction's language: no model is needed.

    The sentences say how to go about it (in which order, how deep, for whom, what to check …). None is used twice in a
    search, and kinds of sentences that earned reward in it are drawn more often. A sentence that would change what the
    instruction fixes (its length, its format …) is never drawn. Texts, code and choices that an instruction is about
    stay as they are: the sentence goes with the order.

    There are banks in English, German, French, Spanish, Portuguese, Chinese, Japanese and Hindi; instructions in other
    languages get English sentences.

    >>> AspectMutator().mutate(MutationContext.of("How do I brew green tea?", n=1, seed=5)).answer
    ['How do I brew green tea? Begin with what matters most.']
    """

    clauses: tuple[Clause, ...] = ()
    """From :func:`~darwin_align.core.learning.learn_clauses`: sentences to begin with, with what they are worth. They
    are drawn where the instruction fixes nothing and is in their language."""
    temperature: float = Field(0.5, gt=0)
    """In standard deviations of the reward: the smaller, the more the kinds that earned reward are preferred."""

    def mutate(self, context: MutationContext) -> Report[list[str]]:
        """Add one sentence each to the parent; fewer than ``n`` if no more are left that suit."""
        whole = context.request.instruction
        base = whole if whole in context.instruction else context.instruction
        bank, notes = _bank_for(base)
        fixed = _fixed(context, bank)
        if "request" in fixed:
            return Report([], notes=(_REPEATED,))
        before = goes_before(base, bank, closed=fixed >= PROPERTIES)
        aspects = self._aspects(bank)
        drawn = self._drawn(context, _suitable(context, bank, aspects, fixed), _earned(context, aspects))
        return Report([placed(context.instruction, one.text, before=before) for one in drawn], notes=notes)

    def _aspects(self, bank: Bank) -> list[Aspect]:
        """The bank's sentences, and the clauses of its language."""
        learned = {clause.text: clause.worth for clause in self.clauses if language_of(clause.text) == bank.language}
        kinds = {aspect.text: aspect.kind for aspect in bank.aspects}
        mine = [Aspect(text, _LEARNED + text, worth) for text, worth in learned.items() if text not in kinds]
        return [*mine, *(replace(aspect, worth=learned.get(aspect.text, 0.0)) for aspect in bank.aspects)]

    def _drawn(self, context: MutationContext, aspects: Iterable[Aspect], earned: Mapping[str, float]) -> list[Aspect]:
        """Draw up to ``n``: a kind by what it earned, then one of its sentences."""
        left: dict[str, list[Aspect]] = defaultdict(list)
        for aspect in aspects:
            left[aspect.kind].append(aspect)
        taken: Counter[str] = Counter()
        drawn: list[Aspect] = []
        while left and len(drawn) < context.n:
            seed = derive(context.seed, len(drawn))
            odds = {kind: earned[kind] / self.temperature - _ONCE_MORE * taken[kind] for kind in left}
            kind = max(odds, key=lambda kind: odds[kind] + gumbel(seed, kind))
            chosen = max(left[kind], key=lambda one: one.worth / self.temperature + gumbel(seed, one.text))
            drawn.append(chosen)
            taken[kind] += 1
            left[kind].remove(chosen)
            if not left[kind]:
                del left[kind]
        return drawn


def _bank_for(instruction: str) -> tuple[Bank, tuple[str, ...]]:
    language = language_of(order_of(instruction, bank_of("en")))
    return bank_of(language or "en"), () if language else (_NO_BANK,)


def _fixed(context: MutationContext, bank: Bank) -> Set[str]:
    """What the conversation's orders fix, but for the sentences that this mutator added to them."""
    request = context.request
    if request.response_format is not None or request.tools:
        return PROPERTIES
    texts = [message.text for message in request.conversation if message.role in ("system", "user")]
    reworded = context.instruction
    for aspect in bank.aspects:
        reworded = reworded.replace(aspect.text, "")
    return set[str]().union(*map(fixed_by, [*texts, reworded]))


def _suitable(context: MutationContext, bank: Bank, aspects: Iterable[Aspect], fixed: Set[str]) -> list[Aspect]:
    """Sentences that no earlier instruction of the search has and that contradict nothing."""
    entries = (entry.instruction for entry in context.archive)
    seen = "\0".join([*context.tried, *entries, *context.accepted, *context.refused, context.instruction])
    own = {aspect.kind for aspect in bank.aspects if aspect.text in context.instruction}
    return [
        aspect
        for aspect in aspects
        if aspect.text not in seen and not aspect.changes & fixed and not conflict(aspect.kind, own)
    ]


def _earned(context: MutationContext, aspects: Iterable[Aspect]) -> Mapping[str, float]:
    """What each kind earned in the search's answers: the mean standardized reward, drawn towards what was known."""
    rewards = [answer.reward for answer in context.answers]
    mean, spread = (fmean(rewards), pstdev(rewards)) if rewards else (0.0, 0.0)
    kinds: dict[str, list[Aspect]] = defaultdict(list)
    for aspect in aspects:
        kinds[aspect.kind].append(aspect)
    earned = {}
    for kind, own in kinds.items():
        under = [a for a in context.answers if spread and any(one.text in a.instruction for one in own)]
        known = max(one.worth for one in own)
        earned[kind] = (known + sum((a.reward - mean) / spread for a in under)) / (1 + len(under))
    return earned
