"""What looks on while searches run: telemetry sees searches, operators and requests to servers, and changes nothing.

Core knows nothing of it. Without an observer a search takes the no-op path of the base classes here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from darwin_align.core.config import SearchConfig
from darwin_align.core.events import Event, Question
from darwin_align.core.result import SearchResult
from darwin_align.core.types import Population, Request

__all__ = [
    "MODEL",
    "Attempt",
    "CallObserver",
    "Observer",
    "SearchObserver",
    "add_observer",
    "observed_call",
    "observed_search",
    "observing",
    "remove_observer",
]

MODEL = "darwin_model"
"""Key of a run's ``metadata``: the name under which observers report the search."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request of a call, once it ended."""

    server: str
    """Base URL."""
    outcome: str
    """"answered", "rejected" (the request is at fault), "cancelled", or the kind of the fault, e.g. "rate_limit"."""
    number: int
    """1 for the first of its call; others are retries."""
    seconds: float
    status: int | None = None
    """Of the response; ``None`` where none came."""
    breaker_open: bool = False
    """Whether the server gets no requests for a while."""
    data: Any = None
    """The JSON of an answer."""


class SearchObserver:
    """Sees one search. The base class ignores it."""

    def within(self) -> AbstractContextManager[object]:
        """Surround what the search does outside of its operators, e.g. a judge's preflight."""
        return nullcontext()

    def operator(self, question: Question) -> AbstractContextManager[object]:  # noqa: ARG002
        """Surround an operator's work; the context variables that it sets reach the operator."""
        return nullcontext()

    def answered(self, event: Event, population: Population) -> None:
        """See an operator's answer, still within :meth:`operator`: the event, and the population that it led to."""

    def ended(self, result: SearchResult | None, error: BaseException | None) -> None:
        """See the end: a result, or what was raised. Neither, if the caller gave the search up."""


class CallObserver:
    """Sees one call to a server, with all its attempts. The base class ignores it."""

    def headers(self) -> dict[str, str]:
        """Further headers of its requests, e.g. a trace's context."""
        return {}

    def sent(self, server: str) -> None:
        """See a request that is sent now."""

    def attempted(self, attempt: Attempt) -> None:
        """See how it ended."""

    def ended(self, error: BaseException | None) -> None:
        """See the call's end."""


class Observer:
    """Sees what runs. Its methods are called on any thread and must neither block nor raise."""

    def search(self, model: str, request: Request, config: SearchConfig) -> SearchObserver:  # noqa: ARG002
        """See a search begin."""
        return SearchObserver()

    def call(self, role: str, method: str, path: str, body: Mapping[str, Any]) -> CallObserver:  # noqa: ARG002
        """See a call to the servers of a role ("policy", "reward", "judge") begin; it may have to wait for a slot."""
        return CallObserver()


_everywhere: list[Observer] = []
_here: ContextVar[Observer | None] = ContextVar("darwin_align_observer", default=None)


def add_observer(observer: Observer) -> None:
    """Let it see every search and call of this process that begins from now on."""
    _everywhere.append(observer)


def remove_observer(observer: Observer) -> None:
    """Let it see nothing further."""
    _everywhere.remove(observer)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Let it see what begins in this context, and in those copied from it, instead of one set before.

    >>> with observing(Observer()):
    ...     len(_observers())
    1
    """
    token = _here.set(observer)
    try:
        yield
    finally:
        _here.reset(token)


def _observers() -> list[Observer]:
    here = _here.get()
    return _everywhere if here is None else [*_everywhere, here]


class _Searches(SearchObserver):
    def __init__(self, each: Sequence[SearchObserver]) -> None:
        self._each = each

    @contextmanager
    def within(self) -> Iterator[None]:
        with ExitStack() as stack:
            for one in self._each:
                stack.enter_context(one.within())
            yield

    @contextmanager
    def operator(self, question: Question) -> Iterator[None]:
        with ExitStack() as stack:
            for one in self._each:
                stack.enter_context(one.operator(question))
            yield

    def answered(self, event: Event, population: Population) -> None:
        for one in self._each:
            one.answered(event, population)

    def ended(self, result: SearchResult | None, error: BaseException | None) -> None:
        for one in self._each:
            one.ended(result, error)


class _Calls(CallObserver):
    def __init__(self, each: Sequence[CallObserver]) -> None:
        self._each = each

    def headers(self) -> dict[str, str]:
        return {name: value for one in self._each for name, value in one.headers().items()}

    def sent(self, server: str) -> None:
        for one in self._each:
            one.sent(server)

    def attempted(self, attempt: Attempt) -> None:
        for one in self._each:
            one.attempted(attempt)

    def ended(self, error: BaseException | None) -> None:
        for one in self._each:
            one.ended(error)


class SearchSeen:
    """What a driver tells of its search."""

    def __init__(self, observer: SearchObserver) -> None:
        self.observer = observer
        self.result: SearchResult | None = None


@contextmanager
def observed_search(model: str, request: Request, config: SearchConfig) -> Iterator[SearchSeen]:
    """Surround a search, and report what it gives or raises. It may be entered and left in different contexts."""
    each = [one.search(model, request, config) for one in _observers()]
    seen, error = SearchSeen(_Searches(each) if each else SearchObserver()), None
    try:
        yield seen
    except GeneratorExit:
        raise
    except BaseException as raised:
        error = raised
        raise
    finally:
        seen.observer.ended(seen.result, error)


@contextmanager
def observed_call(role: str, method: str, path: str, body: Mapping[str, Any]) -> Iterator[CallObserver]:
    """Surround a call to a server, and report what it raises."""
    each = [one.call(role, method, path, body) for one in _observers()]
    seen, error = _Calls(each) if each else CallObserver(), None
    try:
        yield seen
    except BaseException as raised:
        error = raised
        raise
    finally:
        seen.ended(error)
