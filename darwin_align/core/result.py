"""What a search returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from darwin_align.core.archive import Archive
from darwin_align.core.budget import Usage
from darwin_align.core.choice import Answer, in_order
from darwin_align.core.config import SearchConfig
from darwin_align.core.events import Event
from darwin_align.core.exploration import Exploration
from darwin_align.core.record import Record
from darwin_align.core.types import Beam, Request

__all__ = ["SearchResult", "register_html"]

_html: list[Callable[[SearchResult], str]] = []
"""The notebook representation of results: empty, or one function."""


def register_html(render: Callable[[SearchResult], str]) -> None:
    """Set the function that renders results in notebooks as HTML; it replaces an earlier one."""
    _html[:] = [render]


class SearchResult(Record):
    """The answer and how it was found. ``.text`` is the answer's text."""

    request: Request
    config: SearchConfig
    """With the seed that was used."""
    best: Beam
    """The answer: the first of the ranking, or the best partial one where nothing was finished."""
    first_response: Beam
    """A plain sample of the original instruction."""
    ranking: tuple[Beam, ...]
    """Finished beams with different texts, best first; or, with ``choice="soft"``, in the order in
    which they were drawn without replacement."""
    archive: Archive
    events: tuple[Event, ...]
    usage: Usage
    cycles: int
    """Mutation cycles that were begun."""
    stop_reason: str
    """"cycles" when all were done, else what ended the search: the limit, "budget: tokens" and so on, "target_reward",
    "patience", or the operator that failed for good, "failure: decode" and so on."""
    failure: str | None = None
    """The error of the operator that failed for good; ``None`` if none did."""
    remarks: tuple[str, ...] = ()
    """Remarks of the search itself, e.g. on a budget too small for one answer."""

    @property
    def text(self) -> str:
        """The answer."""
        return self.best.text

    @property
    def thoughts(self) -> str:
        """What a reasoning model thought before the answer; empty for all others."""
        return self.best.thoughts

    @property
    def reward(self) -> float | None:
        """Reward of the answer; ``None`` if the budget ended before anything was scored."""
        return self.best.reward

    @property
    def instruction(self) -> str:
        """The instruction under which the answer was decoded."""
        return self.best.instruction

    def __repr__(self) -> str:
        """A short form, without the events."""
        about = f"reward={self.reward}, cycles={self.cycles}, stop_reason={self.stop_reason!r}"
        return f"{type(self).__name__}(text={self.text!r:.80}, {about})"

    def _repr_html_(self) -> str | None:
        return _html[0](self) if _html and self.events else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes and remarks without repetition: fallbacks, refused mutations, how a server is called, what was cut."""
        return tuple(dict.fromkeys([*(note for event in self.events for note in event.delta.notes), *self.remarks]))

    @property
    def exploration(self) -> Exploration | None:
        """What came of the rewordings; ``None`` for a recording without these figures.

        >>> from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
        >>> from darwin_align.search import DarwinSearch
        >>> search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), mutator=lambda _: ["Hi there"])
        >>> search.invoke("Hi", cycles=1, mutations=3, seed=1, max_tokens=5).exploration.filled_by_parent
        1
        """
        found = [event.delta.exploration for event in self.events if event.operator == "mutate" and event.answered]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        answers = sum(event.delta.usage.decoded_tokens for event in self.events if event.operator == "decode")
        return Exploration.sum(known).model_copy(update={"answer_tokens": answers})

    @classmethod
    def of(
        cls,
        *,
        request: Request,
        config: SearchConfig,
        answers: Sequence[Answer],
        archive: Archive,
        events: Sequence[Event],
        usage: Usage,
        cycles: int,
        stop_reason: str,
        failure: str | None,
        remarks: Sequence[str] = (),
    ) -> SearchResult:
        """Choose one of the answers; the first one is the first response."""
        ordered = [answer.beam for answer in in_order(answers, config)]
        ranking = tuple(_distinct(beam for beam in ordered if beam.finished and beam.reward is not None))
        return cls(
            request=request,
            config=config,
            best=ranking[0] if ranking else ordered[0].cut,
            first_response=answers[0].beam.cut,
            ranking=ranking,
            archive=archive,
            events=tuple(events),
            usage=usage,
            cycles=cycles,
            stop_reason=stop_reason,
            failure=failure,
            remarks=tuple(remarks),
        )


def _distinct(beams: Iterable[Beam]) -> Iterable[Beam]:
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for beam in beams:
        if (key := (beam.text, beam.tokens)) not in seen:
            seen.add(key)
            yield beam
