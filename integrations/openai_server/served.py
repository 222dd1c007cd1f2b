"""The models of a server: each preset of each pair is one, and so is each pair's reward model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import JsonValue

from darwin_align import DarwinChatModel, Scorer, SearchConfig
from darwin_align.core import PRESETS
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean

from .faults import Fault, invalid
from .settings import SearchLimits, ServerSettings

__all__ = ["SearchModel", "chosen", "reward_models", "search_models"]

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class SearchModel:
    """One model name: a pair under some settings."""

    id: str
    model: DarwinChatModel
    base: Mapping[str, Any]
    """The settings that the name stands for, beyond the pair's own."""
    config: SearchConfig
    """All settings together."""

    @property
    def card(self) -> dict[str, JsonValue]:
        """Fields of the model's entry in ``/v1/models``."""
        policy = self.model.search.policy_for()
        length = None if policy is None else policy.context_length
        return {"max_model_len": length, "darwin": self.config.model_dump(mode="json", exclude={"seed"})}


def search_models(models: Mapping[str, DarwinChatModel], settings: ServerSettings) -> dict[str, SearchModel]:
    """Every name that ``/v1/chat/completions`` takes: a pair's own, and one for each preset.

    Raises:
        ConfigError: no models, an ambiguous name, or a pair's settings that the limits contradict.
    """
    if not models:
        raise ConfigError("there is nothing to serve: give models={name: DarwinChatModel(…)}")
    found: dict[str, SearchModel] = {}
    for name, model in models.items():
        if ":" in name or not name.strip():
            raise ConfigError(
                f"a pair cannot be named {name!r}: presets follow its name behind a colon, choose another"
            )
        found[name] = _under(name, model, {}, settings.limits)
        for preset in settings.presets:
            try:
                one = _under(f"{name}:{preset}", model, PRESETS[preset], settings.limits)
            except ConfigError as error:  # parts of its own contradict the preset, or the limits do
                logger.log(_level(model, preset, settings), "%s:%s is not served: %s", name, preset, error)
                continue
            found[one.id] = one
    return found


def _level(model: DarwinChatModel, preset: str, settings: ServerSettings) -> int:
    """The preset of learned clauses is no warning for a pair without any, unless the operator named presets."""
    lacks = PRESETS[preset].get("mutator") == "clauses" and not model.search.clauses
    return logging.INFO if lacks and settings.presets == tuple(PRESETS) else logging.WARNING


def _under(name: str, model: DarwinChatModel, preset: Mapping[str, Any], limits: SearchLimits) -> SearchModel:
    own = {**preset}
    _, config = model.search.request("x", own)
    lowered = limits.lowered(config)
    for setting, value in lowered.items():
        logger.warning("%s: %s is %s by the server's limits, not %s", name, setting, value, getattr(config, setting))
    own |= lowered
    _, config = model.search.request("x", own)
    model.search.operators(config)  # what it lacks shows here, not at the first request
    own["budget"] = limits.bounded(config.budget)
    return SearchModel(name, model, own, config.replace(budget=own["budget"]))


def reward_models(models: Mapping[str, DarwinChatModel]) -> dict[str, Scorer]:
    """The scorers of the pairs, by the names that the reward calls take."""
    scorers = {f"{name}:reward": model.search.scorer for name, model in models.items()}
    return {name: scorer for name, scorer in scorers.items() if isinstance(scorer, Scorer)}


def chosen(models: Mapping[str, T], name: str | None) -> T:
    """The model that a request names; where there is only one it need not.

    Raises:
        Fault: there is no such model (404).
    """
    if name is None:
        if len(models) == 1:
            return next(iter(models.values()))
        raise invalid(f"model is missing: {_listed(models)}", "model")
    if name not in models:
        hint = did_you_mean(name, models) if models else "there are none of this kind here"
        raise Fault(404, f"there is no model {name!r:.200} here: {hint}", param="model", code="model_not_found")
    return models[name]


def _listed(names: Iterable[str]) -> str:
    return f"name one of {', '.join(sorted(names))}" if names else "there are none of this kind here"
