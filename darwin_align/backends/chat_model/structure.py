"""Structured output of LangChain's chat models: by a format of theirs, or by the call of a tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from darwin_align.core.errors import OperatorError
from darwin_align.core.json_types import Json

__all__ = ["message_of", "structured"]


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
