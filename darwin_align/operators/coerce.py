"""Adapt or refuse what users pass as operators: all of it here, and nowhere later.

An object with the method, a function, a LangChain chain and, as policy and for rewording, a chat model are adapted.
Whatever only looks like one of them is refused when a search is made, with what to give instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from typing import Annotated, Any, Protocol, TypeVar

from langchain_core.language_models import BaseChatModel, BaseLanguageModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable, RunnableConfigurableAlternatives
from pydantic import SkipValidation

from darwin_align.core.config import SearchConfig
from darwin_align.core.errors import ConfigError
from darwin_align.core.selection import Selection
from darwin_align.core.types import Request, Response
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.lazy import loaded
from darwin_align.operators.base import Operator, Resource
from darwin_align.operators.context import MutationContext
from darwin_align.operators.decoder import Decoder
from darwin_align.operators.mutator import Mutator
from darwin_align.operators.mutators.langchain import ChainMutator, ChatModelMutator
from darwin_align.operators.mutators.plain import MUTATE, FunctionMutator
from darwin_align.operators.policy import Capabilities, Continuations, Policy, Row, has_tool_syntax
from darwin_align.operators.report import Report
from darwin_align.operators.scorer import Scorer
from darwin_align.operators.scorers.plain import SCORE, ChainScorer, FunctionScorer
from darwin_align.operators.scorers.rules import Rule, RuleScorer
from darwin_align.operators.selector import Selector
from darwin_align.operators.selectors import SELECT, FunctionSelector
from darwin_align.operators.signatures import check_signature

__all__ = [
    "ConfigLike",
    "DecoderLike",
    "MutatorLike",
    "PolicyLike",
    "ScorerLike",
    "SelectorLike",
    "as_config",
    "as_decoder",
    "as_mutator",
    "as_policy",
    "as_scorer",
    "as_selector",
    "parts_of",
]

GENERATE = "generate(rows) -> continuations"
"""The call of a policy."""
PopulationRunnable = Runnable[Any, Any]

T = TypeVar("T")


class HasGenerate(Protocol):
    """An object that is no :class:`~darwin_align.operators.policy.Policy` and continues rows."""

    def generate(self, rows: list[Row], /) -> Continuations | Awaitable[Continuations]: ...


class HasMutate(Protocol):
    """An object that is no mutator and rewords instructions."""

    def mutate(self, context: MutationContext, /) -> Mutations | Awaitable[Mutations]: ...


class HasMutateOfFour(Protocol):
    """One whose method has the four arguments of before."""

    def mutate(self, request: Request, instruction: str, n: int, seed: int, /) -> Mutations | Awaitable[Mutations]: ...


class HasScore(Protocol):
    """An object that is no scorer and rewards responses."""

    def score(self, request: Request, responses: list[Response], /) -> Rewards | Awaitable[Rewards]: ...


class HasSelect(Protocol):
    """An object that is no selector and selects."""

    def select(
        self, rewards: list[float], finished: list[bool], weights: list[float], seed: int, /
    ) -> Selected | Awaitable[Selected]: ...


Mutations = list[str] | Report[list[str]]
Rewards = Iterable[float] | Report[list[float]]
Selected = Selection | tuple[Iterable[int | None], Iterable[float]]

PolicyLike = (
    Policy
    | HasGenerate
    | Callable[[list[Row]], Continuations | Awaitable[Continuations]]
    | Runnable[LanguageModelInput, AIMessage]
)
"""What is taken as a policy: a function or an object of one's own besides policies, and a chat model, also behind
LangChain's ``bind``, ``with_retry`` and ``with_fallbacks``."""
DecoderLike = Decoder | PolicyLike | Runnable[Any, Any]
"""What is taken as a decoder: a decoder, also behind LangChain's wrappers, or what is taken as a policy."""
MutatorLike = (
    Mutator
    | HasMutate
    | HasMutateOfFour
    | Callable[[MutationContext], Mutations | Awaitable[Mutations]]
    | Callable[[Request, str, int, int], Mutations | Awaitable[Mutations]]
    | Runnable[Any, Any]
)
"""What is taken as a mutator: among the Runnables are chat models, and chains to a list of rewordings."""
ScorerLike = (
    Scorer
    | HasScore
    | Callable[[Request, list[Response]], Rewards | Awaitable[Rewards]]
    | Runnable[Any, Any]
    | Sequence[Rule]
)
"""What is taken as a scorer: among the Runnables are chains from one response to a number, but no chat models."""
SelectorLike = (
    Selector
    | HasSelect
    | Callable[[list[float], list[bool], list[float], int], Selected | Awaitable[Selected]]
    | Runnable[Any, Any]
)
"""What is taken as a selector."""
ConfigLike = SearchConfig | Mapping[str, Any]
"""What is taken as a search's settings."""


