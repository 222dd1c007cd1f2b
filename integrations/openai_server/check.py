"""``darwin-align serve --check``: what would be served, and whether it would work."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.rewards.remote import RemoteScorer
from darwin_align.cli.options import load_policy, load_scorer
from darwin_align.core.terminal import printable
from darwin_align.operators.portal import call

from .config import ServeConfig

if TYPE_CHECKING:
    from darwin_align import DarwinChatModel

__all__ = ["ask", "describe", "try_models"]

_QUESTION = "Say hello."


def describe(settings: ServeConfig, models: Mapping[str, argparse.Namespace] | str) -> None:
    """Print what would be served, and where."""
    keys, workers = len(settings.api_keys), settings.workers
    _say(
        f"http://{settings.host}:{settings.port}, {workers} process{'es' if workers > 1 else ''}, "
        f"{f'{keys} API keys' if keys else 'no API key: this machine only'}"
    )
    if isinstance(models, str):
        _say(f"models: as {models} makes them")
        return
    for name, one in models.items():
        parts = [f"{role} {_where(one, role)}" for role in ("policy", "reward")]
        _say(f"{name}: {', '.join(parts)}, preset {one.preset or 'darwin'}{''.join(f', {text}' for text in one.set)}")


def _where(one: argparse.Namespace, role: str) -> str:
    if (urls := getattr(one, f"{role}_url")) is not None:
        name = getattr(one, f"{role}_model")
        return f"{f'{name} at ' if name else ''}{' and '.join(urls)}"
    return getattr(one, role) or f"of the {one.pair or 'embedded'} pair"


def ask(models: Mapping[str, argparse.Namespace]) -> bool:
    """Ask the servers of all models, and print what they say. Whether each role has one that answers."""
    return all([_answers(name, endpoint) for name, endpoint in _endpoints(models).items()])  # noqa: C419 - ask them all


def _endpoints(models: Mapping[str, argparse.Namespace]) -> dict[str, Endpoint]:
    found: dict[str, Endpoint | None] = {}
    for name, one in models.items():
        if one.policy_url is not None and isinstance(policy := load_policy(one), EndpointPolicy):
            found[f"{name}:policy"] = policy.endpoint
        if one.reward_url is not None and isinstance(scorer := load_scorer(one), RemoteScorer):
            found[f"{name}:reward"] = scorer.endpoint
    return {name: endpoint for name, endpoint in found.items() if endpoint is not None}


def _answers(name: str, endpoint: Endpoint) -> bool:
    faults = call(endpoint.probe)
    for root, fault in faults.items():
        _say(f"{name}: {root} {'answers' if fault is None else f'does not answer: {fault.description}'}")
    return None in faults.values()


def try_models(settings: ServeConfig, models: Mapping[str, DarwinChatModel]) -> bool:
    """Make the application, let each model answer a question, and print what came of it.

    Raises:
        DarwinError: a search failed, or the limits contradict a model.
    """
    from .served import reward_models, search_models

    names = [*search_models(models, settings), *reward_models(models)]
    _say(f"served: {', '.join(names)}")
    sound = True
    for name, model in models.items():
        result = model.search.invoke(_QUESTION, cycles=1, max_new_tokens=4)
        failure = result.failure
        _say(f"{name}: {'answers' if failure is None else f'fails: {failure}'}")
        sound = sound and failure is None
    return sound


def _say(text: str) -> None:
    print(printable(text))
