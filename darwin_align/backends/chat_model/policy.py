"""A LangChain chat model as the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable

from darwin_align.backends.chat_model.parameters import adapted, refused_setting, supports_tools
from darwin_align.backends.chat_model.replies import SYNTAX, continuation_of
from darwin_align.backends.chat_model.wrapped import check_wrapped
from darwin_align.backends.concurrency import Places
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.backends.langchain_models import cut_answer, message_of, model_in, rewrapped
from darwin_align.core.budget import Usage
from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.core.types import Request
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.operators.messages import to_langchain
from darwin_align.operators.policy import Capabilities, Continuation, Policy, Row
from darwin_align.operators.portal import acall
from darwin_align.operators.report import Report

__all__ = ["ChatModelPolicy"]

_Answer = tuple[Continuation, Usage, dict[str, None]]


class ChatModelPolicy(Policy):
    """Any LangChain chat model, which writes whole answers: it cannot continue a part of one.

    So searches compare whole answers: presets ``sample``, ``best_of_n``, ``soft_best_of_n``, ``mutate_best_of_n`` and
    ``learned_clauses``, or ``selector="none"``. Others are refused when a search is made or called. Where the model's
    server can continue a partial answer, :class:`~darwin_align.backends.endpoint.policy.EndpointPolicy` does it.

    Each row is one call. The search's ``max_tokens`` and the row's seed are set on a copy of the model, and so are
    ``temperature``, ``top_p``, ``top_k`` and ``repetition_penalty`` where they were set for the search by hand;
    otherwise the model's own apply. A model without such a field, or whose server refuses it, goes without, and the
    result's notes say so once. ``stop``, tools and ``tool_choice`` are given to the model as LangChain gives them,
    formats by its structured output. Tools are not shown to it where ``tool_choice`` is "none".

    Attempts and timeouts are the model's own (``max_retries``, ``timeout``), and so are errors.

    Args:
        model: a chat model, also behind ``bind``, ``with_retry`` and ``with_fallbacks``.
        limits: its ``concurrency`` is the number of calls at once, of all searches together.

    Raises:
        ConfigError: no chat model, tools that are bound to it, or limits that the model has itself.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> policy = ChatModelPolicy(FakeListChatModel(responses=["Heat the water."]))
    >>> policy.capabilities.continues
    False
    """

    def __init__(self, model: Runnable[Any, Any], *, limits: Limits | None = None) -> None:
        check_wrapped(model)
        self.model, self.limits = model, limits or Limits()
        if theirs := sorted(self.limits.model_fields_set - {"concurrency"}):
            raise ConfigError(
                f"limits.{theirs[0]} belongs to the chat model: set it there, e.g. by max_retries=… and timeout=…"
            )
        self._places = Places(self.limits.concurrency)
        self._refused: set[str] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name})"

    @property
    def remembered_by(self) -> object:
        """The chat model."""
        return self.model

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.model, self.limits)

    @property
    def _name(self) -> str:
        return type(model_in(self.model)).__name__

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do, by its class and its LangChain profile."""
        model = model_in(self.model)
        profile = (model.profile if model else None) or {}
        return Capabilities(
            continues=False,
            stops_in_time=True,
            enforces_formats=bool(profile.get("structured_output")),
            supports_tools=model is not None and supports_tools(model),
            reads_tool_calls=True,
        )

    @property
    def context_length(self) -> int | None:  # type: ignore[override] # known by the model's profile
        """Tokens of a prompt, where LangChain has a profile of the model."""
        model = model_in(self.model)
        return ((model.profile if model else None) or {}).get("max_input_tokens")

    @property
    def tool_syntax(self) -> ToolSyntax:
        """The form in which a message's tool calls stand in a beam's text."""
        return SYNTAX

    def check_tools(self, request: Request) -> None:  # noqa: ARG002
        """Refuse tools where the model takes none.

        Raises:
            RequestError: its class has no ``bind_tools``.
        """
        if not self.capabilities.supports_tools:
            raise RequestError(f"the request has tools, and {self._name} takes none: use a chat model with bind_tools")

    def describe(self) -> str:
        """Name the model, and say that it cannot continue an answer."""
        return f"{self._name} of LangChain: writes whole answers, and cannot continue a part of one"

    async def generate(self, rows: Sequence[Row]) -> Report[list[Continuation]]:
        """Write a whole answer for every row; those that take longer than the row's seconds stay empty.

        Raises:
            ConfigError: a row has a state to continue.
            Exception: whatever the model raises.
        """
        return await acall(self._generate, rows)  # type: ignore[no-any-return]

    async def _generate(self, rows: Sequence[Row]) -> Report[list[Continuation]]:
        if any(row.tokens or row.text for row in rows):
            raise ConfigError(
                f"{self!r} writes whole answers and was given a part of one to continue: decode it in one step, e.g. "
                "under SearchConfig.preset('best_of_n'), or use a LocalPolicy or an EndpointPolicy"
            )
        if not rows:
            return Report([])
        seconds = min((row.seconds for row in rows if row.seconds is not None), default=None)
        answers = await _in_time([asyncio.ensure_future(self._answer(row)) for row in rows], seconds)
        notes = {note: None for _, _, noted in answers for note in noted}
        return Report([one for one, _, _ in answers], sum((more for _, more, _ in answers), Usage()), tuple(notes))

    async def _answer(self, row: Row) -> _Answer:
        async with self._places():
            while True:
                notes = {f"{self._name} does not take {name}: it is left out": None for name in sorted(self._refused)}
                try:
                    return await self._called(row, notes)
                except ModelInvalidRequestError as error:
                    if (setting := refused_setting(error, row, self._refused)) is None:
                        raise
                    self._refused.add(setting)

    async def _called(self, row: Row, notes: dict[str, None]) -> _Answer:
        def change(model: Any) -> Runnable[Any, Any]:
            made, lacking = adapted(model, row, self._refused)
            notes.update(lacking)
            return made

        messages: list[BaseMessage] = to_langchain(row.request.conversation)
        try:
            message, _ = message_of(await rewrapped(self.model, change).ainvoke(messages))
        except Exception as error:
            if (cut := cut_answer(error)) is None:
                raise
            message = cut
        answer, more, further = continuation_of(message, row, self._name)
        return answer, more, notes | further


def _made(model: Runnable[Any, Any], limits: Limits) -> ChatModelPolicy:
    return ChatModelPolicy(model, limits=limits)


async def _in_time(tasks: Sequence[asyncio.Task[_Answer]], seconds: float | None) -> list[_Answer]:
    """The answers, in order: empty ones for those that took too long. The first error cancels the others."""
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        return [task.result() if task in done else (Continuation(""), Usage(), {}) for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
