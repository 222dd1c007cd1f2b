"""A real export: the SDK's OTLP/HTTP exporters to a receiver on loopback that decodes with OpenTelemetry's protos."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PROGRAM = """
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from darwin_align import DarwinSearch, telemetry
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer

spans = TracerProvider()
spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(spans)
figures = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
metrics.set_meter_provider(figures)
telemetry.instrument()
DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer()).invoke("Say something good.", seed=1, cycles=1)
spans.shutdown()
figures.shutdown()
"""
KINDS: dict[str, Any] = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


@contextmanager
def receiver() -> Iterator[tuple[str, list[Any]]]:
    received: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                raw = gzip.decompress(raw)
            received.append(KINDS[self.path].FromString(raw))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_spans_and_metrics_arrive_at_a_collectors_port() -> None:
    with receiver() as (url, received):
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
        environment |= {"OTEL_SERVICE_NAME": "darwin"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    resources = [one for message in received if hasattr(message, "resource_spans") for one in message.resource_spans]
    spans = [span for one in resources for scope in one.scope_spans for span in scope.spans]
    assert {"invoke_workflow darwin", "darwin.cycle", "darwin.decode", "darwin.score"} <= {span.name for span in spans}
    ids = {span.span_id for span in spans}
    assert [span.name for span in spans if span.parent_span_id not in ids] == ["invoke_workflow darwin"]
    service = {item.key: item.value.string_value for one in resources for item in one.resource.attributes}
    assert service["service.name"] == "darwin"
    measured = [one for message in received if hasattr(message, "resource_metrics") for one in message.resource_metrics]
    names = {metric.name for one in measured for scope in one.scope_metrics for metric in scope.metrics}
    assert {"darwin.tokens", "darwin.operator.duration", "darwin.reward.gain", "darwin.rewordings"} <= names
