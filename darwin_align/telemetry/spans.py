"""Spans: search → cycle → operator → request. Only the operator's is current while it works, so that requests nest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, StatusCode, Tracer

from darwin_align.core.budget import Usage
from darwin_align.core.config import SearchConfig
from darwin_align.core.events import Event, Question
from darwin_align.core.result import SearchResult
from darwin_align.core.types import Beam, Message, Population, Request
from darwin_align.operators.observers import CallObserver, Observer, SearchObserver
from darwin_align.telemetry.requests import RequestInstruments, RequestSpan

__all__ = ["Tracing"]

Attributes = dict[str, Any]


class Tracing(Observer):
    """Makes spans of what runs, and the metrics that the semantic conventions have for requests.

    Args:
        tracer_provider: ``None`` takes the global one.
        meter_provider: likewise.
        capture_content: whether texts are shown.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
        *,
        capture_content: bool,
    ) -> None:
        self._tracer = trace.get_tracer("darwin_align", tracer_provider=tracer_provider)
        self._instruments = RequestInstruments(metrics.get_meter("darwin_align", meter_provider=meter_provider))
        self._content = capture_content

    def search(self, model: str, request: Request, config: SearchConfig) -> SearchObserver:
        """Begin a search's span, below the current one."""
        return _SearchSpan(self._tracer, model, request, config, content=self._content)

    def call(self, role: str, method: str, path: str, body: Mapping[str, Any]) -> CallObserver:
        """Begin a request's span, likewise."""
        return RequestSpan(
            self._tracer, self._instruments, role=role, method=method, path=path, body=body, content=self._content
        )


class _SearchSpan(SearchObserver):
    def __init__(self, tracer: Tracer, model: str, request: Request, config: SearchConfig, *, content: bool) -> None:
        self._tracer, self._content = tracer, content
        self._span = tracer.start_span("invoke_workflow darwin", attributes=_begin(model, request, config))
        self._cycle: tuple[int, Span] | None = None
        self._operator: Span = self._span
        self._usage = Usage()
        if content:
            self._span.set_attribute("gen_ai.input.messages", _messages(request.conversation))

    def within(self) -> AbstractContextManager[object]:
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    @contextmanager
    def operator(self, question: Question) -> Iterator[None]:
        step = question.population.step
        with self._tracer.start_as_current_span(
            f"darwin.{question.operator}",
            context=trace.set_span_in_context(self._cycle_span(step.cycle)),
            attributes={"darwin.operator": question.operator, "darwin.cycle": step.cycle, "darwin.step": step.index},
            record_exception=False,
            set_status_on_exception=False,
        ) as self._operator:
            try:
                yield
            except BaseException as error:
                mark_error(self._operator, error, content=self._content)
                raise

    def answered(self, event: Event, population: Population) -> None:
        self._usage += event.delta.usage
        span = self._operator
        if not span.is_recording():
            return
        span.set_attributes({**_usage(event.delta.usage), "darwin.beams.open": len(population.open)})
        if event.failure is not None:
            mark_failure(span, event.failure, content=self._content)
        if event.interrupted:
            span.set_attribute("darwin.interrupted", True)
        if event.operator == "score":
            span.set_attributes(_rewards(population.beams[i] for i in event.delta.beams))
        if (found := event.delta.exploration) is not None:
            figures = {name: value for name, value in found if name not in ("refused", "answer_tokens")}
            figures["refused"] = sum(found.refused.values())
            span.set_attributes({f"darwin.exploration.{name}": value for name, value in figures.items()})
        if event.operator == "mutate" and self._content:
            span.set_attribute("darwin.instructions", [beam.instruction for beam in population.beams])

    def ended(self, result: SearchResult | None, error: BaseException | None) -> None:
        if self._cycle is not None:
            self._cycle[1].end()
        span = self._span
        span.set_attributes(_usage(self._usage))
        if result is not None:
            span.set_attributes(_result(result))
            if result.failure is not None:
                mark_failure(span, result.failure, content=self._content)
            if result.reward is not None:
                evaluation: Attributes = {
                    "gen_ai.evaluation.name": "reward",
                    "gen_ai.evaluation.score.value": result.reward,
                }
                span.add_event("gen_ai.evaluation.result", evaluation)
            if self._content:
                output = {"role": "assistant", "parts": [{"type": "text", "content": result.text}]}
                output["finish_reason"] = result.best.finish_reason or "stop"
                span.set_attribute("gen_ai.output.messages", json.dumps([output], ensure_ascii=False))
        elif error is not None:
            mark_error(span, error, content=self._content)
        else:
            span.set_attribute("darwin.stop_reason", "cancelled")
        span.end()

    def _cycle_span(self, cycle: int) -> Span:
        if self._cycle is None or self._cycle[0] != cycle:
            if self._cycle is not None:
                self._cycle[1].end()
            parent = trace.set_span_in_context(self._span)
            self._cycle = (
                cycle,
                self._tracer.start_span("darwin.cycle", context=parent, attributes={"darwin.cycle": cycle}),
            )
        return self._cycle[1]


def mark_error(span: Span, error: BaseException, *, content: bool) -> None:
    """Mark what failed. An error's message may quote a prompt: it is shown with ``content`` alone."""
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR, str(error) if content else None)


def mark_failure(span: Span, failure: str, *, content: bool) -> None:
    """Mark an operator that failed for good: ``failure`` begins with the error's name."""
    span.set_attribute("error.type", failure.partition(":")[0])
    span.set_status(StatusCode.ERROR, failure if content else None)


def _begin(model: str, request: Request, config: SearchConfig) -> Attributes:
    sampling = request.sampling
    found: Attributes = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "darwin",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": config.max_new_tokens,
        "gen_ai.request.seed": config.seed,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.top_p": sampling.top_p,
    }
    names = ("mutator", "selector", "mutations", "beams_per_mutation", "cycles", "survivors", "replacement_period")
    found |= {f"darwin.config.{name}": getattr(config, name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, (str, int, float))}


def _usage(usage: Usage) -> Attributes:
    counts = {
        "gen_ai.usage.input_tokens": usage.prefilled_tokens,
        "gen_ai.usage.output_tokens": usage.decoded_tokens,
        "darwin.usage.reward_tokens": usage.reward_tokens,
        "darwin.usage.policy_calls": usage.policy_calls,
        "darwin.usage.reward_calls": usage.reward_calls,
    }
    return {name: count for name, count in counts.items() if count}


def _rewards(beams: Iterator[Beam]) -> Attributes:
    rewards = [beam.reward for beam in beams if beam.reward is not None]
    if not rewards:
        return {}
    names = {"count": len(rewards), "min": min(rewards), "max": max(rewards), "mean": sum(rewards) / len(rewards)}
    return {f"darwin.rewards.{name}": value for name, value in names.items()}


def _result(result: SearchResult) -> Attributes:
    found = {
        "gen_ai.response.finish_reasons": result.best.finish_reason and [result.best.finish_reason],
        "darwin.cycles": result.cycles,
        "darwin.stop_reason": result.stop_reason,
        "darwin.reward": result.reward,
        "darwin.first_reward": result.first_response.reward,
    }
    return {name: value for name, value in found.items() if value is not None}


def _messages(messages: tuple[Message, ...]) -> str:
    """As the semantic conventions' JSON of ``gen_ai.input.messages``."""
    return json.dumps(
        [{"role": one.role, "parts": [{"type": "text", "content": one.text}]} for one in messages], ensure_ascii=False
    )
