"""The figures of searches and of requests to servers: one table of instruments, recorded wherever they are shown.

A :class:`Measuring` observer turns what runs into measurements and gives each to a ``record`` function: those of
OpenTelemetry, Prometheus and Ray are in the modules beside this one and in ``darwin_align.integrations.ray``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from darwin_align.core.config import SearchConfig
from darwin_align.core.events import Event, Question
from darwin_align.core.exploration import Exploration
from darwin_align.core.result import SearchResult
from darwin_align.core.types import Population, Request
from darwin_align.operators.observers import Attempt, CallObserver, Observer, SearchObserver

__all__ = ["INSTRUMENTS", "Instrument", "Measuring", "Record", "of_event", "of_result"]


@dataclass(frozen=True)
class Instrument:
    """What is measured."""

    name: str
    """In OpenTelemetry's spelling, e.g. ``darwin.operator.duration``."""
    kind: Literal["counter", "sum", "gauge", "histogram"]
    """A "sum" goes up and down by what is recorded; a "gauge" is set to it."""
    unit: str
    """In UCUM's spelling; in braces what is counted."""
    description: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """By OpenTelemetry's rules for Prometheus; a counter's ``_total`` is left to the exposition.

        >>> DURATION.prometheus_name, TOKENS.prometheus_name
        ('darwin_operator_duration_seconds', 'darwin_tokens')
        """
        return self.name.replace(".", "_") + ("_seconds" if self.unit == "s" else "")


Record = Callable[[Instrument, float, Mapping[str, str]], None]
"""Takes an instrument, a value and the values of all its labels. It must neither block nor raise."""
Measurement = tuple[Instrument, float, dict[str, str]]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_REWARDS = (-16, -8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8, 16, 32)

SEARCHES = Instrument("darwin.searches", "counter", "{search}", "Searches that ended", ("model", "stop_reason"))
SEARCHING = Instrument("darwin.searches.in_flight", "sum", "{search}", "Searches under way", ("model",))
SEARCH_DURATION = Instrument("darwin.search.duration", "histogram", "s", "Time of a search", ("model",), _SECONDS)
CYCLES = Instrument("darwin.cycles", "counter", "{cycle}", "Mutation cycles that were begun", ("model",))
DURATION = Instrument(
    "darwin.operator.duration", "histogram", "s", "Time of an operator", ("model", "operator", "outcome"), _SECONDS
)
TOKENS = Instrument(
    "darwin.tokens", "counter", "{token}", "Prefilled, decoded and reward tokens", ("model", "operator", "kind")
)
ANSWER_REWARD = Instrument(
    "darwin.answer.reward", "histogram", "", "Rewards of plain samples and of answers", ("model", "answer"), _REWARDS
)
GAIN = Instrument(
    "darwin.reward.gain",
    "histogram",
    "",
    "Reward of the answer less that of the plain sample",
    ("model",),
    (0, 0.25, 0.5, 1, 2, 4, 8, 16),
)
REWORDINGS = Instrument(
    "darwin.rewordings",
    "counter",
    "{rewording}",
    "Rewordings of instructions by what came of them",
    ("model", "outcome"),
)
REWORDING_TOKENS = Instrument(
    "darwin.rewording.tokens", "counter", "{token}", "Tokens decoded for rewordings", ("model", "outcome")
)
_SERVER = ("role", "server")
CALLING = Instrument(
    "darwin.endpoint.calls.in_flight", "sum", "{call}", "Calls under way, those that wait included", ("role",)
)
REQUESTING = Instrument("darwin.endpoint.requests.in_flight", "sum", "{request}", "Requests on the wire", _SERVER)
REQUESTS = Instrument("darwin.endpoint.requests", "counter", "{request}", "Requests that ended", (*_SERVER, "outcome"))
REQUEST_DURATION = Instrument(
    "darwin.endpoint.request.duration", "histogram", "s", "Time of a request", _SERVER, _SECONDS
)
RETRIES = Instrument("darwin.endpoint.retries", "counter", "{request}", "Requests that were repeated", _SERVER)
BREAKER = Instrument(
    "darwin.endpoint.breaker_open", "gauge", "", "1 while a server gets no requests because it kept failing", _SERVER
)
INSTRUMENTS = (
    SEARCHES,
    SEARCHING,
    SEARCH_DURATION,
    CYCLES,
    DURATION,
    TOKENS,
    ANSWER_REWARD,
    GAIN,
    REWORDINGS,
    REWORDING_TOKENS,
    CALLING,
    REQUESTING,
    REQUESTS,
    REQUEST_DURATION,
    RETRIES,
    BREAKER,
)


