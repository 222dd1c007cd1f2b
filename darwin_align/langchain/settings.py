"""Settings of a search that are given to a chat model one by one, as its calls take them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from darwin_align.core import Sampling, SearchConfig
from darwin_align.core.errors import ConfigError, ContextLengthError

__all__ = ["ALIASES", "SETTINGS", "joined", "readable"]

logger = logging.getLogger(__name__)

ALIASES = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
"""What else a setting is called."""
_PARTS = {"mutator", "selector"}
"""Settings whose names an operator goes by where a search is made."""
SETTINGS = (SearchConfig.model_fields.keys() | Sampling.model_fields.keys() | ALIASES.keys()) - _PARTS
"""Names of the settings that may be given one by one."""


def joined(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Put single settings where a search has them: into its config and its sampling.

    >>> joined({"temperature": 0.2, "max_tokens": 9})["config"].max_new_tokens
    9

    Args:
        parts: arguments of a search, and settings beside them. A setting that is ``None`` is not given.

    Raises:
        ConfigError: a setting is impossible, or given twice.
    """
    single = {name for name, value in parts.items() if name in SETTINGS or (name in _PARTS and isinstance(value, str))}
    rest = {name: value for name, value in parts.items() if name not in single}
    named: dict[str, Any] = {}
    for name in sorted(single):
        if parts[name] is None:
            continue
        if (own := ALIASES.get(name, name)) in named:
            raise ConfigError(f"{own} is given twice, as {name} too: give one of them")
        named[own] = parts[name]
    for name, kind in (("config", SearchConfig), ("sampling", Sampling)):
        given: Any = rest.get(name)
        if isinstance(given, Mapping):
            given = rest[name] = kind(**given)
        mine = {setting: named[setting] for setting in named if setting in kind.model_fields}
        if given is not None and (twice := sorted(mine.keys() & given.model_fields_set)):
            raise ConfigError(f"{twice[0]} is given twice, in {name} too: give it once")
        if mine:
            by_hand = {setting: getattr(given, setting) for setting in given.model_fields_set} if given else {}
            rest[name] = kind(**{**by_hand, **mine})
    return rest


def readable(config: SearchConfig, max_response_tokens: int | None) -> tuple[SearchConfig, tuple[str, ...]]:
    """Cut answers where the scorer could read them no further: before decoding, not in the middle of it.

    Args:
        config: the settings.
        max_response_tokens: of an answer, which the scorer can read; ``None`` is no limit.

    Returns:
        The settings, and a note, which is logged, if answers are cut.

    Raises:
        ContextLengthError: the context leaves no token for an answer.
    """
    if max_response_tokens is None or max_response_tokens >= config.max_new_tokens:
        return config, ()
    if max_response_tokens < 1:
        raise ContextLengthError(
            "the reward model's context has no room for an answer to this conversation: shorten it"
        )
    note = (
        f"answers are cut after {max_response_tokens} tokens instead of max_new_tokens={config.max_new_tokens}: the "
        "reward model's context has no room for more behind this conversation. Shorten the conversation, or use a "
        "reward model with a longer context"
    )
    logger.warning("%s", note)
    return config.replace(max_new_tokens=max_response_tokens), (note,)
