"""How good are the parts of a search, and what a search makes of them.

Names load on first use: the command line reads only what a command needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darwin_align.evaluation.pairs import Pair, builtin_pairs, embedded_pairs, read_pairs
    from darwin_align.evaluation.scorer_check import acheck, check
    from darwin_align.evaluation.scorer_report import Finding, ScorerReport, Share

_HOMES = {
    "Finding": "scorer_report",
    "Pair": "pairs",
    "ScorerReport": "scorer_report",
    "Share": "scorer_report",
    "acheck": "scorer_check",
    "builtin_pairs": "pairs",
    "check": "scorer_check",
    "embedded_pairs": "pairs",
    "read_pairs": "pairs",
}

__all__ = [
    "Finding",
    "Pair",
    "ScorerReport",
    "Share",
    "acheck",
    "builtin_pairs",
    "check",
    "embedded_pairs",
    "read_pairs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
