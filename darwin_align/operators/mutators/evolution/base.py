"""A mutator that makes some of the places itself and leaves the others to another one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from darwin_align.core.errors import ConfigError
from darwin_align.operators.base import MethodCall, Resource
from darwin_align.operators.draft import Draft
from darwin_align.operators.mutator import Check, Mutator
from darwin_align.operators.policy import current_allowance

__all__ = ["Evolved"]


def _mutator(given: object) -> object:
    if not isinstance(given, Mutator):
        raise ConfigError(f"inner must be a Mutator, which makes the other places, not {given!r:.80}")
    return given


class Evolved(Mutator):
    """Base of mutators that build on the search so far: while it has found nothing yet, the inner one makes all."""

    inner: Annotated[Mutator, BeforeValidator(_mutator)]
    """Makes the places that are left."""
    places: int = Field(2, gt=0)
    """Places of one mutation that this mutator makes itself at most."""

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The inner mutator's."""
        return self.inner.resources

    async def prepare(self) -> None:
        """Prepare the inner mutator."""
        await self.inner.prepare()

    @property
    def prepares(self) -> bool:
        """Whether the inner one does."""
        return self.inner.prepares

    def guarded(self, *checks: Check) -> Mutator:
        """Return this mutator with further checks, which hold for the inner one as well."""
        return self.model_copy(update={"checks": (*self.checks, *checks), "inner": self.inner.guarded(*checks)})

    def _fill(self, draft: Draft) -> Generator[MethodCall, Any, None]:
        wanted = min(self.places, draft.missing)
        if draft.population.known.answers and not current_allowance.get().spent:
            yield from self._attempt(draft, type(self).__name__, wanted)
        yield from self.inner._fill(draft)
