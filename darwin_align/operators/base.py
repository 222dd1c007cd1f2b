"""What is true of all four operators: they are Runnables from population to population.

``decoder | scorer | selector`` is a chain that can be run by hand; the selector advances the step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar, Union

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec, get_unique_config_specs
from pydantic import ConfigDict

from darwin_align.core.record import plain_errors
from darwin_align.core.types import OperatorName, Population
from darwin_align.operators.policy import (
    Allowance,
    Policy,
    current_allowance,
    current_search,
)
from darwin_align.operators.portal import acall, call, time_limit
from darwin_align.operators.tracing import TracedRunnable, summary

__all__ = ["Dialogue", "MethodCall", "Operator", "Reply", "Resource", "policy_of"]

T = TypeVar("T")
Reply = Union[T, Awaitable[T]]  # noqa: UP007 - a generic alias needs the old spelling
MethodCall = tuple[Callable[..., object], tuple[object, ...]]
Dialogue = Generator[MethodCall, Any, Population]


class Resource(Protocol):
    """An object that keeps data for a search, e.g. a cache."""

    def release(self, search_id: str) -> None:
        """Free the data of a search that is over."""
        ...


def policy_of(given: object) -> Policy:
    """Adapt an operator's ``policy``: see :func:`~darwin_align.operators.coerce.as_policy`."""
    from darwin_align.operators.coerce import as_policy  # it imports this module

    return as_policy(given)


class Operator(TracedRunnable[Population, Population]):
    """A Runnable over a population. Its method may be plain or ``async``; both drivers run both."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    role: ClassVar[OperatorName]

    def __init__(self, **fields: object) -> None:
        with plain_errors(type(self)):
            super().__init__(**fields)

    @abstractmethod
    def _dialogue(self, population: Population) -> Dialogue:
        """Yield ``(method, args)``, be sent its reply, return the answer: one implementation for sync and async."""

    def invoke(self, input: Population, config: RunnableConfig | None = None, **kwargs: Any) -> Population:
        """Answer the population's question."""
        _refuse(kwargs, self)
        return self._traced(partial(self._answer, input), summary(input), config, summary)

    async def ainvoke(self, input: Population, config: RunnableConfig | None = None, **kwargs: Any) -> Population:
        """Answer the population's question without blocking the event loop."""
        _refuse(kwargs, self)
        return await self._atraced(partial(self._aanswer, input), summary(input), config, summary)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """Parts that keep data for a search: they are released when it is over, as the operator itself is."""
        return ()

    def release(self, search_id: str) -> None:
        """Free what this operator keeps for a search that is over: a hint."""

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What ``{"configurable": {...}}`` may change: of the chains and operators that this one is made of."""
        parts = [part for value in dict(self).values() for part in (value if isinstance(value, tuple) else (value,))]
        runnables = [part for part in parts if isinstance(part, Runnable)]
        return get_unique_config_specs(spec for runnable in runnables for spec in runnable.config_specs)

    def _answer(self, population: Population, _: RunnableConfig) -> Population:
        dialogue = self._dialogue(population)
        try:
            with _answering(population):
                method, args = next(dialogue)
                while True:
                    method, args = dialogue.send(call(method, *args))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _aanswer(self, population: Population, _: RunnableConfig) -> Population:
        dialogue = self._dialogue(population)
        try:
            with _answering(population):
                method, args = next(dialogue)
                while True:
                    reply = await acall(method, *args)
                    method, args = dialogue.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


@contextmanager
def _answering(population: Population) -> Iterator[None]:
    """Set the context variables that an operator's methods may read: the search, and the rest of its budget."""
    step = population.step
    limit = None if step.seconds_left is None else step.seconds_left + step.grace_seconds
    search = current_search.set(population.search_id)
    allowance = current_allowance.set(Allowance.of(step.tokens_left, step.seconds_left))
    try:
        with time_limit(limit):
            yield
    finally:
        current_allowance.reset(allowance)
        current_search.reset(search)


def _refuse(kwargs: dict[str, Any], operator: Operator) -> None:
    if kwargs:
        raise TypeError(f"{type(operator).__name__} takes no call arguments: {', '.join(kwargs)}")
