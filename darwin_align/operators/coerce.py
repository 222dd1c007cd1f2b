"""What users may pass in an operator's place: a function, a LangChain chain, or an object with the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable, RunnableConfigurableAlternatives

from darwin_align.core.errors import ConfigError
from darwin_align.operators.base import Decoder, Mutator, Operator, Scorer, Selector
from darwin_align.operators.mutators import MUTATE, ChainMutator, ChatModelMutator, FunctionMutator
from darwin_align.operators.policy import FunctionPolicy
from darwin_align.operators.scorers import SCORE, ChainScorer, FunctionScorer
from darwin_align.operators.selectors import SELECT, FunctionSelector
from darwin_align.operators.signatures import check_signature

__all__ = ["as_decoder", "as_mutator", "as_scorer", "as_selector", "parts_of"]

GENERATE = "generate(rows) -> continuations"
"""The call of a policy."""
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
    _refuse_foreign("mutator", given)
    if (method := _method(given, "mutate")) is not None:
        return FunctionMutator(function=method)
    if isinstance(given, Runnable) and not isinstance(given, Operator):
        return ChainMutator(chain=given)
    raise _refusal("mutator", MUTATE, given)


def as_decoder(given: Any) -> PopulationRunnable:
    """Make a decoder of a Decoder, of a policy (an object with ``generate``), or of a function like it."""
    if _is(given, Decoder):
        return _with_alternatives(given, as_decoder)
    if _is(given, BaseLanguageModel):
        raise ConfigError(
            f"{type(given).__name__} cannot be the policy: a LangChain model writes whole answers and cannot go on "
            "with a part of one. Give it as mutator=…, or as scorer=JudgeScorer(model=…); as policy=… give "
            "EndpointPolicy(base_url=…, model=…) with its server's address, or LocalPolicy.from_pretrained(…)"
        )
    _refuse_foreign("policy", given)
    if callable(getattr(given, "generate", None)) and not isinstance(given, (Runnable, type)):
        check_signature("policy", given.generate, GENERATE)
        return Decoder(policy=given)
    if (method := _method(given, "generate")) is not None:
        check_signature("policy", method, GENERATE)
        return Decoder(policy=FunctionPolicy(method))
    raise _refusal("decoder", GENERATE, given)


def as_scorer(given: Any) -> PopulationRunnable:
    """Make a scorer of a Scorer, a chain to a number, an object with ``score``, or a function like it.

    >>> as_scorer(lambda request, responses: [0.0 for _ in responses]).role
    'score'
    """
    if _is(given, Scorer):
        return _with_alternatives(given, as_scorer)
    if _is(given, BaseLanguageModel):
        raise ConfigError(
            f"{type(given).__name__} cannot be the scorer: a language model writes text and gives no reward. Give "
            "scorer=JudgeScorer(model=…), which asks it for a score, or a chain: prompt | model | parser"
        )
    _refuse_foreign("scorer", given)
    if isinstance(given, Runnable) and not isinstance(given, Operator):
        return ChainScorer(chain=given)
    if (method := _method(given, "score")) is not None:
        return FunctionScorer(function=method)
    raise _refusal("scorer", SCORE, given)


def as_selector(given: Any) -> PopulationRunnable:
    """Make a selector of a Selector, an object with ``select``, or a function like it.

    >>> as_selector(lambda rewards, finished, weights, seed: (range(len(rewards)), weights)).role
    'select'
    """
    if _is(given, Selector):
        return _with_alternatives(given, as_selector)
    _refuse_foreign("selector", given)
    if (method := _method(given, "select")) is not None:
        return FunctionSelector(function=method)
    raise _refusal("selector", SELECT, given)


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


_CALLS = {"policy": GENERATE, "mutator": MUTATE, "scorer": SCORE, "selector": SELECT}
_BY_NAME = {
    "policy": "a policy is an object: LocalPolicy.from_pretrained({0!r}) for a model's folder or hub id, or "
    "EndpointPolicy(base_url=…, model={0!r}) for one on a server",
    "scorer": "a scorer is an object: LocalScorer.from_pretrained({0!r}) for a reward model's folder or hub id, or "
    "JudgeScorer(base_url=…, model={0!r}) for a judge on a server",
    "mutator": "a built-in mutator is named in the settings: config=SearchConfig(mutator=…)",
    "selector": "a built-in selector is named in the settings: config=SearchConfig(selector=…)",
}
_LIBRARIES = {
    "transformers": {
        "policy": "wrap the model and its tokenizer: LocalPolicy(model, tokenizer)",
        "scorer": "wrap the model and its tokenizer: LocalScorer(model, tokenizer)",
    },
    "vllm": {"policy": "serve the model by `vllm serve` and give EndpointPolicy(base_url=…)"},
    "openai": {"policy": "give EndpointPolicy(base_url=…)", "scorer": "give JudgeScorer(base_url=…)"},
}


def _refuse_foreign(role: str, given: Any) -> None:
    """Refuse what could pass for an operator and is none: a name, a class, an object of another library."""
    start = f"cannot use {type(given).__name__} {given!r:.80} as {'decoder' if role == 'policy' else role}: "
    if isinstance(given, str):
        kind = "decoder" if role == "policy" else role
        raise ConfigError(f"{_refusal(kind, _CALLS[role], given)}; {_BY_NAME[role].format(given)}")
    library = getattr(given if isinstance(given, type) else type(given), "__module__", "").partition(".")[0]
    if (advice := _LIBRARIES.get(library)) and not isinstance(given, Runnable):
        instead = advice.get(role, f"a {role} is a function or an object of your own that calls it")
        raise ConfigError(f"{start}it belongs to {library}; {instead}")
    if isinstance(given, type) and hasattr(given, _CALLS[role].partition("(")[0]):
        raise ConfigError(f"{start}this is the class: give an object of it, {given.__name__}(…)")


def _refusal(kind: str, signature: str, given: Any) -> ConfigError:
    return ConfigError(
        f"cannot use {type(given).__name__} {given!r:.80} as {kind}: "
        f"give a {kind.capitalize()}, a function, or an object with the method {signature}"
    )
