"""What a policy and a judge made of LangChain's chat models share: wrappers, structured output, messages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase

from darwin_align.core.errors import OperatorError
from darwin_align.core.json_types import Json

__all__ = ["cut_answer", "message_of", "model_in", "rewrapped", "structured"]


def model_in(given: Runnable[Any, Any]) -> BaseChatModel | None:
    """The chat model behind bindings, retries and fallbacks (the first, of several); ``None`` if there is none.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> model = FakeListChatModel(responses=["Hi"])
    >>> model_in(model.bind(stop=["x"]).with_retry()) is model
    True
    """
    if isinstance(given, RunnableBindingBase):
        return model_in(given.bound)
    if isinstance(given, RunnableWithFallbacks):
        return model_in(given.runnable)
    return given if isinstance(given, BaseChatModel) else None


def rewrapped(given: Runnable[Any, Any], change: Callable[[BaseChatModel], Runnable[Any, Any]]) -> Runnable[Any, Any]:
    """Put what ``change`` makes of a chat model in its place, inside the same wrappers."""
    if isinstance(given, RunnableBindingBase):
        return given.model_copy(update={"bound": rewrapped(given.bound, change)})
    if isinstance(given, RunnableWithFallbacks):
        fallbacks = [rewrapped(fallback, change) for fallback in given.fallbacks]
        return given.model_copy(update={"runnable": rewrapped(given.runnable, change), "fallbacks": fallbacks})
    return change(given) if isinstance(given, BaseChatModel) else given


def structured(model: BaseChatModel, name: str, schema: Json) -> Runnable[Any, Any] | None:
    """A chat model that keeps a schema; ``None`` if it has no structured output.

    Args:
        model: the chat model.
        name: of the schema, for models that want one.
        schema: a JSON schema; ``True``, which anything keeps, is any object.

    Returns:
        A chain to a dict: ``raw`` is the model's message, ``parsed`` what was read from it, or ``None``.
    """
    kind = type(model)
    own = kind.with_structured_output is not BaseChatModel.with_structured_output
    if not own and kind.bind_tools is BaseChatModel.bind_tools:
        return None
    described = schema if isinstance(schema, Mapping) else {"type": "object"}
    titled: dict[str, Any] = {"description": name, **described, "title": name}
    methods: list[dict[str, Any]] = [{"method": "json_mode" if described == {"type": "object"} else "json_schema"}, {}]
    for method in methods:
        try:
            return model.with_structured_output(titled, include_raw=True, **method)
        except (NotImplementedError, TypeError, ValueError):  # it has no such method; then its own choice
            continue
    return None


def message_of(output: object) -> tuple[AIMessage, Json]:
    """The message that a chat model, or a structured one, answered with, and what was parsed from it.

    Raises:
        OperatorError: there is none.
    """
    message, parsed = (output.get("raw"), output.get("parsed")) if isinstance(output, Mapping) else (output, None)
    if not isinstance(message, AIMessage):
        raise OperatorError(f"a chat model answered with {output!r:.80}, which is no AIMessage")
    return message, parsed


def cut_answer(error: Exception) -> AIMessage | None:
    """The message in an error by which OpenAI's own client refuses a structured answer that was cut; else ``None``."""
    openai: Any = sys.modules.get("openai")
    if openai is None or not isinstance(error, openai.LengthFinishReasonError):
        return None
    completion: Any = error.completion
    usage = completion.usage
    counted = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens} if usage else None
    return AIMessage(
        completion.choices[0].message.content or "",
        response_metadata={"finish_reason": "length"},
        usage_metadata=None if counted is None else {**counted, "total_tokens": usage.total_tokens},
    )
