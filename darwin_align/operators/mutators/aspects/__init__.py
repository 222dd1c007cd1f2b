"""Guidance sentences that are added to an instruction: rewording without a model."""

from darwin_align.operators.mutators.aspects.mutator import AspectMutator

__all__ = ["AspectMutator"]
