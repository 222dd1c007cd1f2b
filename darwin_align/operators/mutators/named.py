"""The mutators that the setting ``mutator="…"`` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from darwin_align.core.clauses import Clause
from darwin_align.core.config import SearchConfig
from darwin_align.core.errors import ConfigError
from darwin_align.operators.mutator import Mutator
from darwin_align.operators.mutators.aspects import AspectMutator
from darwin_align.operators.mutators.auto import AutoMutator
from darwin_align.operators.mutators.evolution import CritiqueMutator, CrossoverMutator, FusionMutator
from darwin_align.operators.mutators.plain import ClauseMutator, IdentityMutator
from darwin_align.operators.mutators.policy import PolicyMutator
from darwin_align.operators.policy import Policy
from darwin_align.operators.prompts import MutationPrompt

__all__ = ["mutator_of"]


def mutator_of(
    config: SearchConfig, policy: Policy | None, prompt: MutationPrompt, clauses: Sequence[Clause] = ()
) -> Mutator:
    """Make the mutator that the settings name.

    Args:
        config: the settings.
        policy: rewords; ``None`` where a search has a decoder alone.
        prompt: of the policy's rewordings.
        clauses: what guidance sentences begin with where the settings have none.

    Raises:
        ConfigError: it needs a policy, or clauses, and there are none.
    """
    name = config.mutator
    if name == "identity":
        return IdentityMutator()
    if name == "clauses":
        return _clauses(config)
    if name == "aspects" or (name == "auto" and policy is None):
        return AspectMutator(clauses=config.clauses or tuple(clauses))
    if policy is None:
        raise ConfigError("with a decoder but no policy no model rewords instructions: give mutator=… or policy=…")
    rewording = PolicyMutator(policy=policy, prompt=prompt)
    if name == "policy":
        return rewording
    auto = AutoMutator(rewording=rewording, aspects=AspectMutator(clauses=tuple(clauses)))
    beside: dict[str, Callable[[], Mutator]] = {
        "crossover": lambda: CrossoverMutator(inner=auto),
        "fusion": lambda: FusionMutator(inner=auto),
        "critique": lambda: CritiqueMutator(inner=auto, policy=rewording),
    }
    return beside[name]() if name in beside else auto


def _clauses(config: SearchConfig) -> ClauseMutator:
    if not config.clauses:
        raise ConfigError(
            "mutator='clauses' adds clauses, and there are none: give clauses=learn_clauses(results), with the results "
            "of earlier searches, or write some: clauses=(Clause(text='Be thorough.'),)"
        )
    return ClauseMutator(clauses=config.clauses)
