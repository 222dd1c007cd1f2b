"""OpenTelemetry for searches (extra ``otel``): spans search → cycle → operator → request, and metrics.

>>> from darwin_align.telemetry import instrument, uninstrument
>>> instrument()  # spans and metrics go wherever OpenTelemetry's SDK is set up to send them; without one, nowhere
>>> uninstrument()

Or start a program by ``opentelemetry-instrument``, which does the same. Names are those of OpenTelemetry's semantic
conventions for generative AI where there is one, all others begin with ``darwin.``. Prompts, answers and messages of
errors, which may quote them, are left out unless ``capture_content`` asks for them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from darwin_align.core.errors import MissingPackageError
from darwin_align.operators.observers import Observer, add_observer, remove_observer

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["instrument", "uninstrument"]

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_active: list[Observer] = []


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    capture_content: bool | None = None,
) -> None:
    """Report the searches of this process that begin from now on. A second call replaces the first.

    Args:
        tracer_provider: makes the spans; ``None`` takes OpenTelemetry's global one.
        meter_provider: makes the metrics, likewise.
        capture_content: whether spans show conversations, answers, rewordings and messages of errors. ``None`` leaves
            it to the environment variable ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` ("true", "span_only"
            or "span_and_event"), and else to no.

    Raises:
        MissingPackageError: opentelemetry-api is missing.
    """
    try:
        from darwin_align.telemetry.metrics import otel_record
        from darwin_align.telemetry.spans import Tracing
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise MissingPackageError(
            "telemetry needs opentelemetry-api: pip install 'darwin-align[otel]'; opentelemetry-sdk sends it somewhere"
        ) from None
    from darwin_align.telemetry.measurements import Measuring

    if capture_content is None:
        capture_content = os.environ.get(CAPTURE, "").strip().lower() in ("true", "span_only", "span_and_event")
    observers = [
        Tracing(tracer_provider, meter_provider, capture_content=capture_content),
        Measuring(otel_record(meter_provider)),
    ]
    uninstrument()
    for observer in observers:
        add_observer(observer)
    _active[:] = observers


def uninstrument() -> None:
    """Report nothing further; without :func:`instrument` before, do nothing."""
    for observer in _active:
        remove_observer(observer)
    _active.clear()
