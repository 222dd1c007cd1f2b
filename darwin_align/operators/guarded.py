"""Checks on a mutator, also where it stands behind LangChain's wrappers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.runnables import Runnable, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable, RunnableConfigurableAlternatives

from darwin_align.core.errors import ConfigError
from darwin_align.operators.mutator import Check, Mutator

__all__ = ["guarded"]


def guarded(mutator: Runnable[Any, Any], checks: Sequence[Check]) -> Runnable[Any, Any]:
    """Put checks on a mutator, also behind LangChain's bindings and retries."""
    if not checks:
        return mutator
    if isinstance(mutator, Mutator):
        return mutator.guarded(*checks)
    if isinstance(mutator, RunnableBindingBase):
        return mutator.model_copy(update={"bound": guarded(mutator.bound, checks)})
    if isinstance(mutator, RunnableWithFallbacks):
        fallbacks = [guarded(fallback, checks) for fallback in mutator.fallbacks]
        return mutator.model_copy(update={"runnable": guarded(mutator.runnable, checks), "fallbacks": fallbacks})
    if isinstance(mutator, DynamicRunnable):
        changed: dict[str, Any] = {"default": guarded(mutator.default, checks)}
        if isinstance(mutator, RunnableConfigurableAlternatives):
            given = mutator.alternatives.items()
            changed["alternatives"] = {key: _guarded_alternative(other, checks) for key, other in given}
        return mutator.model_copy(update=changed)
    raise ConfigError(
        f"cannot put the intent guard on a {type(mutator).__name__} that stands for a mutator: make a Mutator of it, "
        "e.g. ChainMutator(chain=…), or pass guard=None"
    )


def _guarded_alternative(
    given: Runnable[Any, Any] | Callable[[], Runnable[Any, Any]], checks: Sequence[Check]
) -> Runnable[Any, Any] | Callable[[], Runnable[Any, Any]]:
    """Guard an alternative; LangChain takes a function that makes one, too."""
    return guarded(given, checks) if isinstance(given, Runnable) else lambda: guarded(given(), checks)
