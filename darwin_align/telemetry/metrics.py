"""The figures as OpenTelemetry metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import metrics

from darwin_align.telemetry.measurements import INSTRUMENTS, Instrument, Record

__all__ = ["attribute_of", "otel_record"]


def otel_record(provider: metrics.MeterProvider | None) -> Record:
    """Return a function that records measurements with OpenTelemetry.

    Args:
        provider: makes the meter; ``None`` takes the global one.
    """
    meter = metrics.get_meter("darwin_align", meter_provider=provider)
    made = {instrument: _made(meter, instrument) for instrument in INSTRUMENTS}

    def record(instrument: Instrument, value: float, labels: Mapping[str, str]) -> None:
        made[instrument](value, {attribute_of(name): label for name, label in labels.items()})

    return record


def attribute_of(label: str) -> str:
    """The attribute's name for a label of Prometheus.

    >>> attribute_of("model"), attribute_of("operator")
    ('gen_ai.request.model', 'darwin.operator')
    """
    return "gen_ai.request.model" if label == "model" else f"darwin.{label}"


def _made(meter: metrics.Meter, instrument: Instrument) -> Any:
    about = (instrument.name, instrument.unit, instrument.description)
    if instrument.kind == "histogram":
        return meter.create_histogram(*about, explicit_bucket_boundaries_advisory=instrument.buckets).record
    if instrument.kind == "gauge":
        return meter.create_gauge(*about).set
    return (meter.create_counter if instrument.kind == "counter" else meter.create_up_down_counter)(*about).add
