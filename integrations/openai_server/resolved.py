"""From a chat request to what a search is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from darwin_align.formats.schema_bounds import check_schemas

from .conversation import check_texts, texts_of, to_langchain
from .faults import invalid
from .served import SearchModel
from .settings import SearchLimits
from .wire import ChatRequest

__all__ = ["ResolvedRequest"]

_ALIKE = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "parallel_tool_calls")


@dataclass(frozen=True)
class ResolvedRequest:
    """A request that may be searched for."""

    served: SearchModel
    messages: list[BaseMessage]
    settings: Mapping[str, Any]
    """Arguments of the model's call."""
    n: int
    seconds: float
    """After which the search ends by itself."""

    @classmethod
    def of(cls, request: ChatRequest, served: SearchModel, limits: SearchLimits) -> ResolvedRequest:
        """Check a request against what the model can do and what the operator allows.

        Raises:
            Fault: it asks for too much.
            ConfigError: settings that contradict each other.
            RequestError: a conversation that cannot be answered.
        """
        check_texts(limits, texts_of(request.messages), "messages")
        check_schemas(_schemas(request))  # before anything copies them
        messages, n = to_langchain(request.messages), request.n or 1
        settings = {**served.base, **_settings(request)}
        core, config = served.model.search.request(messages, settings)
        _ = core.turn  # a conversation that cannot be answered is told of now
        if too_much := limits.excess(config, n):
            param, sentence = too_much
            raise invalid(sentence, param)
        settings["budget"] = budget = limits.bounded(config.budget)
        return cls(served, messages, settings, n, budget.seconds or limits.seconds)


def _schemas(request: ChatRequest) -> list[Any]:
    form = request.response_format
    found: list[Any] = [tool.function.parameters for tool in request.tools or ()]
    return [*found, form.json_schema.schema_] if form and form.json_schema else found


def _settings(request: ChatRequest) -> dict[str, Any]:
    given = {name: getattr(request, name) for name in _ALIKE}
    given["max_new_tokens"] = request.max_completion_tokens or request.max_tokens
    if request.darwin is not None:
        given |= request.darwin.search
    if request.tools:
        given["tools"] = [tool.model_dump(exclude_none=True) for tool in request.tools]
        choice = request.tool_choice
        given["tool_choice"] = choice if isinstance(choice, str | None) else choice.model_dump()
    if request.response_format is not None:
        given["response_format"] = request.response_format.model_dump(by_alias=True, exclude_none=True)
    return {name: value for name, value in given.items() if value is not None}
