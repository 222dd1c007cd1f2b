"""The small pair as a search, with the settings that suit it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from darwin_align.core import SearchConfig
from darwin_align.small.adapter import ADAPTER
from darwin_align.small.weights import reward_path
from darwin_align.small.wheel import policy_path

if TYPE_CHECKING:
    from darwin_align.backends.local import LocalScorer
    from darwin_align.operators.coerce import PolicyLike
    from darwin_align.search import DarwinSearch

__all__ = ["DEFAULTS", "small_config", "small_policy", "small_scorer", "small_search"]

DEFAULTS: dict[str, Any] = {"cycles": 1, "mutations": 4, "replacement_period": 32, "max_new_tokens": 256}
"""A search ends in about a minute on two cores; the paper's settings take three times as long."""
_SLOTS, _CONTEXT = 8, 2048
"""Of llama.cpp: 0.4 GB of keys and values."""


def small_config(config: SearchConfig | None = None) -> SearchConfig:
    """Fill in the small pair's defaults for what was not set by hand.

    >>> small_config(SearchConfig(cycles=3)).cycles, small_config().replacement_period
    (3, 32)
    """
    by_hand = {name: getattr(config, name) for name in config.model_fields_set} if config else {}
    return SearchConfig(**{**DEFAULTS, **by_hand})


def small_policy(*, threads: int | None = None) -> PolicyLike:
    """SmolLM2-135M-Instruct: by llama.cpp where ``xllamacpp`` is installed, else by torch, which the log notes.

    Args:
        threads: CPU threads; ``None`` takes the backend's default.

    Raises:
        MissingPackageError: its wheel is not installed.
    """
    from importlib.util import find_spec

    from darwin_align.langchain.given_models import load_policy

    own = {} if find_spec("xllamacpp") is None else {"slots": _SLOTS, "context": _CONTEXT}
    return load_policy(policy_path(), threads=threads, **own)


def small_scorer(adapter: str | Path = ADAPTER, *, threads: int | None = None) -> LocalScorer:
    """The reward model of an adapter, the shipped one by default. The first use makes it, in half a minute.

    Args:
        adapter: an adapter that ``python -m training.small`` made.
        threads: CPU threads; ``None`` takes the backend's default.

    Raises:
        MissingPackageError: the wheel or the package ``gguf`` is missing.
        ModelLoadError: the adapter belongs to another file.
    """
    from darwin_align.backends.local import LocalScorer

    return LocalScorer.from_pretrained(reward_path(adapter), threads=threads)


def small_search(config: SearchConfig | None = None, *, threads: int | None = None, **parts: Any) -> DarwinSearch:
    """Return a search over the small pair.

    Args:
        config: settings; what is not set by hand suits the pair (:data:`DEFAULTS`).
        threads: CPU threads of both models; ``None`` takes the backends' defaults.
        parts: further arguments of :class:`DarwinSearch`; a ``scorer`` replaces the reward model.

    Raises:
        MissingPackageError: the wheel or the package ``gguf`` is missing.
    """
    from darwin_align.search import DarwinSearch

    if parts.get("policy") is None and parts.get("decoder") is None:
        parts["policy"] = small_policy(threads=threads)
    if parts.get("scorer") is None:
        parts["scorer"] = small_scorer(threads=threads)
    return DarwinSearch(config=small_config(config), **parts)
