"""The arguments of a chat model by name and type, so that a type checker refuses a misspelt or an ill-typed one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict

from langchain_core.caches import BaseCache
from langchain_core.callbacks import Callbacks
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import BaseMessage
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import Runnable

from darwin_align.core.budget import Budget
from darwin_align.core.clauses import Clause
from darwin_align.core.config import Choice, Decoding, MutatorName, OnFailure, SearchConfig, SelectorName
from darwin_align.core.selection import Selection
from darwin_align.core.types import Grounded, Request, Response, Sampling
from darwin_align.operators.base import Check, Decoder, Mutator, Scorer, Selector
from darwin_align.operators.policy import Continuation, Policy, Row
from darwin_align.operators.prompts import MutationPrompt
from darwin_align.operators.report import Report

__all__ = [
    "Bypass",
    "CommonArguments",
    "DecoderLike",
    "MutatorLike",
    "PolicyLike",
    "ScorerLike",
    "SelectorLike",
]

Bypass = Callable[[list[BaseMessage]], bool]
"""Says of a conversation whether it is answered by one plain sample, without a search."""


class HasGenerate(Protocol):
    """An object that continues rows."""

    def generate(self, rows: list[Row], /) -> Continuations | Awaitable[Continuations]:
        """Return one continuation for each row."""
        ...


class HasMutate(Protocol):
    """An object that rewords instructions."""

    def mutate(self, request: Request, instruction: str, n: int, seed: int, /) -> Mutations | Awaitable[Mutations]:
        """Return at most ``n`` rewordings."""
        ...


class HasScore(Protocol):
    """An object that rewards responses."""

    def score(self, request: Request, responses: list[Response], /) -> Rewards | Awaitable[Rewards]:
        """Return one reward for each response."""
        ...


class HasSelect(Protocol):
    """An object that selects."""

    def select(
        self, rewards: list[float], finished: list[bool], weights: list[float], seed: int, /
    ) -> Selected | Awaitable[Selected]:
        """Return an ancestor or ``None`` for each beam, and the weights."""
        ...


Continuations = Sequence[Continuation] | Report[Any]
Mutations = list[str] | Report[list[str]]
Rewards = Iterable[float] | Report[Any]
Selected = Selection | tuple[Iterable[int | None], Iterable[float]]

PolicyLike = Policy | HasGenerate | Callable[[list[Row]], Continuations | Awaitable[Continuations]]
"""What is taken as a policy: an object with ``generate``, or a function like it."""
DecoderLike = Decoder | PolicyLike | Runnable[Any, Any]
"""What is taken as a decoder."""
MutatorLike = (
    Mutator | HasMutate | Callable[[Request, str, int, int], Mutations | Awaitable[Mutations]] | Runnable[Any, Any]
)
"""What is taken as a mutator: among the Runnables are chat models, and chains to a list of rewordings."""
ScorerLike = Scorer | HasScore | Callable[[Request, list[Response]], Rewards | Awaitable[Rewards]] | Runnable[Any, Any]
"""What is taken as a scorer: among the Runnables are chains from one response to a number."""
SelectorLike = (
    Selector
    | HasSelect
    | Callable[[list[float], list[bool], list[float], int], Selected | Awaitable[Selected]]
    | Runnable[Any, Any]
)
"""What is taken as a selector."""


class CommonArguments(TypedDict, total=False):
    """Arguments of a chat model, beside its models. A setting that is ``None`` is not given.

    The parts of a search and the model's own fields, then the fields of every chat model of LangChain, then settings of
    :class:`~darwin_align.core.config.SearchConfig` and :class:`~darwin_align.core.types.Sampling`, one by one.
    """

    decoder: DecoderLike | None
    mutator: MutatorLike | MutatorName | None
    selector: SelectorLike | SelectorName | None
    config: SearchConfig | Mapping[str, Any]
    sampling: Sampling | Mapping[str, Any]
    clauses: Sequence[Clause]
    grounded: Grounded
    mutation_prompt: MutationPrompt | str
    guard: Check | None
    bypass: Bypass | None
    model_name: str
    stop: Sequence[str]
    streaming: bool

    name: str | None
    cache: BaseCache | bool | None
    verbose: bool
    callbacks: Callbacks
    tags: list[str] | None
    metadata: dict[str, Any] | None
    custom_get_token_ids: Callable[[str], list[int]] | None
    rate_limiter: BaseRateLimiter | None
    disable_streaming: bool | Literal["tool_calling"]
    output_version: str | None
    profile: ModelProfile | None

    mutations: int | None
    beams_per_mutation: int | None
    survivors: int | None
    replacement_period: int | None
    cycles: int | None
    champions: int | None
    lookahead: int | None
    max_new_tokens: int | None
    max_tokens: int | None
    """``max_new_tokens`` by another name, as is ``max_completion_tokens``."""
    max_completion_tokens: int | None
    decoding: Decoding | None
    choice: Choice | None
    reward_temperature: float | None
    resample_below: float | None
    rejection: float | None
    reward_weight: float | None
    target_reward: float | None
    patience: int | None
    min_improvement: float | None
    seed: int | None
    budget: Budget | Mapping[str, Any] | None
    on_failure: OnFailure | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None
