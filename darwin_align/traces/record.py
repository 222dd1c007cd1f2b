"""A trace: the request, the settings, and every event. All else is replayed from it through core."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from darwin_align.core.algorithm import darwin
from darwin_align.core.budget import Usage
from darwin_align.core.config import SearchConfig
from darwin_align.core.errors import ReplayError
from darwin_align.core.events import Event, Question
from darwin_align.core.record import Record
from darwin_align.core.result import SearchResult
from darwin_align.core.types import OperatorName, Population, Request
from darwin_align.storage.atomic import replace_file
from darwin_align.traces.dynamics import Dynamics, dynamics_of
from darwin_align.traces.lineage import Lineage, lineage_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Answered", "Cost", "Trace", "write_html"]


class Answered(NamedTuple):
    """A question, the event that answered it, and the population that it led to."""

    question: Question
    event: Event
    after: Population


class Cost(Record):
    """What one answer cost."""

    operator: OperatorName
    cycle: int
    step: int
    usage: Usage
    """Its seconds are those of the event."""


class Trace(Record):
    """A whole search, to look at. :meth:`to_json` and :meth:`from_json` keep it in a file.

    Raises:
        ReplayError: the events are not those of this request and these settings, or not all of them. Every method but
            the JSON ones may contain it, for all are made from the replayed search.
    """

    request: Request
    config: SearchConfig
    """With the seed that was used."""
    events: tuple[Event, ...]

    @classmethod
    def of(cls, result: SearchResult) -> Self:
        """Take from a result what the rest follows from."""
        return cls(request=result.request, config=result.config, events=result.events)

    @property
    def result(self) -> SearchResult:
        """The result that the events led to."""
        return self._replayed[1]

    @property
    def answered(self) -> tuple[Answered, ...]:
        """Every question with its answer, in order."""
        return self._replayed[0]

    @cached_property
    def _replayed(self) -> tuple[tuple[Answered, ...], SearchResult]:
        search, answered = darwin(self.request, self.config), []
        question = next(search)
        for number, event in enumerate(self.events, start=1):
            answered.append(Answered(question, event, question.fold(event)))
            try:
                question = search.send(event)
            except StopIteration as stop:
                if number < len(self.events):
                    raise ReplayError("more events were recorded than this search asks for") from None
                return tuple(answered), stop.value
        raise ReplayError(
            f"the events end before the search does: next comes {question.operator} in cycle "
            f"{question.population.step.cycle}, step {question.population.step.index}"
        )

    @cached_property
    def _lineage(self) -> Lineage:
        return lineage_of(self.answered, self.result)

    def lineage(self) -> Lineage:
        """Which beam took which state and when, and which beam decoded which part, as plain data."""
        return self._lineage

    def costs(self) -> tuple[Cost, ...]:
        """Say what every answer cost, in order; together that is the result's usage."""
        return tuple(
            Cost(
                operator=event.operator,
                cycle=event.cycle,
                step=event.step,
                usage=event.delta.usage + Usage(seconds=event.seconds),
            )
            for event in self.events
        )

    def dynamics(self, p: float = 0.9) -> Dynamics:
        """Say how the sets of best beams changed from step to step (the paper's appendix).

        Args:
            p: persistence of the rank-biased overlap, between 0 and 1: the larger, the deeper it looks.
        """
        return dynamics_of(self.answered, self._lineage, p)

    def to_frame(self) -> pd.DataFrame:
        """Return the beams as a pandas data frame, one row for each time that one was scored.

        Raises:
            MissingPackageError: pandas is missing (extra ``frames``).
        """
        from darwin_align.traces.frames import beams_frame

        return beams_frame(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot rewards against the tokens that were decoded so far: every scored beam, and the best finished answer.

        Args:
            ax: where to draw; a new figure by default.

        Raises:
            MissingPackageError: matplotlib is missing (extra ``plots``).
        """
        from darwin_align.traces.plots import plot_trace

        return plot_trace(self, ax)

    def to_html(self) -> str:
        """Return one page that needs nothing else: no network, no other file, and scripts only for convenience."""
        from darwin_align.traces.page import page

        return page(self)

    def to_snippet(self) -> str:
        """Return the short form for a notebook's cell: the answer and its lineage, in a frame of its own."""
        from darwin_align.traces.page import snippet

        return snippet(self)


def write_html(result: SearchResult | Trace, path: str | Path) -> Path:
    """Write a result's page, whole or not at all: a reader never finds half of it.

    Returns:
        The path.

    Raises:
        OSError: the folder is missing or cannot be written to, or the disk is full.
    """
    trace = result if isinstance(result, Trace) else Trace.of(result)
    target = Path(path)
    replace_file(target, trace.to_html().encode())
    return target
