"""Chat models behind LangChain's wrappers, as a policy takes them."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase

from darwin_align.core.errors import ConfigError

__all__ = ["check_wrapped"]

_REQUESTS = ("tools", "functions", "tool_choice", "response_format")
"""What belongs to a request: bound to the policy, the search would not know of it."""


def check_wrapped(given: Runnable[Any, Any]) -> None:
    """Refuse what is no chat model, or has bound what belongs to a request.

    Raises:
        ConfigError: with what to give instead.
    """
    if isinstance(given, RunnableWithFallbacks):
        for one in (given.runnable, *given.fallbacks):
            check_wrapped(one)
    elif isinstance(given, RunnableBindingBase):
        if bound := [name for name in _REQUESTS if given.kwargs.get(name)]:
            raise ConfigError(
                f"{bound[0]} is bound to the policy's chat model, and the search would not know of it: bind it to the "
                "DarwinChatModel, or give it to the call, and the chat model without it as policy"
            )
        check_wrapped(given.bound)
    elif not isinstance(given, BaseChatModel):
        raise ConfigError(
            f"{type(given).__name__} cannot be the policy: give the chat model itself, also behind bind, with_retry or "
            "with_fallbacks. To choose between models in a call, give decoders as alternatives: "
            "Decoder(policy=…).configurable_alternatives(…)"
        )
