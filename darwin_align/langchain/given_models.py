"""Policies and reward models as users name them: a folder, a hub id, a GGUF file, an address, or an object."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

from darwin_align.core.errors import ConfigError
from darwin_align.core.log_once import log_once
from darwin_align.core.record import did_you_mean
from darwin_align.operators.coerce import PolicyLike, ScorerLike
from darwin_align.operators.scorer import Scorer

__all__ = ["CONNECTION", "MODELS", "is_loadable", "load_policy", "load_reward", "loaded_pair", "with_models"]

logger = logging.getLogger(__name__)

MODELS = ("model", "reward")
"""Arguments that name models, in place of ``policy`` and ``scorer``."""
CONNECTION = ("base_url", "api_key", "timeout", "max_retries")
"""Arguments for a server, as LangChain's chat models have them."""
_ROLES = {"model": "policy", "reward": "scorer"}
_SERVER_CLASSES = {"policy": "EndpointPolicy", "reward": "EndpointScorer"}


@dataclass(frozen=True)
class _Connection:
    """How the policy's server is reached."""

    base_url: str | list[str] | None = None
    api_key: str | SecretStr | None = None
    timeout: float | None = None
    max_retries: int | None = None

    @property
    def limits(self) -> Any:
        """The limits of an endpoint: ``timeout`` bounds an attempt, and all of them together bound a call."""
        from darwin_align.backends.endpoint import Limits

        given: dict[str, Any] = {}
        if self.max_retries is not None:
            given["attempts"] = self.max_retries + 1
        if self.timeout is not None:
            given |= {"attempt_timeout": self.timeout, "read_timeout": self.timeout}
            given["deadline"] = max(Limits().deadline, self.timeout * given.get("attempts", 1))
        return Limits(**given)

    def note_unused(self, model: str) -> None:
        """Log, once, what means nothing to a model without a server."""
        if given := [name for name in CONNECTION if getattr(self, name) is not None]:
            log_once(logger, f"not used: {', '.join(given)}, for {model} has no base_url")


