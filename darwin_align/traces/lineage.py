"""Lineage: whose state every beam went on with, and who wrote which part of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from darwin_align.core.record import Record
from darwin_align.core.result import SearchResult
from darwin_align.core.types import Beam, FinishReason, Population

if TYPE_CHECKING:
    from darwin_align.traces.record import Answered

__all__ = ["CycleLineage", "Lane", "Lineage", "Piece", "Point", "lineage_of"]


_SET_AT_THE_END = frozenset({"finish_reason", "pending_finish_reason", "valid", "in_tool_call"})


class Piece(Record):
    """What one beam added to a text in one step. A later piece that rewrites its end shortens it."""

    cycle: int
    beam: int
    step: int
    text: str


class Point(Record):
    """One beam at one step: what it decoded, what that was worth, and how it went on."""

    step: int
    source: int
    """The beam whose state of the step before it went on from: itself, unless it took another's."""
    added: str
    """The text that it decoded in this step, whatever became of it."""
    decoded: int
    """Tokens decoded in this step."""
    length: int
    """Tokens of the state after it."""
    reward: float | None = None
    valid: bool = True
    in_tool_call: bool = False
    thinking: bool = False
    finish_reason: FinishReason | None = None
    won: bool = False
    """Whether the selector counted it among the best."""
    took: int | None = None
    """The beam whose state it took after this step."""
    dropped: bool = False


class Lane(Record):
    """One beam through one cycle, and the state that it was left with."""

    cycle: int
    beam: int
    instruction: str
    first_response: bool = False
    points: tuple[Point, ...] = ()
    pieces: tuple[Piece, ...] = ()
    """One for every step in which the state grew, oldest first: joined they are the text."""
    reward: float | None = None
    thoughts: str = ""
    """What the model thought before the text."""
    length: int = 0
    wins: int = 0
    valid: bool = True
    finish_reason: FinishReason | None = None
    alive: bool = True

    @property
    def text(self) -> str:
        """The text that the beam was left with."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def place(self) -> tuple[int, int]:
        """Cycle and beam."""
        return self.cycle, self.beam


class CycleLineage(Record):
    """One mutation cycle."""

    cycle: int
    parent: str
    """The instruction that was reworded."""
    steps: int
    lanes: tuple[Lane, ...]


class Lineage(Record):
    """All cycles, and where the answer is among them."""

    cycles: tuple[CycleLineage, ...]
    winner: tuple[int, int]
    """Cycle and beam of the answer."""

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The beams of all cycles."""
        return tuple(lane for cycle in self.cycles for lane in cycle.lanes)

    @property
    def answer(self) -> Lane:
        """The beam that ended with the answer."""
        return self.at(*self.winner)

    @property
    def first_response(self) -> Lane:
        """The beam of the plain sample."""
        return next(lane for lane in self.lanes if lane.first_response)

    def at(self, cycle: int, beam: int) -> Lane:
        """Return one beam."""
        return self.cycles[cycle].lanes[beam]


class _BeamHistory:
    """A beam and its points, while the events of its cycle are read."""

    def __init__(self, beam: Beam) -> None:
        self.beam = beam
        self.pieces: list[Piece] = []
        self.points: list[Point] = []
        self.source: int | None = None

    def kept(self) -> tuple[Beam, list[Piece]]:
        return self.beam, list(self.pieces)


