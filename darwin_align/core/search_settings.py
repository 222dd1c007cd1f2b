"""The settings of one call, by name and type: what ``search.invoke(…, **settings)`` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from darwin_align.core.budget import Budget
from darwin_align.core.clauses import Clause
from darwin_align.core.config import Choice, Decoding, MutatorName, OnFailure, SelectorName
from darwin_align.core.events import Event
from darwin_align.core.types import Grounded, Population

__all__ = ["OnEvent", "PlainSettings", "SearchSettings"]

OnEvent = Callable[[Event, Population], None]
"""Called after each answered question with the event and the population that it led to. If a question failed for good
and ended the search, the last event reports the failure, and the population is the question's."""


class PlainSettings(TypedDict, total=False):
    """Settings of ``SearchConfig`` and ``Sampling`` that have one type wherever they are given.

    ``None`` means not given.
    """

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
    max_thinking_tokens: int | None


class SearchSettings(PlainSettings, total=False):
    """Settings for one call only; ``None`` means not given.

    Those of :class:`~darwin_align.core.config.SearchConfig`, then those of
    :class:`~darwin_align.core.types.Sampling`, then those of the request, and at last what a call alone has.
    """

    mutator: MutatorName | None
    clauses: Sequence[Clause] | None
    selector: SelectorName | None

    stop: str | Sequence[str] | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: Mapping[str, Any] | None
    grounded: Grounded | None
    grounded_in: Sequence[str] | None
    chat_template_kwargs: Mapping[str, Any] | None
    """Switches of the policy's chat template, e.g. ``{"enable_thinking": False}``."""

    replay: Sequence[Event]
    """Recorded events to start from."""
    on_event: OnEvent | None
    progress: bool | None
    """Whether to draw a bar while the search runs; ``None`` leaves it to the search."""