def of_event(event: Event) -> Iterator[Measurement]:
    """What one live answer of an operator counts for; the label ``model`` is the caller's."""
    outcome = "interrupted" if event.interrupted else "answered" if event.failure is None else "failed"
    yield DURATION, event.seconds, {"operator": event.operator, "outcome": outcome}
    for kind in ("prefilled", "decoded", "reward"):
        if count := getattr(event.delta.usage, f"{kind}_tokens"):
            yield TOKENS, count, {"operator": event.operator, "kind": kind}
    if event.delta.exploration is not None:
        yield from _of_exploration(event.delta.exploration)


def _of_exploration(found: Exploration) -> Iterator[Measurement]:
    rewordings = {
        "accepted": found.accepted - found.filled_by_aspects,
        "filled_by_aspects": found.filled_by_aspects,
        "filled_by_parent": found.filled_by_parent,
        "refused": sum(found.refused.values()),
    }
    tokens = {"used": found.tokens - found.wasted_tokens, "wasted": found.wasted_tokens}
    for instrument, counts in ((REWORDINGS, rewordings), (REWORDING_TOKENS, tokens)):
        yield from ((instrument, count, {"outcome": outcome}) for outcome, count in counts.items() if count)


def of_result(result: SearchResult) -> Iterator[Measurement]:
    """What a whole search counts for, beyond its events."""
    yield SEARCHES, 1, {"stop_reason": result.stop_reason}
    yield CYCLES, result.cycles, {}
    for answer, beam in (("first", result.first_response), ("best", result.best)):
        if beam.reward is not None:
            yield ANSWER_REWARD, beam.reward, {"answer": answer}
    if result.reward is not None and result.first_response.reward is not None:
        yield GAIN, result.reward - result.first_response.reward, {}


class Measuring(Observer):
    """Measures what runs.

    Args:
        record: takes every measurement.

    >>> from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
    >>> from darwin_align.operators.observers import observing
    >>> from darwin_align.search import DarwinSearch
    >>> search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), config={"mutator": "identity"})
    >>> ended = []
    >>> with observing(Measuring(lambda what, value, labels: ended.append(labels) if what is SEARCHES else None)):
    ...     _ = search.invoke("Say something good.", seed=1)
    >>> ended
    [{'model': 'ScriptedPolicy', 'stop_reason': 'cycles'}]
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    def search(self, model: str, request: Request, config: SearchConfig) -> SearchObserver:  # noqa: ARG002
        """Measure a search."""
        return _MeasuredSearch(self.record, model)

    def call(self, role: str, method: str, path: str, body: Mapping[str, Any]) -> CallObserver:  # noqa: ARG002
        """Measure a call to a server."""
        return _MeasuredCall(self.record, role)


class _MeasuredSearch(SearchObserver):
    def __init__(self, record: Record, model: str) -> None:
        self._record, self._labels, self._began = record, {"model": model}, perf_counter()
        record(SEARCHING, 1, self._labels)

    def _recorded(self, measurements: Iterator[Measurement]) -> None:
        for instrument, value, labels in measurements:
            self._record(instrument, value, {**self._labels, **labels})

    @contextmanager
    def operator(self, question: Question) -> Iterator[None]:
        began = perf_counter()
        try:
            yield
        except BaseException as error:
            outcome = "failed" if isinstance(error, Exception) else "cancelled"
            labels = {**self._labels, "operator": question.operator, "outcome": outcome}
            self._record(DURATION, perf_counter() - began, labels)
            raise

    def answered(self, event: Event, population: Population) -> None:  # noqa: ARG002
        self._recorded(of_event(event))

    def ended(self, result: SearchResult | None, error: BaseException | None) -> None:
        self._record(SEARCHING, -1, self._labels)
        self._record(SEARCH_DURATION, perf_counter() - self._began, self._labels)
        if result is not None:
            self._recorded(of_result(result))
        else:
            reason = "error" if isinstance(error, Exception) else "cancelled"
            self._record(SEARCHES, 1, {**self._labels, "stop_reason": reason})


class _MeasuredCall(CallObserver):
    def __init__(self, record: Record, role: str) -> None:
        self._record, self._role = record, {"role": role}
        record(CALLING, 1, self._role)

    def sent(self, server: str) -> None:
        self._record(REQUESTING, 1, {**self._role, "server": server})

    def attempted(self, attempt: Attempt) -> None:
        labels = {**self._role, "server": attempt.server}
        self._record(REQUESTING, -1, labels)
        self._record(REQUESTS, 1, {**labels, "outcome": attempt.outcome})
        self._record(REQUEST_DURATION, attempt.seconds, labels)
        self._record(BREAKER, float(attempt.breaker_open), labels)
        if attempt.number > 1:
            self._record(RETRIES, 1, labels)

    def ended(self, error: BaseException | None) -> None:  # noqa: ARG002
        self._record(CALLING, -1, self._role)