class _Cycle:
    def __init__(self, population: Population) -> None:
        self.cycle, self.parent, self.steps = population.step.cycle, population.parent, 0
        self.histories = [_BeamHistory(beam) for beam in population.beams]
        self.scored = [history.kept() for history in self.histories]
        self.ahead: list[Beam] | None = None  # the beams after a look-ahead, whose tokens are thrown away
        self.last: tuple[str, int] = ("", 0)

    def answered(self, answered: Answered) -> None:
        question, event, after = answered
        if not event.answered:
            self._restore()
            return
        self.steps = max(self.steps, event.step + (event.operator != "mutate"))
        if self.last == ("decode", event.step) and question.operator == "decode":  # twice in one step
            self.ahead = list(after.beams)
        else:
            {"mutate": self._mutated, "decode": self._decoded, "score": self._scored, "select": self._selected}[
                question.operator
            ](answered)
        self.last = (question.operator, event.step)

    def _mutated(self, answered: Answered) -> None:
        for history, beam in zip(self.histories, answered.after.beams, strict=True):
            history.beam = beam

    def _decoded(self, answered: Answered) -> None:
        awaited = answered.question.population.awaited
        for i, (history, beam) in enumerate(zip(self.histories, answered.after.beams, strict=True)):
            if history.beam.open and (i in awaited or not answered.question.population.thinking):
                self._grow(i, history, beam, answered.event.step)
            history.beam = beam
        self._keep_unless_waiting(answered.after)

    def _grow(self, i: int, history: _BeamHistory, beam: Beam, step: int) -> None:
        kept = _common(history.beam.text, beam.text)
        added = beam.text[kept:]
        # Bytes that are no character yet, or a stop string, may be taken back from a text.
        history.pieces = [*_shortened(history.pieces, kept), Piece(cycle=self.cycle, beam=i, step=step, text=added)]
        history.points.append(
            Point(
                step=step,
                source=i if history.source is None else history.source,
                added=added,
                decoded=beam.length - history.beam.length,
                length=beam.length,
                in_tool_call=beam.in_tool_call,
                thinking=beam.thinking,
                valid=beam.valid,
                finish_reason=beam.finish_reason,
            )
        )
        history.source = None

    def _scored(self, answered: Answered) -> None:
        before, after = answered.question.population.beams, answered.after.beams
        for history, old, new in zip(self.histories, before, after, strict=True):
            if self.ahead is None:
                history.beam = new
            elif old.reward is None and new.reward is not None:
                valid = history.beam.valid if old.valid == new.valid else new.valid
                history.beam = history.beam.model_copy(update={"reward": new.reward, "valid": valid})
            if old.reward != history.beam.reward and history.points:
                self._mark(history, reward=history.beam.reward, valid=history.beam.valid)
        self.ahead = None
        self._keep()

    def _selected(self, answered: Answered) -> None:
        before, after = answered.question.population.beams, answered.after.beams
        pieces = [list(history.pieces) for history in self.histories]
        for i, (history, old, new) in enumerate(zip(self.histories, before, after, strict=True)):
            taken = answered.event.delta.beams.get(i, {}).get("ancestor")
            point = history.points[-1] if history.points else None
            if point is not None and point.step == answered.event.step:
                self._mark(
                    history,
                    won=new.wins > old.wins,
                    took=taken and taken["beam"],
                    dropped=old.alive and not new.alive,
                    finish_reason=point.finish_reason if taken else new.finish_reason,  # a candidate ends here
                )
            if taken:
                history.pieces, history.source = pieces[taken["beam"]], taken["beam"]
            history.beam = new
        self._keep()

    def _mark(self, history: _BeamHistory, **fields: object) -> None:
        history.points[-1] = history.points[-1].model_copy(update=fields)

    def _keep_unless_waiting(self, population: Population) -> None:
        if not (population.unscored or population.waiting):
            self._keep()

    def _keep(self) -> None:
        self.scored = [history.kept() for history in self.histories]

    def _restore(self) -> None:
        # A search that breaks off counts its beams as they last stood scored.
        for history, (beam, pieces) in zip(self.histories, self.scored, strict=True):
            history.beam, history.pieces = beam, pieces

    def lineage(self) -> CycleLineage:
        lanes = tuple(_lane(self.cycle, i, history) for i, history in enumerate(self.histories))
        return CycleLineage(cycle=self.cycle, parent=self.parent, steps=self.steps, lanes=lanes)


def lineage_of(answered: Sequence[Answered], result: SearchResult) -> Lineage:
    """Read the lineage from a search's answers."""
    cycles: list[_Cycle] = []
    for one in answered:
        population = one.question.population
        if len(cycles) <= population.step.cycle:
            cycles.append(_Cycle(population))
        cycles[-1].answered(one)
    ended = [(cycle.cycle, i, history.beam) for cycle in cycles for i, history in enumerate(cycle.histories)]
    return Lineage(cycles=tuple(cycle.lineage() for cycle in cycles), winner=_winner(ended, result.best))


def _winner(ended: Sequence[tuple[int, int, Beam]], best: Beam) -> tuple[int, int]:
    order = sorted(ended, key=lambda place: not place[2].first_response)
    return next((cycle, i) for cycle, i, beam in order if beam.alive and _same(beam, best))


def _same(beam: Beam, best: Beam) -> bool:
    # A cut by the budget is in the result alone.
    return all(value == getattr(best, name) for name, value in beam if name not in _SET_AT_THE_END)


def _lane(cycle: int, i: int, history: _BeamHistory) -> Lane:
    beam = history.beam
    return Lane(
        cycle=cycle,
        beam=i,
        instruction=beam.instruction,
        first_response=beam.first_response,
        points=tuple(history.points),
        pieces=tuple(history.pieces),
        reward=beam.reward,
        thoughts=beam.thoughts,
        length=beam.length,
        wins=beam.wins,
        valid=beam.valid,
        finish_reason=beam.finish_reason,
        alive=beam.alive,
    )


def _common(was: str, now: str) -> int:
    if now.startswith(was):
        return len(was)
    return next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))


def _shortened(pieces: Sequence[Piece], length: int) -> list[Piece]:
    shorter, start = [], 0
    for piece in pieces:
        text = piece.text[: max(0, length - start)]
        shorter.append(piece if text == piece.text else piece.model_copy(update={"text": text}))
        start += len(piece.text)
    return shorter
