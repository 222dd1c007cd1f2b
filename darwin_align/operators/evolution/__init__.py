"""Mutators that look at what the search found so far: two parents, the best answers, the best beside the worst."""

from darwin_align.operators.evolution.critique import CritiqueMutator
from darwin_align.operators.evolution.crossover import CrossoverMutator
from darwin_align.operators.evolution.fusion import FusionMutator

__all__ = ["CritiqueMutator", "CrossoverMutator", "FusionMutator"]
