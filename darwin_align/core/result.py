"""What a search returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from darwin_align.core.archive import Archive
from darwin_align.core.budget import Usage
from darwin_align.core.config import SearchConfig
from darwin_align.core.events import Event
from darwin_align.core.noun import Noun
from darwin_align.core.types import Beam, Request

__all__ = ["SearchResult"]


class SearchResult(Noun):
    """The answer and how it was found. ``.text`` is the one obvious answer."""

    request: Request
    config: SearchConfig
    """With the seed that was used."""
    best: Beam
    first_response: Beam
    """A plain sample of the original instruction."""
    ranking: tuple[Beam, ...]
    """Finished beams with different texts, best first."""
    archive: Archive
    events: tuple[Event, ...]
    usage: Usage
    cycles: int
    """Mutation cycles that were begun."""
    stop_reason: str
    """"cycles" when all were done, else what ended the search: the limit, "budget: tokens" and so on, or the operator
    that failed for good, "failure: decode" and so on."""
    failure: str | None = None
    """What the operator that failed for good said; ``None`` if none did."""

    @property
    def text(self) -> str:
        """The answer."""
        return self.best.text

    @property
    def reward(self) -> float | None:
        """Reward of the answer; ``None`` if the budget ended before anything was scored."""
        return self.best.reward

    @property
    def instruction(self) -> str:
        """The instruction under which the answer was decoded."""
        return self.best.instruction

    @property
    def notes(self) -> tuple[str, ...]:
        """What operators want a reader to know, each once: fallbacks, refused mutations, how a server is asked."""
        return tuple(dict.fromkeys(note for event in self.events for note in event.delta.notes))

    @classmethod
    def of(
        cls,
        *,
        request: Request,
        config: SearchConfig,
        beams: Sequence[Beam],
        archive: Archive,
        events: Sequence[Event],
        usage: Usage,
        cycles: int,
        stop_reason: str,
        failure: str | None,
    ) -> SearchResult:
        """Choose the best of the beams; the first one is the first response."""
        scored = [beam for beam in beams if beam.finished and beam.reward is not None]
        ranking = tuple(_distinct(sorted(scored, key=_rank)))
        return cls(
            request=request,
            config=config,
            best=ranking[0] if ranking else _cut(min(beams, key=_rank)),
            first_response=beams[0] if beams[0].finished else _cut(beams[0]),
            ranking=ranking,
            archive=archive,
            events=tuple(events),
            usage=usage,
            cycles=cycles,
            stop_reason=stop_reason,
            failure=failure,
        )


def _rank(beam: Beam) -> tuple[bool, float]:
    # Sorting is stable: among equals the earliest, so the first response is only replaced by something better.
    return (not beam.valid or beam.held, -beam.reward if beam.reward is not None else float("inf"))


def _cut(beam: Beam) -> Beam:
    # A tool call that is cut cannot be made.
    return beam.model_copy(update={"finish_reason": "length", "valid": beam.valid and not beam.held, "held": False})


def _distinct(beams: Iterable[Beam]) -> Iterable[Beam]:
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for beam in beams:
        if (key := (beam.text, beam.tokens)) not in seen:
            seen.add(key)
            yield beam
