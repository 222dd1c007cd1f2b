"""From a chat request to a search's request and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from darwin_align import Request, SearchConfig
from darwin_align.formats.schema_bounds import check_schemas
from darwin_align.operators.messages import to_langchain

from .conversation import check_texts, messages_of, texts_of
from .faults import invalid
from .served import SearchModel
from .settings import SearchLimits
from .wire import ChatRequest

__all__ = ["ResolvedRequest"]

_ALIKE = (
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "seed",
    "stop",
    "parallel_tool_calls",
    "chat_template_kwargs",
)
"""Fields of a chat request that are named as a search's settings."""


@dataclass(frozen=True)
class ResolvedRequest:
    """A request that may be searched for."""

    request: Request
    """The conversation, with everything that travels with it: tools, formats, stop strings, sampling."""
    settings: Mapping[str, Any]
    """Settings of the search, by the names of :class:`~darwin_align.core.SearchConfig`."""
    n: int
    """Answers in the reply."""
    seconds: float
    """After which the search ends by itself."""

    @classmethod
    def of(cls, body: ChatRequest, served: SearchModel, limits: SearchLimits) -> ResolvedRequest:
        """Check a request against what the model can do and what the operator allows.

        Raises:
            Fault: it exceeds the server's limits.
            ConfigError: settings that contradict each other.
            RequestError: a conversation that cannot be answered.
        """
        check_texts(limits, texts_of(body.messages), "messages")
        check_schemas(_schemas(body))  # before anything copies them
        model, n = served.model, body.n or 1
        given = {**served.base, **_settings(body)}
        if stop := body.stop or list(model.stop):
            given["stop"] = stop
        request, config = model.search.request(messages_of(body.messages), given)
        _ = request.turn  # refuses a conversation that cannot be answered
        if excess := limits.excess(config, n):
            param, sentence = excess
            raise invalid(sentence, param)
        settings = {name: value for name, value in given.items() if name in SearchConfig.model_fields}
        settings["budget"] = budget = limits.bounded(config.budget)
        if model.bypass is not None and model.bypass(to_langchain(request.conversation)):
            settings.update(cycles=0, lookahead=0)
        return cls(request, settings, n, budget.seconds or limits.seconds)


def _schemas(body: ChatRequest) -> list[Any]:
    form = body.response_format
    found: list[Any] = [tool.function.parameters for tool in body.tools or ()]
    return [*found, form.json_schema.schema_] if form and form.json_schema else found


def _settings(body: ChatRequest) -> dict[str, Any]:
    given = {name: getattr(body, name) for name in _ALIKE}
    given["max_new_tokens"] = body.max_completion_tokens or body.max_tokens
    if body.darwin is not None:
        given |= body.darwin.search
    if body.tools:
        given["tools"] = [tool.model_dump(exclude_none=True) for tool in body.tools]
        choice = body.tool_choice
        given["tool_choice"] = choice if isinstance(choice, str | None) else choice.model_dump()
    if body.response_format is not None:
        given["response_format"] = body.response_format.model_dump(by_alias=True, exclude_none=True)
    return {name: value for name, value in given.items() if value is not None}