@dataclass(frozen=True, repr=False)
class ObjectPolicy(Policy):
    """An object with ``generate``, or a function like it, as a policy.

    Of an object's further attributes those are used that are named as a policy's or as its capabilities. They are
    looked up whenever they are needed.
    """

    given: Any

    def __repr__(self) -> str:
        return repr(self.given)

    @property
    def generate(self) -> Callable[..., Any]:
        """The object's method, or the function, itself: so it is seen whether it is a coroutine function."""
        method = getattr(self.given, "generate", None)
        return method if callable(method) else self.given  # type: ignore[no-any-return]

    @property
    def submit(self) -> Callable[..., Future[Any]]:
        """The object's, if it has one."""
        return getattr(self.given, "submit", super().submit)

    @property
    def refusal(self) -> Callable[[Request, int], str | None]:
        """The object's, if it has one."""
        return getattr(self.given, "refusal", super().refusal)

    @property
    def remembered_by(self) -> object:
        """The object."""
        return self.given

    def release(self, search_id: str) -> None:
        """Release the object, if it can be."""
        if callable(release := getattr(self.given, "release", None)):
            release(search_id)

    @property
    def has_own_refusal(self) -> bool:
        """Whether the object has one."""
        return hasattr(self.given, "refusal")

    @property
    def context_length(self) -> int | None:  # type: ignore[override] # an object may change it
        """The object's, if it has one."""
        return getattr(self.given, "context_length", None)

    @property
    def capabilities(self) -> Capabilities:
        """The object's, or those that its attributes name one by one."""
        if isinstance(own := getattr(self.given, "capabilities", None), Capabilities):
            return own
        declared = {name: bool(getattr(self.given, name)) for name in _CAPABILITIES if hasattr(self.given, name)}
        return Capabilities(**{"reads_tool_calls": self.reads_tool_calls, **declared})

    @property
    def template(self) -> object:
        """The object's chat template, if it has one."""
        return getattr(self.given, "template", None)


@dataclass(frozen=True, repr=False)
class ToolCallingPolicy(ObjectPolicy):
    """An object that also has a ``tool_syntax``."""

    @property
    def tool_syntax(self) -> ToolSyntax:
        """The object's; reading it may need a request to a server."""
        return self.given.tool_syntax  # type: ignore[no-any-return]


