"""Policies and reward models as users give them: a folder, a hub id, or an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.operators.coerce import PolicyLike, ScorerLike

__all__ = ["is_loadable", "loaded_pair"]

_SERVER_CLASSES = {"policy": "EndpointPolicy", "reward": "EndpointScorer"}


def loaded_pair(
    policy: str | Path | PolicyLike,
    reward: str | Path | ScorerLike,
    shared: Mapping[str, Any],
    policy_options: Mapping[str, Any] | None,
    reward_options: Mapping[str, Any] | None,
) -> tuple[PolicyLike, ScorerLike]:
    """Load a policy and a reward model, where they are given as folders or hub ids.

    Args:
        policy: as a user gave it.
        reward: likewise.
        shared: options of both.
        policy_options: options of the policy alone; they overrule the shared ones.
        reward_options: options of the reward model alone.

    Raises:
        ModelLoadError: a folder is missing or does not fit its role, or cannot be loaded with these options.
        ConfigError: an unknown option, or one that would be ignored.
    """
    from darwin_align.backends.local import LocalPolicy, LocalScorer, RewardModel

    policy_how = _overruled(shared, "policy_options", policy_options or {}, LocalPolicy.from_pretrained)
    reward_how = _overruled(shared, "reward_options", reward_options or {}, RewardModel.from_pretrained)
    given = {name for name, value in shared.items() if value not in ("auto", None, False)}
    loads = is_loadable("policy", policy, policy_options), is_loadable("reward", reward, reward_options)
    if given and not any(loads):
        raise ConfigError(f"{min(given)} would be ignored: policy and reward are objects, so that nothing is loaded")
    return (
        LocalPolicy.from_pretrained(policy, **policy_how) if isinstance(policy, str | Path) else policy,
        LocalScorer.from_pretrained(reward, **reward_how) if isinstance(reward, str | Path) else reward,
    )


def _overruled(
    shared: Mapping[str, Any], name: str, own: Mapping[str, Any], loader: Callable[..., Any]
) -> dict[str, Any]:
    """The shared options for a loader, overruled by its own."""
    known = signature(loader).parameters.keys() - {"path"}
    if unknown := sorted(own.keys() - known):
        raise ConfigError(f"{name} has no {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
    placed = {"device": "auto"} if own.get("device_map") is not None else {}
    return {**shared, **placed, **own}


def is_loadable(role: str, given: object, options: Mapping[str, Any] | None) -> bool:
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
