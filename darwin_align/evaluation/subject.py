"""The search under evaluation, with the name and the settings that identify it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from darwin_align.core import Request
from darwin_align.core.errors import ContextLengthError
from darwin_align.core.figures import Figure, figures_of
from darwin_align.core.json_types import Json
from darwin_align.core.seeds import derive
from darwin_align.core.types import Message

if TYPE_CHECKING:
    from darwin_align.search import DarwinSearch

__all__ = ["Subject"]

_FIGURES: tuple[Figure, ...] = (
    "reward", "first_response", "first_reward", "seed", "stop_reason", "finish_reason", "failure",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A search that takes a benchmark.

    >>> from darwin_align import SearchConfig
    >>> from darwin_align.pocket.pair import pocket_search
    >>> Subject(pocket_search(SearchConfig(cycles=0)), name="toy", seed=3).settings["seed"]
    3
    """

    search: DarwinSearch
    name: str
    """What its answers go by: ``generator`` in AlpacaEval's files, ``model_id`` in FastChat's."""
    seed: int = 0
    """Every prompt's seed is derived from it and the prompt's index."""
    models: Mapping[str, Any] = field(default_factory=dict)
    """Which models they are, in plain data: for the guard against going on with others."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides an answer, as plain data."""
        from darwin_align import __version__

        config = json.loads(self.search.config.identity)
        config.pop("schema", None)
        config.pop("seed", None)
        return {
            "version": __version__,
            "name": self.name,
            "seed": self.seed,
            "models": dict(self.models),
            "search": config,
            "sampling": self.search.sampling.model_dump(mode="json", exclude_unset=True),
        }

    def seed_at(self, *path: int | str) -> int:
        """The seed of a prompt."""
        return derive(self.seed, *path) % 2**31

    async def answer(self, turns: Sequence[Message], seed: int, **settings: Json) -> dict[str, Any]:
        """Search for an answer, and return it with the search's figures as plain data.

        A conversation that does not fit into a model is answered by an empty text, with ``error`` saying why: a
        benchmark counts it as lost instead of leaving it out.

        Raises:
            DarwinError: anything else that kept the search from an answer: it is likely to keep all others from theirs.
        """
        request = Request(conversation=tuple(turns), sampling=self.search.sampling)
        try:
            result = await self.search.ainvoke(request, seed=seed, **settings)
        except ContextLengthError as error:
            return {"output": "", "error": str(error), "seed": seed}
        figures = figures_of(result, *_FIGURES)
        return {"output": result.text, **figures, "notes": len(result.notes), **figures_of(result, "usage")}