class ObjectScorer(FunctionScorer):
    """An object with ``score`` that keeps data for a search."""

    given: Annotated[Resource, SkipValidation]

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The object."""
        return (self.given,)


_CAPABILITIES = tuple(field.name for field in fields(Capabilities))


def as_policy(given: object) -> Policy:
    """Make a policy of a Policy, a chat model, an object with ``generate``, or a function like it.

    >>> as_policy(lambda rows: []).generate([])
    []
    """
    if isinstance(given, Policy):
        return given
    if _is(given, BaseChatModel):
        return loaded("darwin_align.backends.chat_model", "ChatModelPolicy")(given)  # type: ignore[no-any-return]
    if _is(given, BaseLanguageModel):
        raise ConfigError(
            f"{type(given).__name__} cannot be the policy: it completes texts, and a policy answers conversations. "
            "Give its provider's chat model, or EndpointPolicy(base_url=…, model=…) with its server's address"
        )
    _refuse_foreign("policy", given)
    if (method := _method(given, "generate")) is None:
        raise _refusal("policy", given)
    check_signature("policy", method, GENERATE)
    _refuse_text_function(method)
    if isinstance(given, Runnable):
        return ObjectPolicy(method)
    return ToolCallingPolicy(given) if has_tool_syntax(given) else ObjectPolicy(given)


def as_mutator(given: object) -> PopulationRunnable:
    """Make a mutator of a Mutator, a chat model, a chain, an object with ``mutate``, or a function like it.

    >>> as_mutator(lambda context: [context.instruction.upper()]).role
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
    raise _refusal("mutator", given)


def as_decoder(given: object) -> PopulationRunnable:
    """Make a decoder of a Decoder, or of whatever :func:`as_policy` takes."""
    if _is(given, Decoder):
        return _with_alternatives(given, as_decoder)
    return Decoder(policy=as_policy(given))


def as_scorer(given: object) -> PopulationRunnable:
    """Make a scorer of a Scorer, a chain to a number, a list of rules, an object with ``score``, or a function like it.

    >>> as_scorer(lambda request, responses: [0.0 for _ in responses]).role
    'score'
    """
    if _is(given, Scorer):
        return _with_alternatives(given, as_scorer)
    rules = [given] if isinstance(given, Rule) else given
    if isinstance(rules, list | tuple) and any(isinstance(one, Rule) for one in rules):
        return RuleScorer(rules)
    if _is(given, BaseLanguageModel):
        raise ConfigError(
            f"{type(given).__name__} cannot be the scorer: a language model generates text and gives no reward. Give "
            "scorer=JudgeScorer(model=…), which requests a score from it, or a chain: prompt | model | parser"
        )
    _refuse_foreign("scorer", given)
    if isinstance(given, Runnable) and not isinstance(given, Operator):
        return ChainScorer(chain=given)
    if (method := _method(given, "score")) is not None:
        if callable(getattr(given, "release", None)):
            return ObjectScorer(function=method, given=given)
        return FunctionScorer(function=method)
    raise _refusal("scorer", given)


def as_selector(given: object) -> PopulationRunnable:
    """Make a selector of a Selector, an object with ``select``, or a function like it.

    >>> as_selector(lambda rewards, finished, weights, seed: (range(len(rewards)), weights)).role
    'select'
    """
    if _is(given, Selector):
        return _with_alternatives(given, as_selector)
    _refuse_foreign("selector", given)
    if (method := _method(given, "select")) is not None:
        return FunctionSelector(function=method)
    raise _refusal("selector", given)


def as_config(given: object) -> object:
    """Refuse the name of a preset as a search's settings; whatever else it is, they are validated as they are."""
    if not isinstance(given, str):
        return given
    SearchConfig.preset(given)  # a name that is none is refused with the names that are
    raise ConfigError(f"config={given!r} is the name of a preset: give config=SearchConfig.preset({given!r})")


def parts_of(operator: PopulationRunnable, config: RunnableConfig) -> list[PopulationRunnable]:
    """The operators that may answer in a run with this config, out of LangChain's bindings, retries and so on."""
    if isinstance(operator, DynamicRunnable):
        return parts_of(*operator.prepare(config))
    if isinstance(operator, RunnableBindingBase):
        return parts_of(operator.bound, merge_configs(operator.config, config))
    if isinstance(operator, RunnableWithFallbacks):
        return [part for runnable in operator.runnables for part in parts_of(runnable, config)]
    return [operator]


