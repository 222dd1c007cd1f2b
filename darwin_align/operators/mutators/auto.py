"""The default mutator: the policy rewords if it can, and guidance sentences do the rest."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from pydantic import Field

from darwin_align.core.exploration import Exploration
from darwin_align.core.types import Request
from darwin_align.formats.request_formats import takes_calls
from darwin_align.operators.base import MethodCall, Resource
from darwin_align.operators.context import MutationContext
from darwin_align.operators.draft import Draft
from darwin_align.operators.mutator import Mutator
from darwin_align.operators.mutators.aspects import AspectMutator
from darwin_align.operators.mutators.policy import PolicyMutator
from darwin_align.operators.mutators.probe import Probe, probed
from darwin_align.operators.policy import current_allowance
from darwin_align.operators.portal import acall
from darwin_align.operators.report import Report

__all__ = ["AutoMutator"]


def _is_prose(request: Request) -> bool:
    """Whether an answer is free text."""
    return request.response_format is None and not takes_calls(request)


class AutoMutator(Mutator):
    """The policy rewords as far as it can; guidance sentences take the places that it leaves empty.

    The policy is asked for all rewordings at once. If at least half of them pass the checks, it is asked once more for
    those that are missing; if fewer do, it is not asked again in this search. Places that are then still empty are
    filled by an :class:`~darwin_align.operators.mutators.aspects.AspectMutator`; where the answer is to be a tool call
    or an object, by the parent, because advice on how to write does not make a call better.

    A policy that cannot reword at all is not asked in searches. Whether it can is tried once for each policy object, on
    one fixed request with a fixed seed, when a search first needs to know: so no search depends on which ones ran
    before. These tokens belong to no search's usage or budget; ``result.exploration`` names them as ``probe_tokens``. A
    policy that declares ``Capabilities(rewords=…)`` is not tried (a
    :class:`~darwin_align.backends.scripted.ScriptedPolicy` declares that it cannot). An error that it raises when it is
    tried counts as the mutator's, as one in a rewording does. A replay tries nothing.
    """

    rewording: PolicyMutator
    """The policy, with its prompt."""
    aspects: AspectMutator = Field(default_factory=AspectMutator)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The policy."""
        return self.rewording.resources

    async def prepare(self) -> None:
        """Try out the policy, if it was not yet."""
        await acall(probed, self.rewording)

    async def mutate(self, context: MutationContext) -> Report[list[str]]:
        """Return the policy's rewordings, unchecked, and guidance sentences for the ones that are missing."""
        probe: Probe = await acall(probed, self.rewording)
        found = Report.of(await acall(self.rewording.mutate, context)) if probe.able else Report[list[str]]([])
        if not _is_prose(context.request):
            return found
        rest = context.model_copy(update={"n": context.n - len(found.answer), "accepted": tuple(found.answer)})
        added = self.aspects.mutate(rest)
        return Report([*found.answer, *added.answer], found.usage, (*found.notes, *added.notes))

    def _fill(self, draft: Draft) -> Generator[MethodCall, Any, None]:
        probe: Probe = yield probed, (self.rewording,)
        draft.count(Exploration(probe_tokens=probe.tokens))
        if not probe.able:
            draft.count(Exploration(policy_given_up=True))
            if probe.wanted:
                draft.note(
                    f"the policy cannot reword ({probe.accepted} of {probe.wanted} when it was tried): guidance "
                    "sentences are added to the instruction instead"
                )
        elif not draft.population.known.exploration.policy_given_up and not current_allowance.get().spent:
            yield from self._ask_policy(draft)
        if _is_prose(draft.population.request):
            yield from self._guide(draft)

    def _guide(self, draft: Draft) -> Generator[MethodCall, Any, None]:
        before = len(draft.accepted)
        for attempt in ("aspects", "other aspects"):  # a guard may refuse some
            if draft.missing:
                yield from self._attempt_by(self.aspects, draft, attempt)
        draft.count(Exploration(filled_by_aspects=len(draft.accepted) - before))

    def _ask_policy(self, draft: Draft) -> Generator[MethodCall, Any, None]:
        before, places = len(draft.accepted), draft.missing
        yield from self._attempt_by(self.rewording, draft, 0)
        accepted = len(draft.accepted) - before
        if 2 * accepted < places:
            draft.count(Exploration(policy_given_up=True))
            draft.note(
                f"only {accepted} of {places} rewordings of the policy could be used: guidance sentences fill the "
                "other places, and it is not asked again in this search"
            )
        elif draft.missing and not current_allowance.get().spent:
            yield from self._attempt_by(self.rewording, draft, 1)

    def _attempt_by(self, mutator: Mutator, draft: Draft, attempt: int | str) -> Generator[MethodCall, Any, None]:
        """Let another mutator make rewordings that also have to pass this one's checks."""
        yield from mutator.guarded(*self.checks)._attempt(draft, attempt)
