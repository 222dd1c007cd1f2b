"""Questions, and events that answer them.

A search is sent events, never populations: an event contains what the answer changed, and core applies it to the
question's population. So a live run and a replay take the same path, and events are progress, trace and checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError

from darwin_align.core.budget import Usage
from darwin_align.core.errors import OperatorError, ReplayError
from darwin_align.core.exploration import Exploration
from darwin_align.core.json_types import Json
from darwin_align.core.laws import check_answer
from darwin_align.core.record import Record
from darwin_align.core.types import Beam, OperatorName, Population

__all__ = ["Event", "Question"]

_GROWING = ("text", "thoughts", "tokens")
"""Fields of a beam of which an event holds what was added."""


class Delta(Record):
    """What an answer changed: fields by beam index, text and token ids as (kept length, what follows)."""

    beams: dict[int, dict[str, Any]] = Field(default_factory=dict)
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    exploration: Exploration | None = None
    """What came of a mutation's rewordings; ``None`` for other operators, and in recordings that have no figures."""


class Event(Record):
    """One answered question."""

    search: int = 0
    """Fingerprint of the request and the settings, seed included."""
    operator: OperatorName
    cycle: int
    step: int
    delta: Delta
    seconds: float = 0.0
    """Time that the operator took. Two runs with the same seed may differ in it, in how many tokens were read (those in
    a cache are not), and in the last digits of rewards and log-probabilities."""
    failure: str | None = None
    """Why the operator gave no answer and never will. The search ended here, and the delta is empty; a replay of the
    events before this one calls it again."""
    interrupted: bool = False
    """Whether the operator was interrupted by the end of the budget's time. The search ended here, and the delta is
    empty."""

    @property
    def answered(self) -> bool:
        """Whether the operator gave an answer."""
        return self.failure is None and not self.interrupted


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a search: send back :meth:`answered`, or :meth:`failed`."""

    operator: OperatorName
    population: Population
    search: int = 0
    has_best: bool = False
    """Whether anything was scored so far. Only then may the search end with :meth:`failed`."""
    _folds: list[tuple[Event, Population]] = field(default_factory=list, init=False, repr=False, compare=False)
    """The last event and the population that it led to: the driver and the algorithm both fold a live event."""

    def answered(self, population: Population, seconds: float = 0.0) -> Event:
        """Return the event with the changes that an operator's answer made.

        Args:
            population: the operator's answer.
            seconds: how long it took.

        Raises:
            OperatorError: the answer changed what this operator must leave alone.
        """
        check_answer(self.operator, self.population, population)
        before = self.population
        pairs = zip(before.beams, population.beams, strict=True)
        changed = {i: _changes(before, old, new) for i, (old, new) in enumerate(pairs) if old is not new and old != new}
        spent = population.usage - before.usage
        notes = population.notes[len(before.notes) :]
        return self._event(Delta(beams=changed, usage=spent, notes=notes, exploration=population.exploration), seconds)

    def failed(self, failure: str, seconds: float = 0.0) -> Event:
        """Return the event of an operator that failed for good: the search then ends with the best so far.

        Args:
            failure: what went wrong, for a reader.
            seconds: how long it took to fail.
        """
        return self._event(Delta(), seconds, failure=failure)

    def interrupted(self, seconds: float = 0.0) -> Event:
        """Return the event of an operator that the budget's time interrupted: the search ends with the best so far.

        Args:
            seconds: how long it ran.
        """
        return self._event(Delta(), seconds, interrupted=True)

    def _event(self, delta: Delta, seconds: float, *, failure: str | None = None, interrupted: bool = False) -> Event:
        step = self.population.step
        return Event(
            search=self.search,
            operator=self.operator,
            cycle=step.cycle,
            step=step.index,
            delta=delta,
            seconds=seconds,
            failure=failure,
            interrupted=interrupted,
        )

    def fold(self, event: Event) -> Population:
        """Return this question's population with the event's changes.

        Raises:
            ReplayError: the event answers another question, or one of another search, or is a failure where there is
                nothing to end with.
            OperatorError: a changed field has a value of a wrong kind.
        """
        if self._folds and self._folds[0][0] is event:
            return self._folds[0][1]
        self._check_own(event)
        population = self.population
        beams = {i: _changed(population, population.beams[i], fields) for i, fields in event.delta.beams.items()}
        usage, exploration = population.usage + event.delta.usage, event.delta.exploration
        after = population.with_beams(beams, usage=usage, exploration=exploration).note(*event.delta.notes)
        self._folds[:] = [(event, after)]
        return after

    def _check_own(self, event: Event) -> None:
        step = self.population.step
        expected, recorded = (self.operator, step.cycle, step.index), (event.operator, event.cycle, event.step)
        if event.search != self.search:
            raise ReplayError(
                "the recorded event belongs to a search with another request, seed or setting: "
                "replay events with those that they were recorded with"
            )
        if expected != recorded:
            raise ReplayError(
                f"the search's question is {expected} (operator, cycle, step) but the recorded event "
                f"answers {recorded}: "
                "replay events with the request, settings and seed that they were recorded with"
            )
        if event.failure is not None and not self.has_best:
            raise ReplayError(
                f"the event reports that {self.operator} failed, but nothing was scored that the search could "
                "end with: leave the event out, and the operator is called again"
            )


def _changes(before: Population, old: Beam, new: Beam) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if new.ancestor is not None and new.ancestor != old.ancestor:
        changes["ancestor"] = new.ancestor.model_dump()
        old = old.take_state(before.beams[new.ancestor.beam])
    for name in [name for name in Beam.model_fields if name != "ancestor"]:  # a set's order would differ by process
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            changes[name] = _tail(was, now) if name in _GROWING else now
    return changes


def _tail(was: str | tuple[int, ...], now: str | tuple[int, ...]) -> list[Json]:
    kept = len(was)
    if now[:kept] != was:
        kept = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    added = now[kept:]
    return [kept, added if isinstance(added, str) else list(added)]


def _changed(before: Population, beam: Beam, changes: dict[str, Any]) -> Beam:
    fields = dict(changes)
    if ancestor := fields.get("ancestor"):
        beam = beam.take_state(before.beams[ancestor["beam"]])
    for name in _GROWING:
        if name in fields:
            kept, added = fields[name]
            fields[name] = getattr(beam, name)[:kept] + type(getattr(beam, name))(added)
    try:
        return Beam.model_validate({**dict(beam), **fields})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise OperatorError(f"a beam's {wrong['loc'][0]} cannot be {wrong['input']!r:.80}: {wrong['msg']}") from None