def _with_alternatives(given: object, as_operator: Callable[[object], PopulationRunnable]) -> PopulationRunnable:
    """Make operators of the alternatives, too: LangChain takes any Runnable there, e.g. a chain as scorer."""
    if not isinstance(given, RunnableConfigurableAlternatives):
        return given  # type: ignore[return-value]
    others = {key: other for key, other in given.alternatives.items() if isinstance(other, Runnable)}
    made = {key: as_operator(other) for key, other in others.items()}
    if all(made[key] is others[key] for key in made):
        return given
    return given.model_copy(update={"alternatives": {**given.alternatives, **made}})


def _is(given: object, kind: type) -> bool:
    """Whether this is such an operator, bare or behind LangChain's bindings, retries, fallbacks and alternatives."""
    if isinstance(given, DynamicRunnable):
        return _is(given.default, kind)
    if isinstance(given, RunnableBindingBase):
        return _is(given.bound, kind)
    if isinstance(given, RunnableWithFallbacks):
        return _is(given.runnable, kind)
    return isinstance(given, kind)


def _method(given: object, name: str) -> Callable[..., Any] | None:
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
_WRAPPED = {
    "policy": "wrap the model and its tokenizer: LocalPolicy(model, tokenizer), or load them: "
    "LocalPolicy.from_pretrained(…)",
    "scorer": "wrap the model and its tokenizer: LocalScorer(reward_model=RewardModel(model, tokenizer)), or load "
    "them: LocalScorer.from_pretrained(…)",
}
_LIBRARIES = {
    "transformers": _WRAPPED,
    "peft": _WRAPPED,
    "torch": _WRAPPED,
    "vllm": {"policy": "serve the model by `vllm serve` and give EndpointPolicy(base_url=…)"},
    "openai": {"policy": "give EndpointPolicy(base_url=…)", "scorer": "give JudgeScorer(base_url=…)"},
}


def _refuse_foreign(role: str, given: object) -> None:
    """Refuse what could pass for an operator and is none: a name, a class, an object of another library."""
    start = f"cannot use {type(given).__name__} {given!r:.80} as {role}: "
    if isinstance(given, str):
        raise ConfigError(f"{_refusal(role, given)}; {_BY_NAME[role].format(given)}")
    method = _CALLS[role].partition("(")[0]
    library = None if isinstance(given, Runnable) else _library(given, method)
    if library is not None:
        instead = _LIBRARIES[library].get(role, f"a {role} is a function or an object of your own that calls it")
        raise ConfigError(f"{start}it belongs to {library}; {instead}")
    if isinstance(given, type) and hasattr(given, method):
        raise ConfigError(f"{start}this is the class: give an object of it, {given.__name__}(…)")


def _library(given: object, method: str) -> str | None:
    """The library by whose rules an object works: it has its own ``generate``, or is called with tensors."""
    kind = given if isinstance(given, type) else type(given)
    homes = [base.__module__.partition(".")[0] for base in kind.__mro__]
    # A module of a user's own that has the method may well be an operator.
    known = _LIBRARIES.keys() - ({"torch"} if hasattr(kind, method) else set())
    return next((home for home in homes if home in known), None)


def _refuse_text_function(function: Callable[..., object]) -> None:
    """Refuse a function whose annotations show that it takes a text, as a policy."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return
    if parameters and parameters[0].annotation in (str, "str"):
        name = getattr(function, "__qualname__", type(function).__name__)
        raise ConfigError(
            f"cannot use {name} as policy: it takes a text, and a policy is given rows to continue, each with its "
            f"request and the state so far: {GENERATE}. For a model behind an address give "
            "EndpointPolicy(base_url=…), for a local one LocalPolicy.from_pretrained(…)"
        )


def _refusal(role: str, given: object) -> ConfigError:
    return ConfigError(
        f"cannot use {type(given).__name__} {given!r:.80} as {role}: "
        f"give a {role.capitalize()}, a function, or an object with the method {_CALLS[role]}"
    )
