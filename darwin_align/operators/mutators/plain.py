"""Mutators that call no model: templates, clauses, a function, or none at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from darwin_align.core.budget import Usage
from darwin_align.core.clauses import Clause, sentences, with_clauses
from darwin_align.core.seeds import below, derive, gumbel
from darwin_align.operators.context import MutationContext
from darwin_align.operators.mutator import Mutator
from darwin_align.operators.report import Report
from darwin_align.operators.signatures import check_signature, first_argument, takes
from darwin_align.operators.usage import with_policy_usage

__all__ = ["ClauseMutator", "FunctionMutator", "IdentityMutator", "RuleMutator"]

MUTATE = "mutate(context) -> list[str]"
"""The call of a mutator's function."""


class RuleMutator(Mutator):
    """A table of templates with ``{instruction}``, drawn without repetition as long as there are enough.

    >>> rules = RuleMutator(templates=("{instruction} Explain step by step.", "{instruction} Name what can go wrong."))
    >>> sorted(rules.mutate(MutationContext.of("Hi", n=2, seed=1)))
    ['Hi Explain step by step.', 'Hi Name what can go wrong.']
    """

    templates: tuple[str, ...] = Field(min_length=1)

    def mutate(self, context: MutationContext) -> list[str]:
        """Fill n templates."""
        base = context.request.instruction  # templates on top of templates would pile up over the cycles
        chosen: list[str] = []
        for i in range(context.n):
            rest = [template for template in self.templates if template not in chosen] or list(self.templates)
            chosen.append(rest[below(len(rest), context.seed, i)])
        return [template.replace("{instruction}", base) for template in chosen]


class ClauseMutator(Mutator):
    """Adds clauses that have served before: no tokens are spent on rewording.

    Each mutation is the instruction with one or more clauses, drawn without replacement in proportion to
    ``exp(worth / temperature)``. Clauses that stand there already are left out.

    >>> clauses = (Clause(text="Leave nothing out.", worth=0.6), Clause(text="Be brief.", worth=-0.6))
    >>> ClauseMutator(clauses=clauses, most=1).mutate(MutationContext.of("Hi!", n=2, seed=1))
    ['Hi! Leave nothing out.', 'Hi! Leave nothing out.']
    """

    clauses: tuple[Clause, ...] = Field(min_length=1)
    """From :func:`~darwin_align.core.learning.learn_clauses`, or your own."""
    most: int = Field(3, gt=0)
    """Clauses that one mutation adds at most; their number is drawn uniformly."""
    temperature: float = Field(0.15, gt=0)
    """In standard deviations of the reward: the smaller, the more the best clauses are preferred."""

    def mutate(self, context: MutationContext) -> list[str]:
        """Add clauses n times."""
        instruction = context.instruction
        here = set(sentences(instruction))
        pool = [clause for clause in self.clauses if not set(sentences(clause.text)) <= here]
        drawn = [self._drawn(pool, derive(context.seed, i)) for i in range(context.n)]
        return [with_clauses(instruction, clauses) for clauses in drawn]

    def _drawn(self, pool: Sequence[Clause], seed: int) -> list[str]:
        perturbed = {clause.text: clause.worth / self.temperature + gumbel(seed, clause.text) for clause in pool}
        return sorted(perturbed, key=perturbed.__getitem__, reverse=True)[: 1 + below(self.most, seed)]


class IdentityMutator(Mutator):
    """No exploration: every beam decodes the parent instruction (best-of-n and sample-and-replace).

    >>> IdentityMutator().mutate(MutationContext.of("Hi", n=2))
    ['Hi', 'Hi']
    """

    explores: ClassVar[bool] = False

    def mutate(self, context: MutationContext) -> list[str]:
        """Return the instruction n times."""
        return [context.instruction] * context.n


class FunctionMutator(Mutator):
    """A function of one context, ``(context) -> up to n rewordings``, plain or ``async``.

    One of four arguments, ``(request, instruction, n, seed)``, is taken as well.

    >>> FunctionMutator(function=lambda context: [f"{context.instruction} Be kind."]).mutate(MutationContext.of("Hi!"))
    ['Hi! Be kind.']
    """

    function: Callable[..., object]

    @field_validator("function")
    @classmethod
    def _callable_so(cls, function: Callable[..., object]) -> Callable[..., object]:
        if not takes(function, 4):
            check_signature("mutator", function, MUTATE)
        return function

    def mutate(self, context: MutationContext) -> Any:
        """Call the function; tokens of LangChain models that it calls are counted."""
        four = (context.request, context.instruction, context.n, context.seed)
        arguments = four if takes(self.function, 4) and first_argument(self.function) != "context" else (context,)
        reply, spent = with_policy_usage(self.function)(*arguments)
        return reply if isinstance(reply, Report) or spent == Usage() else Report(reply, spent)
