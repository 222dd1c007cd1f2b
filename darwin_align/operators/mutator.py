"""The mutator: rewords the parent instruction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar

from darwin_align.core.budget import Usage
from darwin_align.core.errors import OperatorError
from darwin_align.core.types import OperatorName, Population, Request
from darwin_align.operators.base import Dialogue, MethodCall, Operator, Reply
from darwin_align.operators.context import MutationContext
from darwin_align.operators.draft import Draft
from darwin_align.operators.policy import (
    current_allowance,
)
from darwin_align.operators.report import Report
from darwin_align.operators.signatures import check_mutate
from darwin_align.operators.usage import with_policy_usage

__all__ = ["Check", "Mutator"]

Check = Callable[[Request, str], Reply[str | None]]
"""``check(request, mutation)`` returns the reason for which a mutation is refused, or ``None``."""


class Mutator(Operator):
    """Rewords the parent instruction: override :meth:`mutate`.

    A mutation that a check refuses, or that is missing, is requested once more; then the parent is used instead. The
    event's notes report both, and ``result.exploration`` counts them.

    Raises:
        ConfigError: where a subclass is defined whose ``mutate`` takes other arguments than one context.
    """

    role: ClassVar[OperatorName] = "mutate"
    explores: ClassVar[bool] = True
    """Whether it is meant to return something else than the parent."""
    refuses_copies: ClassVar[bool] = False
    """Whether a copy of the parent, or of another rewording of the same mutation, is refused."""
    checks: tuple[Check, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "mutate" in vars(cls):
            check_mutate(cls.__name__, vars(cls)["mutate"])

    @abstractmethod
    def mutate(self, context: MutationContext) -> Reply[list[str] | Report[list[str]]]:
        """Return up to ``context.n`` rewordings of ``context.instruction``."""

    async def prepare(self) -> None:
        """Do what has to be done once, e.g. measure a model. Searches call it outside their budget."""

    @property
    def prepares(self) -> bool:
        """Whether :meth:`prepare` is overridden."""
        return type(self).prepare is not Mutator.prepare

    def guarded(self, *checks: Check) -> Mutator:
        """Return this mutator with further checks."""
        return self.model_copy(update={"checks": (*self.checks, *checks)})

    def _dialogue(self, population: Population) -> Dialogue:
        draft = Draft(population, explores=self.explores)
        yield from self._fill(draft)
        return draft.filled()

    def _fill(self, draft: Draft) -> Generator[MethodCall, Any, None]:
        """Fill a draft's places, as far as rewordings are found for them."""
        for attempt in range(2):
            if draft.missing and not current_allowance.get().spent:
                yield from self._attempt(draft, attempt)

    def _attempt(self, draft: Draft, attempt: int | str, most: int | None = None) -> Generator[MethodCall, Any, None]:
        """Call for the missing rewordings once, or for at most so many of them, and check them."""
        missing, before = min(draft.missing, most or draft.missing), len(draft.accepted)
        report = Report.of((yield self.mutate, (draft.context(attempt, missing),)))
        draft.spend(report.usage)
        draft.note(*report.notes)
        current_allowance.set(current_allowance.get().after(report.usage))
        for mutation in _mutations(report.answer, missing):
            reason, spent = yield from self._refusal(draft.population.request, mutation)
            draft.spend(spent)
            if self.refuses_copies:
                reason = reason or draft.copies(mutation)
            if reason:
                draft.refuse(mutation, reason)
            else:
                draft.accept(mutation)
        draft.count_tokens(report.usage.decoded_tokens, missing, len(draft.accepted) - before)

    def _refusal(
        self, request: Request, mutation: str
    ) -> Generator[MethodCall, tuple[str | None, Usage], tuple[str | None, Usage]]:
        """The reason to refuse, and the usage of models in the checks."""
        spent = Usage()
        if not mutation.strip():
            return "it is blank", spent
        for check in self.checks:
            reason, more = yield with_policy_usage(check), (request, mutation)
            spent += more
            if reason:
                return str(reason), spent
        return None, spent


def _mutations(answer: object, most: int) -> Sequence[str]:
    if not isinstance(answer, list | tuple) or not all(isinstance(mutation, str) for mutation in answer):
        raise OperatorError(f"mutate must return a list of texts, not {answer!r:.80}")
    if len(answer) > most:
        raise OperatorError(f"the mutator was called for {most} instructions and returned {len(answer)}")
    return answer
