"""Notes and warnings about rewordings that could not be used."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from darwin_align.core.events import Event, Question
from darwin_align.core.types import Population
from darwin_align.operators.tracing import cut

__all__ = ["ParentShare", "filled_note", "unread"]

logger = logging.getLogger(__name__)

_MOST = 300
_FILLED = re.compile(r"the parent fills (\d+) of \d+ places")
_TOO_FEW = "hardly any rewording could be used:"
_ADVICE = (
    "The notes say what the mutator wrote and why it was refused. Try another mutation_prompt=…, "
    "mutator=ClauseMutator(clauses=…) or RuleMutator(templates=…), or a chat model that follows instructions as "
    "mutator=…"
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


class ParentShare:
    """The share of a search's mutations that are the unchanged parent.

    It is read from the events' notes, so that a replay counts alike. When the last cycle is reworded and it is more
    than half, the reply gets a warning.

    Args:
        cycles: mutation cycles of the search.
    """

    def __init__(self, cycles: int) -> None:
        self._last_cycle = cycles - 1
        self._missing = self._total = 0

    def see(self, question: Question, event: Event) -> None:
        """Count an event, recorded or new."""
        if event.operator == "mutate" and event.answered:
            self._missing += _missing(event.delta.notes)
            self._total += len(question.population.groups())

    def noted(self, question: Question, reply: Population) -> Population:
        """Return a mutator's reply, with the warning if it applies; any other reply unchanged."""
        last = question.operator == "mutate" and question.population.step.cycle == self._last_cycle
        if not last or not isinstance(reply, Population):
            return reply
        missing = self._missing + _missing(reply.notes)
        total = self._total + len(question.population.groups())
        if 2 * missing <= total:
            return reply
        warning = f"{_TOO_FEW} {filled_note(missing, total)} of this search. {_ADVICE}"
        logger.warning("%s", warning)
        return reply.note(warning)


def _missing(notes: Iterable[str]) -> int:
    return sum(int(found[1]) for note in notes if (found := _FILLED.fullmatch(note)))
