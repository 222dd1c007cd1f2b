"""A result's figures as plain data: what chat models, servers, batches, evaluations and the command line report."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from darwin_align.core.result import SearchResult
from darwin_align.core.types import Beam

__all__ = ["Figure", "figures_of"]

Figure = Literal[
    "thoughts",
    "reward",
    "first_response",
    "first_reward",
    "instruction",
    "cycles",
    "stop_reason",
    "finish_reason",
    "failure",
    "max_new_tokens",
    "seed",
    "usage",
    "exploration",
]


def figures_of(result: SearchResult, *names: Figure, beam: Beam | None = None) -> dict[str, JsonValue]:
    """Return figures of a search in plain JSON data, in the order of their names.

    Args:
        result: of the search.
        names: which figures.
        beam: the answer whose ``thoughts``, ``reward``, ``instruction`` and ``finish_reason`` are returned; the best
            by default.
    """
    beam, exploration = result.best if beam is None else beam, result.exploration
    figures: dict[Figure, JsonValue] = {
        "thoughts": beam.thoughts,
        "reward": beam.reward,
        "first_response": result.first_response.text,
        "first_reward": result.first_response.reward,
        "instruction": beam.instruction,
        "cycles": result.cycles,
        "stop_reason": result.stop_reason,
        "finish_reason": beam.finish_reason,
        "failure": result.failure,
        "max_new_tokens": result.config.max_new_tokens,
        "seed": result.config.seed,
        "usage": result.usage.model_dump(mode="json"),
        "exploration": None if exploration is None else exploration.figures,
    }
    return {name: figures[name] for name in names}
