"""Two tools of a household, and the embedded pair that can call them."""

from __future__ import annotations

from typing import Any

from langchain_core.tools import BaseTool, tool

from darwin_align import DarwinChatModel
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.operators import ToolCallScorer, WeightedSum
from darwin_align.pocket import policy_path, reward_path

__all__ = ["TOOLS", "heat_kettle", "household_model", "set_lamp"]


@tool
def set_lamp(room: str, color: str) -> str:
    """Set the color of the lamp in a room."""
    return f"{room} lamp is {color}"


@tool
def heat_kettle(degrees: int) -> str:
    """Heat the water in the kettle."""
    return f"kettle at {degrees}"


TOOLS: tuple[BaseTool, ...] = (set_lamp, heat_kettle)
"""The embedded policy was trained on tools of these names: a toy learns to call what it has seen."""


def household_model(**settings: Any) -> DarwinChatModel:
    """Return the embedded pair with a reward that pays for right calls too.

    Args:
        settings: of :class:`DarwinChatModel`, instead of the small search and the fixed seed that are set here.
    """
    policy = LocalPolicy.from_pretrained(policy_path(), threads=1)
    text = LocalScorer.from_pretrained(reward_path(), threads=1)
    scorer = WeightedSum(scorers=(text, ToolCallScorer(policy=policy)), weights=(1.0, 10.0))
    return DarwinChatModel(**{"scorer": scorer, "cycles": 1, "mutations": 4, "max_tokens": 96, "seed": 1, **settings})
