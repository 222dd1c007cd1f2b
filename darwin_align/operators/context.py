"""What a mutator is given: the instruction to reword, and what its search knows."""

from __future__ import annotations

from typing import Any, Self

from darwin_align.core.archive import Entry
from darwin_align.core.exploration import ScoredAnswer
from darwin_align.core.record import Record
from darwin_align.core.types import Population, Request

__all__ = ["MutationContext"]


class MutationContext(Record):
    """What a mutator is given.

    >>> context = MutationContext.of("How do I brew green tea?", n=2, seed=7)
    >>> context.instruction, context.n, context.best
    ('How do I brew green tea?', 2, None)
    """

    request: Request
    """The original conversation, with its own instruction."""
    instruction: str
    """The parent: the one to reword, which descends from ``request.instruction``."""
    n: int
    """Rewordings that are wanted at most."""
    seed: int
    """Of this call. The same context gives the same rewordings, if a mutator draws by nothing else."""
    reward: float | None = None
    """The parent's reward in the archive; ``None`` while nothing was scored."""
    answers: tuple[ScoredAnswer, ...] = ()
    """The search's finished answers, best first."""
    archive: tuple[Entry, ...] = ()
    """Instructions that the search descends from, with the best reward seen under each."""
    tried: tuple[str, ...] = ()
    """Every instruction that an answer was decoded under."""
    accepted: tuple[str, ...] = ()
    """Rewordings of this mutation that passed the checks already, when a mutator is called once more."""
    refused: tuple[str, ...] = ()
    """Those that a check refused."""

    @property
    def best(self) -> ScoredAnswer | None:
        """The best answer so far; ``None`` while there is none."""
        return self.answers[0] if self.answers else None

    @property
    def worst(self) -> ScoredAnswer | None:
        """The worst answer so far; ``None`` while there are fewer than two."""
        return self.answers[-1] if len(self.answers) > 1 else None

    @classmethod
    def of(cls, request: str | Request, *, n: int = 1, seed: int = 0, **known: Any) -> Self:
        """The context of a first mutation, to call a mutator by hand.

        Args:
            request: it, or the text of one.
            n: rewordings that are wanted.
            seed: of the call.
            known: further fields.
        """
        given = Request.of(request) if isinstance(request, str) else request
        return cls(**{"request": given, "instruction": given.instruction, "n": n, "seed": seed, **known})

    @classmethod
    def before(cls, population: Population, **call: Any) -> Self:
        """The context of a call within the mutation of a population; ``call`` gives the further fields."""
        known = population.known
        return cls(
            request=population.request,
            instruction=population.parent,
            reward=known.parent_reward,
            answers=known.answers,
            archive=known.archive,
            tried=known.tried,
            **call,
        )
