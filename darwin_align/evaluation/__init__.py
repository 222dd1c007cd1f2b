"""How good are the parts of a search, and what a search makes of them.

Names load on first use: the command line reads only what a command needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from darwin_align.lazy import lazy_getattr

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


__getattr__ = lazy_getattr(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
