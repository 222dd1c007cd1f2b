"""Whether a search's settings suit its policy and its scorer, where one of them can only do with some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.runnables import Runnable

from darwin_align.core.config import SearchConfig
from darwin_align.core.errors import ConfigError
from darwin_align.operators.decoder import Decoder
from darwin_align.operators.policy import check_continues
from darwin_align.operators.scorer import Scorer

__all__ = ["check_suits", "in_whole_answers"]


def check_suits(parts: Iterable[Runnable[Any, Any]], config: SearchConfig) -> None:
    """Refuse settings under which a policy would continue what it cannot, or a scorer's rewards would mean nothing.

    Args:
        parts: the operators, out of LangChain's wrappers.
        config: the settings.

    Raises:
        ConfigError: with settings that suit.
    """
    for part in parts:
        if isinstance(part, Decoder):
            check_continues(part.policy, config)
        if isinstance(part, Scorer) and part.compares:
            _check_compared_at_once(part, config)


def _check_compared_at_once(scorer: Scorer, config: SearchConfig) -> None:
    several = [
        (config.replaces, f"selector={config.selector!r}, which has partial answers scored"),
        (config.cycles > 1, f"cycles={config.cycles}, each with answers of its own"),
        (config.budget.limited, "a budget, for which the first response is scored alone"),
        (config.target_reward is not None, "target_reward, which no relative reward can meet"),
    ]
    if reasons := [reason for holds, reason in several if holds]:
        raise ConfigError(
            f"{scorer!r:.120} compares the answers that it is given in one call, so its rewards say nothing beside "
            f"those of another call; but the settings have {' and '.join(reasons)}. Have all answers scored in one "
            "call: config=SearchConfig.preset('best_of_n'), 'soft_best_of_n' or 'learned_clauses', or "
            "'mutate_best_of_n' with cycles=1. Or let the scorer rate each answer by itself (mode='absolute')"
        )


def in_whole_answers(parts: Sequence[Runnable[Any, Any]], config: SearchConfig) -> tuple[SearchConfig, tuple[str, ...]]:
    """Let a policy that writes whole answers decode them in one step, also where a limit of time is looked at between
    steps.

    Args:
        parts: the operators, out of LangChain's wrappers.
        config: settings that suit.

    Returns:
        The settings, and a note if one that was set by hand is changed.
    """
    policies = [part.policy for part in parts if isinstance(part, Decoder)]
    in_steps = config.budget.seconds is not None or config.target_reward is not None
    if not in_steps or all(policy.capabilities.continues for policy in policies):
        return config, ()
    by_hand = "replacement_period" in config.model_fields_set
    note = f"replacement_period={config.replacement_period} has no effect: the policy writes whole answers"
    return config.replace(replacement_period=config.max_new_tokens), (note,) if by_hand else ()
