"""How good are the parts of a search, and what a search makes of them."""

from darwin_align.evaluation.pairs import Pair, builtin_pairs, embedded_pairs, read_pairs
from darwin_align.evaluation.scorer_check import acheck, check
from darwin_align.evaluation.scorer_report import Finding, ScorerReport, Share

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
