"""Policies and reward models as users give them: a folder, a hub id, or an object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darwin_align.core.errors import ConfigError

__all__ = ["is_loadable"]

_SERVER_CLASSES = {"policy": "EndpointPolicy", "reward": "EndpointScorer"}


def is_loadable(role: str, given: Any, options: Mapping[str, Any] | None) -> bool:
    """Whether a model is to be loaded from a folder or hub id; any other object is used as it is.

    >>> is_loadable("policy", "Qwen/Qwen3-8B", None)
    True

    Args:
        role: "policy" or "reward".
        given: what the user gave for it.
        options: options for loading it.

    Raises:
        ConfigError: an address of a server, nothing, or options for what is not loaded.
    """
    if isinstance(given, str | Path):
        if str(given).startswith(("http://", "https://")):
            raise ConfigError(
                f"{role}={given!r} is an address, and only folders and hub ids are loaded: give "
                f"{role}={_SERVER_CLASSES[role]}(base_url={str(given)!r})"
            )
        return True
    if given is None:
        raise ConfigError(f"{role}=None: give a folder, a hub id, or an object that serves as {role}")
    if options:
        raise ConfigError(f"{role}_options would be ignored: {role} is a {type(given).__name__}, which is not loaded")
    return False
