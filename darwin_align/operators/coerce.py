"""What users may pass in an operator's place: a function, a LangChain chain, or an object with the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable, RunnableConfigurableAlternatives

from darwin_align.core.errors import ConfigError
from darwin_align.operators.base import Decoder, Mutator, Operator, Scorer, Selector
from darwin_align.operators.mutators import ChainMutator, ChatModelMutator, FunctionMutator
from darwin_align.operators.policy import FunctionPolicy
from darwin_align.operators.scorers import ChainScorer, FunctionScorer
from darwin_align.operators.selectors import FunctionSelector

__all__ = ["as_decoder", "as_mutator", "as_scorer", "as_selector", "parts_of"]

PopulationRunnable = Runnable[Any, Any]


def as_mutator(given: Any) -> PopulationRunnable:
    """Make a mutator of a Mutator, a chat model, a chain, an object with ``mutate``, or a function like it.

    >>> as_mutator(lambda request, instruction, n, seed: [instruction.upper()] * n).role
    'mutate'
    """
    if _is(given, Mutator):
        return _with_alternatives(given, as_mutator)
    if isinstance(given, BaseChatModel):
        return ChatModelMutator(model=given)
    if (method := _method(given, "mutate")) is not None:
        return FunctionMutator(function=method)
    if isinstance(given, Runnable) and not isinstance(given, Operator):
        return ChainMutator(chain=given)
    raise _refusal("mutator", "mutate(request, instruction, n, seed) -> list[str]", given)


def as_decoder(given: Any) -> PopulationRunnable:
    """Make a decoder of a Decoder, of a policy (an object with ``generate``), or of a function like it."""
    if _is(given, Decoder):
        return _with_alternatives(given, as_decoder)
    if callable(getattr(given, "generate", None)) and not isinstance(given, Runnable):
        return Decoder(policy=given)
    if (method := _method(given, "generate")) is not None:
        return Decoder(policy=FunctionPolicy(method))
    raise _refusal("decoder", "generate(rows) -> continuations", given)


def as_scorer(given: Any) -> PopulationRunnable:
    """Make a scorer of a Scorer, a chain to a number, an object with ``score``, or a function like it.

    >>> as_scorer(lambda request, responses: [0.0 for _ in responses]).role
    'score'
    """
    if _is(given, Scorer):
        return _with_alternatives(given, as_scorer)
    if isinstance(given, Runnable) and not isinstance(given, Operator):
        return ChainScorer(chain=given)
    if (method := _method(given, "score")) is not None:
        return FunctionScorer(function=method)
    raise _refusal("scorer", "score(request, responses) -> list[float]", given)


def as_selector(given: Any) -> PopulationRunnable:
    """Make a selector of a Selector, an object with ``select``, or a function like it.

    >>> as_selector(lambda rewards, finished, weights, seed: (range(len(rewards)), weights)).role
    'select'
    """
    if _is(given, Selector):
        return _with_alternatives(given, as_selector)
    if (method := _method(given, "select")) is not None:
        return FunctionSelector(function=method)
    raise _refusal("selector", "select(rewards, finished, weights, seed) -> (ancestors, weights)", given)


def parts_of(operator: PopulationRunnable, config: RunnableConfig) -> list[PopulationRunnable]:
    """The operators that may answer in a run with this config, out of LangChain's bindings, retries and so on."""
    if isinstance(operator, DynamicRunnable):
        return parts_of(*operator.prepare(config))
    if isinstance(operator, RunnableBindingBase):
        return parts_of(operator.bound, merge_configs(operator.config, config))
    if isinstance(operator, RunnableWithFallbacks):
        return [part for runnable in operator.runnables for part in parts_of(runnable, config)]
    return [operator]


def _with_alternatives(given: Any, as_operator: Callable[[Any], PopulationRunnable]) -> PopulationRunnable:
    """Make operators of the alternatives, too: LangChain takes any Runnable there, e.g. a chain as scorer."""
    if not isinstance(given, RunnableConfigurableAlternatives):
        return given  # type: ignore[no-any-return]
    others = {key: other for key, other in given.alternatives.items() if isinstance(other, Runnable)}
    made = {key: as_operator(other) for key, other in others.items()}
    if all(made[key] is others[key] for key in made):
        return given
    return given.model_copy(update={"alternatives": {**given.alternatives, **made}})


def _is(given: Any, kind: Any) -> bool:
    """Whether this is such an operator, bare or behind LangChain's bindings, retries, fallbacks and alternatives."""
    if isinstance(given, DynamicRunnable):
        return _is(given.default, kind)
    if isinstance(given, RunnableBindingBase):
        return _is(given.bound, kind)
    if isinstance(given, RunnableWithFallbacks):
        return _is(given.runnable, kind)
    return isinstance(given, kind)


def _method(given: Any, name: str) -> Any:
    if isinstance(given, RunnableLambda):
        return getattr(given, "func", None) or given.afunc
    if isinstance(given, Runnable):
        return None
    method = getattr(given, name, None)
    return method if callable(method) else given if callable(given) and not isinstance(given, type) else None


def _refusal(kind: str, signature: str, given: Any) -> ConfigError:
    return ConfigError(
        f"cannot use {type(given).__name__} {given!r:.80} as {kind}: "
        f"give a {kind.capitalize()}, a function, or an object with the method {signature}"
    )
