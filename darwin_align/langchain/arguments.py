"""The arguments of a chat model by name and type, so that a type checker refuses a misspelt or an ill-typed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from langchain_core.caches import BaseCache
from langchain_core.callbacks import Callbacks
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import BaseMessage
from langchain_core.rate_limiters import BaseRateLimiter
from pydantic import SecretStr

from darwin_align.core.clauses import Clause
from darwin_align.core.config import MutatorName, SearchConfig, SelectorName
from darwin_align.core.search_settings import PlainSettings
from darwin_align.core.types import Grounded, Sampling
from darwin_align.operators.coerce import DecoderLike, MutatorLike, PolicyLike, ScorerLike, SelectorLike
from darwin_align.operators.mutator import Check
from darwin_align.operators.prompts import MutationPrompt

__all__ = ["Bypass", "CommonArguments", "ModelArguments"]

Bypass = Callable[[list[BaseMessage]], bool]
"""Says of a conversation whether it is answered by one plain sample, without a search."""


class CommonArguments(PlainSettings, total=False):
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
    progress: bool
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


class ModelArguments(CommonArguments, total=False):
    """Arguments of a chat model with its models: by name, or as the objects that they become."""

    model: str | Path | PolicyLike | BaseChatModel | None
    """A folder, a hub id, a GGUF file, or the name that the server at ``base_url`` has for it; or an object."""
    reward: str | Path | ScorerLike
    """A folder, a hub id, the address of a reward server, a function, a chain, a chat model as judge, or a scorer."""
    base_url: str | Sequence[str] | None
    """Address of the policy's server, or several."""
    api_key: str | SecretStr | None
    """Of that server, and of no other."""
    timeout: float | None
    """Seconds for one attempt at a request to that server."""
    max_retries: int | None
    policy: PolicyLike | None
    scorer: ScorerLike
