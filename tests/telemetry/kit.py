"""What the SDK's in-memory exporters show, and a search whose models are real servers on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.responses import JSONResponse, Response

from darwin_align import DarwinSearch, EndpointPolicy, EndpointScorer, SearchConfig
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.pocket import policy_path, reward_path
from darwin_align.telemetry import instrument, uninstrument
from tests.backends.endpoint.fixtures.wire import ReceivedRequest, wire

MARK = "Zanzibarquartz"
"""A word of the prompt, which nothing may show."""
CONFIG = SearchConfig(
    cycles=1, mutations=2, survivors=1, replacement_period=6, max_new_tokens=12, mutator="aspects", seed=3
)
LIMITS = Limits(attempts=4, backoff=0.01, max_backoff=0.02)


@dataclass
class Seen:
    provider: TracerProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def path(self, span: ReadableSpan) -> list[str]:
        """Names from the outermost span to this one."""
        by_id = {one.context.span_id: one for one in self.spans}
        names = [span.name]
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            names.insert(0, span.name)
        return names

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics by name."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}


@contextmanager
def seen(**settings: Any) -> Iterator[Seen]:
    tracing, reader = TracerProvider(), InMemoryMetricReader()
    exporter = InMemorySpanExporter()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    metering = MeterProvider([reader])
    instrument(tracer_provider=tracing, meter_provider=metering, **settings)
    try:
        yield Seen(tracing, exporter, reader)
    finally:
        uninstrument()
        metering.shutdown()


async def rewarded(received: ReceivedRequest) -> Response:
    """OpenRLHF's remote reward model: longer is better."""
    return JSONResponse({"rewards": [float(len(text)) for text in received.body["query"]]})


@contextmanager
def reward_server(answer: Any = rewarded) -> Iterator[Any]:
    with wire(answer) as served:
        yield served


def remote(policy_url: str, reward_url: str, **settings: Any) -> DarwinSearch:
    return DarwinSearch(
        policy=EndpointPolicy(policy_url, tokenizer=policy_path(), limits=LIMITS),
        scorer=EndpointScorer(base_url=reward_url, dialect="openrlhf", tokenizer=reward_path(), limits=LIMITS),
        config=CONFIG.replace(**settings),
        name="remote",
    )
