"""Dynamics: how the sets of best beams change from step to step, as the paper's appendix plots them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Self

from darwin_align.core.errors import ConfigError
from darwin_align.core.record import Record
from darwin_align.core.types import Beam

if TYPE_CHECKING:
    from darwin_align.traces.lineage import Lineage
    from darwin_align.traces.record import Answered

__all__ = ["Change", "Dynamics", "Moment", "dynamics_of", "jaccard", "rank_biased_overlap"]


class Moment(Record):
    """One replacement step of one cycle."""

    cycle: int
    step: int
    best: tuple[int, ...]
    """The beams that the selector counted among the best, best first; equal ones in their order."""
    jaccard: float | None
    """Likeness to the step before, as sets; ``None`` at a cycle's first step."""
    overlap: float | None
    """Rank-biased overlap with the step before, as rankings."""
    has_winner: bool
    """Whether a beam under the cycle's winning instruction is among the best."""


class Change(Record):
    """One replacement step, as a mean over cycles and searches."""

    step: int
    cycles: int
    """How many there are to take the mean of."""
    jaccard: float | None
    overlap: float | None
    has_winner: float
    """The chance that the instruction that wins its cycle is among the best at this step."""


class Dynamics(Record):
    """All replacement steps of one search, or of many: :meth:`joined`.

    The winning instruction of a cycle is that of its best beam at the cycle's end.
    """

    moments: tuple[Moment, ...]
    p: float = 0.9
    """Persistence of the rank-biased overlap."""

    @classmethod
    def joined(cls, parts: Iterable[Dynamics]) -> Self:
        """Put searches together, for means over many.

        Raises:
            ConfigError: their overlaps are of different persistence, so that their mean has no meaning.
        """
        parts = list(parts)
        if len(kinds := {part.p for part in parts}) > 1:
            raise ConfigError(f"these overlaps were taken with different p ({sorted(kinds)}): take all with one")
        moments = tuple(moment for part in parts for moment in part.moments)
        return cls(moments=moments, p=kinds.pop()) if kinds else cls(moments=())

    def by_step(self) -> tuple[Change, ...]:
        """Means at each step over the cycles that got so far."""
        steps: dict[int, list[Moment]] = defaultdict(list)
        for moment in self.moments:
            steps[moment.step].append(moment)
        return tuple(
            Change(
                step=step,
                cycles=len(moments),
                jaccard=_mean(moments, lambda moment: moment.jaccard),
                overlap=_mean(moments, lambda moment: moment.overlap),
                has_winner=fmean(moment.has_winner for moment in moments),
            )
            for step, moments in sorted(steps.items())
        )


def jaccard(one: Iterable[Hashable], other: Iterable[Hashable]) -> float:
    """Share of the members that both sets have; two empty sets are alike.

    >>> jaccard("abc", "bcd")
    0.5
    """
    a, b = set(one), set(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def rank_biased_overlap(one: Sequence[Hashable], other: Sequence[Hashable], p: float = 0.9) -> float:
    """Likeness of two rankings that weighs agreement at depth d by ``p ** (d - 1)``.

    It is extrapolated from what is seen (Webber, Moffat and Zobel 2010, equation 32), so equal rankings have 1.

    Raises:
        ConfigError: ``p`` is not between 0 and 1.

    >>> rank_biased_overlap("ab", "ab"), rank_biased_overlap("ab", "cd")
    (1.0, 0.0)
    """
    if not 0 < p < 1:
        raise ConfigError(f"p = {p!r} is refused: the persistence of an overlap lies between 0 and 1")
    short, long = sorted((one, other), key=len)
    s, deep = len(short), len(long)
    if not s:
        return 1.0 if not deep else 0.0
    common = [len(set(short[:d]) & set(long[:d])) for d in range(deep + 1)]
    seen = sum(common[d] / d * p**d for d in range(1, deep + 1))
    beyond = sum(common[s] * (d - s) / (s * d) * p**d for d in range(s + 1, deep + 1))
    tail = ((common[deep] - common[s]) / deep + common[s] / s) * p**deep
    return min(1.0, (1 - p) / p * (seen + beyond) + tail)


def dynamics_of(answered: Sequence[Answered], lineage: Lineage, p: float) -> Dynamics:
    """Walk through a search's selections."""
    moments: list[Moment] = []
    for question, event, after in answered:
        if question.operator != "select" or not event.answered:
            continue
        beams = question.population.beams
        won = (i for i, (old, new) in enumerate(zip(beams, after.beams, strict=True)) if new.wins > old.wins)
        best = tuple(sorted(won, key=lambda i: _rank(beams[i])))
        before = moments[-1].best if moments and moments[-1].cycle == event.cycle else None
        moments.append(
            Moment(
                cycle=event.cycle,
                step=event.step,
                best=best,
                jaccard=None if before is None else jaccard(before, best),
                overlap=None if before is None else rank_biased_overlap(before, best, p),
                has_winner=_winning(lineage, event.cycle) in {beams[i].instruction for i in best},
            )
        )
    return Dynamics(moments=tuple(moments), p=p)


def _winning(lineage: Lineage, cycle: int) -> str | None:
    lanes = [lane for lane in lineage.cycles[cycle].lanes if lane.alive and not lane.first_response]
    best = min(lanes, key=lambda lane: (not lane.valid, -(lane.reward or 0.0), lane.beam), default=None)
    return None if best is None else best.instruction


def _rank(beam: Beam) -> tuple[bool, float]:
    return (not beam.valid, -(beam.reward or 0.0))


def _mean(moments: Sequence[Moment], value: Callable[[Moment], float | None]) -> float | None:
    seen = [number for moment in moments if (number := value(moment)) is not None]
    return fmean(seen) if seen else None
