"""Notes and warnings about rewordings that could not be used."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from darwin_align.core.events import Question
from darwin_align.core.exploration import Exploration
from darwin_align.core.types import Population
from darwin_align.operators.tracing import cut

__all__ = ["filled_note", "unread", "warned_of_few"]

logger = logging.getLogger(__name__)

_MOST = 300
_TOO_FEW = "hardly any rewording could be used:"
_ADVICE = (
    "The notes say what the mutator wrote and why it was refused. Try mutator='auto' or 'aspects', another "
    "mutation_prompt=…, mutator=ClauseMutator(clauses=…) or RuleMutator(templates=…), or a chat model that follows "
    "instructions as mutator=…"
)


def unread(replies: Iterable[str]) -> tuple[str, ...]:
    """Notes of replies in which no rewording was found, each cut to a few hundred characters.

    >>> unread(["I cannot do that."])
    ("no rewording was found in the reply 'I cannot do that.'",)
    """
    return tuple(f"no rewording was found in the reply {cut(reply, _MOST)!r}" for reply in replies)


def filled_note(missing: int, total: int) -> str:
    """The note of a mutation in which the parent replaces missing rewordings."""
    return f"the parent fills {missing} of {total} places"


def warned_of_few(question: Question, reply: Population, cycles: int) -> Population:
    """Return a mutator's reply, with a warning if the parent fills more than half of the places of a whole search.

    Args:
        question: that was asked.
        reply: of any operator.
        cycles: mutation cycles of the search: the warning comes with the last one.
    """
    population = question.population
    if question.operator != "mutate" or population.step.cycle != cycles - 1 or not isinstance(reply, Population):
        return reply
    figures = population.known.exploration + (reply.exploration or Exploration())
    if 2 * figures.filled_by_parent <= figures.places:
        return reply
    warning = f"{_TOO_FEW} {filled_note(figures.filled_by_parent, figures.places)} of this search. {_ADVICE}"
    logger.warning("%s", warning)
    return reply.note(warning)
