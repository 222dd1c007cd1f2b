"""Mutators that look at what the search found so far: two parents, the best answers, the best beside the worst."""

from darwin_align.operators.mutators.evolution.critique import CritiqueMutator
from darwin_align.operators.mutators.evolution.crossover import CrossoverMutator
from darwin_align.operators.mutators.evolution.fusion import FusionMutator

__all__ = ["CritiqueMutator", "CrossoverMutator", "FusionMutator"]