def with_models(given: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``model``, ``reward`` and how a server is reached by a policy and a scorer.

    >>> sorted(with_models({"reward": len, "seed": 1}))
    ['scorer', 'seed']

    Args:
        given: arguments of a chat model.

    Raises:
        ConfigError: a model is given twice, or an address as a model.
        ModelLoadError: a model cannot be loaded.
    """
    rest = {name: value for name, value in given.items() if name not in (*MODELS, *CONNECTION)}
    connection = _Connection(**{name: given.get(name) for name in CONNECTION})
    for name, role in _ROLES.items():
        if given.get(name) is not None and rest.get(role) is not None:
            raise ConfigError(f"{name} and {role} are the same part: give one of them")
    model, reward = given.get("model"), given.get("reward")
    if model is not None or connection.base_url is not None:
        if rest.get("policy") is not None:
            raise ConfigError("base_url would be ignored beside policy=…: give one of them")
        rest["policy"] = _policy(model, connection)
        if isinstance(model, str | Path):
            rest.setdefault("model_name", str(model))
    elif connection != _Connection():
        connection.note_unused("the embedded pair" if rest.get("policy") is None else "the given policy")
    if reward is not None:
        rest["scorer"] = _scorer(reward)
    return rest


def _policy(model: object, connection: _Connection) -> Any:
    if connection.base_url is not None:
        from darwin_align.backends.endpoint import EndpointPolicy

        if not isinstance(model, str | None):
            raise ConfigError(f"model={model!r:.80}: beside base_url=… give the model's name on that server")
        return EndpointPolicy(connection.base_url, model=model, api_key=connection.api_key, limits=connection.limits)
    if not isinstance(model, str | Path):
        connection.note_unused(type(model).__name__)
        return model
    if str(model).startswith(("http://", "https://")):
        raise ConfigError(f"model={model!r} is an address: give base_url={str(model)!r}, and the model's name there")
    if _names_chat_model(model):
        given = {name: value for name in CONNECTION if (value := getattr(connection, name)) is not None}
        return load_policy(model, **given)
    connection.note_unused(str(model))
    return load_policy(model)


def _scorer(reward: object) -> Any:
    if isinstance(reward, BaseChatModel):
        from darwin_align.backends.endpoint import JudgeScorer

        return JudgeScorer(model=reward)
    return load_reward(reward) if isinstance(reward, str | Path) else reward


def load_reward(name: str | Path, **options: Any) -> Scorer:
    """Load a scorer by its name: a folder, a hub id, a reward server's address, or ``provider:model`` for a judge.

    Args:
        name: the reward model, or the chat model that judges.
        options: of what it becomes: :meth:`LocalScorer.from_pretrained
            <darwin_align.backends.local.scorer.LocalScorer.from_pretrained>`,
            :class:`~darwin_align.backends.endpoint.scorer.EndpointScorer`, or the provider's chat model.

    Raises:
        ModelLoadError: there is no such model, or it cannot be used as a reward model.
        ConfigError: the provider is not known.
    """
    if _names_chat_model(name):
        from darwin_align.backends.chat_model import chat_model_of
        from darwin_align.backends.endpoint import JudgeScorer

        return JudgeScorer(model=chat_model_of(str(name), **options))
    if str(name).startswith(("http://", "https://")):
        from darwin_align.backends.endpoint import EndpointScorer

        return EndpointScorer(base_url=str(name), **options)
    from darwin_align.backends.local import LocalScorer

    return LocalScorer.from_pretrained(name, **options)


def load_policy(name: str | Path, **options: Any) -> PolicyLike:
    """Load a policy by its name: a folder, a hub id, a GGUF file, or ``provider:model`` for a chat model.

    A GGUF file is run by llama.cpp where ``xllamacpp`` is installed, else by transformers, which is slower.

    Args:
        name: the model.
        options: of :class:`~darwin_align.backends.llama_cpp.policy.LlamaCppPolicy` for a GGUF file that llama.cpp
            runs, of the provider's chat model, else of :meth:`LocalPolicy.from_pretrained
            <darwin_align.backends.local.policy.LocalPolicy.from_pretrained>`.

    Raises:
        ModelLoadError: there is no such model, or it cannot be used as a policy.
        ConfigError: an option that would be ignored.
    """
    loader = _loader(name)
    _check_options(f"the policy {str(name)!r}", options, loader)
    policy: PolicyLike = loader(name, **options)
    return policy


def _loader(name: object) -> Callable[..., Any]:
    from darwin_align.backends.gguf_names import is_gguf
    from darwin_align.backends.local import LocalPolicy

    if _names_chat_model(name):
        from darwin_align.backends.chat_model import chat_model_of

        return chat_model_of
    if not is_gguf(name):
        return LocalPolicy.from_pretrained
    if find_spec("xllamacpp") is None:
        logger.warning(
            "%s is read by transformers, which is slower than llama.cpp: pip install 'darwin-align[llama-cpp]'", name
        )
        return LocalPolicy.from_pretrained
    from darwin_align.backends.llama_cpp import LlamaCppPolicy

    return LlamaCppPolicy


def _names_chat_model(name: object) -> bool:
    """Whether a model is named as ``provider:model``; a file or folder of that name comes first."""
    from darwin_align.backends.chat_model import names_chat_model

    return isinstance(name, str) and names_chat_model(name) and not Path(name).exists()


def loaded_pair(
    policy: str | Path | PolicyLike,
    reward: str | Path | ScorerLike,
    shared: Mapping[str, Any],
    policy_options: Mapping[str, Any] | None,
    reward_options: Mapping[str, Any] | None,
) -> tuple[PolicyLike, ScorerLike]:
    """Load a policy and a reward model, where they are given by name.

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
    from darwin_align.backends.local import LocalScorer, RewardModel

    loads = is_loadable("policy", policy, policy_options), is_loadable("reward", reward, reward_options)
    loaders = _loader(policy) if loads[0] else None, RewardModel.from_pretrained if loads[1] else None
    _check_shared(shared, policy, loaders)
    loader, reward_loader = loaders
    policy_how = _overruled(shared, "policy_options", policy_options or {}, loader) if loader else {}
    reward_how = _overruled(shared, "reward_options", reward_options or {}, reward_loader) if reward_loader else {}
    return (
        loader(policy, **policy_how) if loader else policy,  # type: ignore[return-value] # names are loaded
        LocalScorer.from_pretrained(reward, **reward_how) if isinstance(reward, str | Path) else reward,
    )


def _check_shared(shared: Mapping[str, Any], policy: object, loaders: Sequence[Callable[..., Any] | None]) -> None:
    """Refuse an option of both models that neither takes."""
    given = {name for name, value in shared.items() if value not in ("auto", None, False)}
    if ignored := given - {name for loader in loaders if loader is not None for name in _options_of(loader)}:
        why = "policy and reward are objects, so that nothing is loaded"
        if any(loaders):
            why = f"the policy {policy!r} takes no such option"
        raise ConfigError(f"{min(ignored)} would be ignored: {why}")


def _overruled(
    shared: Mapping[str, Any], name: str, own: Mapping[str, Any], loader: Callable[..., Any]
) -> dict[str, Any]:
    """The shared options that a loader takes, overruled by its own."""
    _check_options(name, own, loader)
    placed = {"device": "auto"} if own.get("device_map") is not None else {}
    return {**{name: value for name, value in shared.items() if name in _options_of(loader)}, **placed, **own}


def _check_options(name: str, own: Mapping[str, Any], loader: Callable[..., Any]) -> None:
    known = _options_of(loader)
    if "options" in known:  # of another package's class, which checks them itself
        return
    if unknown := sorted(own.keys() - known):
        raise ConfigError(f"{name} has no {unknown[0]!r}: {did_you_mean(unknown[0], known)}")


def _options_of(loader: Callable[..., Any]) -> set[str]:
    return signature(loader).parameters.keys() - {"path", "name"}


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
