"""A mutation in the making: the rewordings that passed, and what they took."""

from __future__ import annotations

from collections.abc import Sequence

from darwin_align.core.budget import Usage
from darwin_align.core.exploration import Exploration
from darwin_align.core.seeds import derive
from darwin_align.core.types import Population
from darwin_align.operators.checks.wording import repeats
from darwin_align.operators.context import MutationContext
from darwin_align.operators.rewording import filled_note
from darwin_align.operators.tracing import cut

__all__ = ["Draft"]

_LONGEST_REASON = 100


class Draft:
    """The instructions of a population that is being reworded.

    Args:
        population: before the mutation.
        explores: whether its places are wanted to hold something else than the parent.
    """

    def __init__(self, population: Population, *, explores: bool) -> None:
        self.population = population
        self.groups = population.groups()
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.figures = Exploration(places=len(self.groups) if explores else 0)

    @property
    def missing(self) -> int:
        """Places without a rewording."""
        return len(self.groups) - len(self.accepted)

    def context(self, attempt: int | str, n: int) -> MutationContext:
        """The context of a mutator's next call, for n rewordings."""
        return MutationContext.before(
            self.population,
            n=n,
            seed=derive(self.population.step.seed, "mutate", attempt),
            accepted=tuple(self.accepted),
            refused=tuple(self.refused),
        )

    def spend(self, usage: Usage) -> None:
        """Add usage."""
        self.population = self.population.spend(usage)

    def note(self, *notes: str) -> None:
        """Add notes."""
        self.population = self.population.note(*notes)

    def copies(self, mutation: str) -> str | None:
        """The reason to refuse a rewording that is the parent or an accepted one in nearly the same words."""
        if repeats(mutation, [self.population.parent]):
            return "it is a copy of the instruction"
        return "it is a copy of another rewording" if repeats(mutation, self.accepted) else None

    def accept(self, mutation: str) -> None:
        """Keep a rewording."""
        self.accepted.append(mutation)

    def refuse(self, mutation: str, reason: str) -> None:
        """Note a rewording that is not kept."""
        self.refused.append(mutation)
        self.note(f"refused {cut(mutation, 300)!r}: {reason}")
        kind = cut(reason.partition(":")[0], _LONGEST_REASON)
        self.count(Exploration(refused={kind: 1}))

    def count(self, figures: Exploration) -> None:
        """Add figures."""
        self.figures += figures

    def count_tokens(self, decoded: int, requested: int, accepted: int) -> None:
        """Add the tokens of a call for so many rewordings of which so many were accepted."""
        wasted = decoded - decoded * accepted // requested if requested else decoded
        self.count(Exploration(tokens=decoded, wasted_tokens=wasted))

    def filled(self) -> Population:
        """The population under its new instructions; the parent takes the places that are left."""
        missing = self.missing
        if missing:
            self.note(filled_note(missing, len(self.groups)))
        if self.figures.places:
            self.count(Exploration(accepted=len(self.accepted), filled_by_parent=missing))
        return self._reworded([*self.accepted, *[self.population.parent] * missing])

    def _reworded(self, instructions: Sequence[str]) -> Population:
        beams = {
            i: self.population.beams[i].model_copy(update={"instruction": instruction})
            for instruction, group in zip(instructions, self.groups, strict=True)
            for i in group
        }
        return self.population.with_beams(beams, exploration=self.figures)
