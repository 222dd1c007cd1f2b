"""Tokens of LangChain models, counted by callbacks wherever in a chain or function the models are called."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook

from darwin_align.core.budget import Usage
from darwin_align.operators.portal import call

__all__ = ["TokenCounter", "counting", "with_policy_usage"]


T = TypeVar("T")


@dataclass
class _Tokens:
    read: int = 0
    decoded: int = 0
    total: int = 0
    calls: int = 0


class TokenCounter(BaseCallbackHandler):
    """Adds up what models report in their messages' ``usage_metadata``, or in ``token_usage`` of the whole reply.

    Safe for calls from several threads and event loops. A model that reports nothing counts as a call of no tokens. Of
    a model that is made of models (a :class:`~darwin_align.chat_model.DarwinChatModel`), only its own report counts.
    """

    run_inline = True

    def __init__(self) -> None:
        super().__init__()
        self._lock, self._tokens = threading.Lock(), _Tokens()
        self._models: set[UUID] = set()
        self._within: set[UUID] = set()

    def on_chain_start(self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **__: Any) -> None:
        """Note a run within a model's run."""
        with self._lock:
            if parent_run_id in self._models | self._within:
                self._within.add(run_id)

    def on_chat_model_start(self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **__: Any) -> None:
        """Note a model's run, unless it is within another model's."""
        with self._lock:
            within = parent_run_id in self._models | self._within
            (self._within if within else self._models).add(run_id)

    on_llm_start = on_chat_model_start

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Count one call of a model."""
        if run_id not in self._models:
            return
        read, decoded, total = _reported(response)
        with self._lock:
            tokens = self._tokens
            self._tokens = _Tokens(tokens.read + read, tokens.decoded + decoded, tokens.total + total, tokens.calls + 1)

    @property
    def as_policy(self) -> Usage:
        """The tokens as a mutator's: read and decoded."""
        tokens = self._tokens
        return Usage(prefilled_tokens=tokens.read, decoded_tokens=tokens.decoded, policy_calls=tokens.calls)

    @property
    def as_reward(self) -> Usage:
        """The tokens as a scorer's."""
        return Usage(reward_tokens=self._tokens.total)


def _reported(response: LLMResult) -> tuple[int, int, int]:
    messages = [
        generation.message
        for generations in response.generations
        for generation in generations
        if isinstance(generation, ChatGeneration)
    ]
    usages = [message.usage_metadata for message in messages if isinstance(message, AIMessage)]
    if found := [usage for usage in usages if usage]:
        read, decoded = (sum(usage[key] for usage in found) for key in ("input_tokens", "output_tokens"))
        return read, decoded, sum(usage["total_tokens"] for usage in found)
    whole = (response.llm_output or {}).get("token_usage")
    counts = whole if isinstance(whole, dict) else {}
    read, decoded, total = (
        count if isinstance(count := counts.get(f"{kind}_tokens"), int) else 0
        for kind in ("prompt", "completion", "total")
    )
    return read, decoded, total or read + decoded


_counter: ContextVar[TokenCounter | None] = ContextVar("darwin_align_token_counter", default=None)
register_configure_hook(_counter, inheritable=True)


@contextmanager
def counting() -> Iterator[TokenCounter]:
    """Count the tokens of every LangChain model that is called in this context, or in one that is copied from it."""
    counter = TokenCounter()
    token = _counter.set(counter)
    try:
        yield counter
    finally:
        _counter.reset(token)


def with_policy_usage(method: Callable[..., T | Awaitable[T]]) -> Callable[..., tuple[T, Usage]]:
    """Return a plain function that calls a plain or ``async`` method and also returns the usage of its models."""

    def counted(*args: object) -> tuple[T, Usage]:
        with counting() as counter:
            return call(method, *args), counter.as_policy

    return counted
