"""The figures as Ray's own metrics: each machine's agent exposes those of its actors, with ``ray_`` before the name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.util import metrics

from darwin_align.telemetry.measurements import INSTRUMENTS, Instrument

__all__ = ["RayRecord"]


class RayRecord:
    """Records measurements. The agents need ``ray[default]``; without it Ray drops them."""

    def __init__(self) -> None:
        self._metrics = {instrument: _metric(instrument) for instrument in INSTRUMENTS}
        self._sums: Counter[tuple[str, ...]] = Counter()
        """Of what goes up and down, since Ray's gauges can only be set."""

    def __call__(self, instrument: Instrument, value: float, labels: Mapping[str, str]) -> None:
        """Record one."""
        metric, tags = self._metrics[instrument], dict(labels)
        if instrument.kind == "histogram":
            metric.observe(value, tags)
        elif instrument.kind == "gauge":
            metric.set(value, tags)
        elif instrument.kind == "sum":
            key = (instrument.name, *labels.values())
            self._sums[key] += int(value)
            metric.set(self._sums[key], tags)
        elif value > 0:  # Ray refuses to count nothing
            metric.inc(value, tags)


def _metric(instrument: Instrument) -> Any:
    name = instrument.prometheus_name
    about: dict[str, Any] = {"description": instrument.description, "tag_keys": instrument.labels}
    if instrument.kind == "histogram":
        # Ray takes no bound below zero: smaller values are all in the first bucket.
        return metrics.Histogram(name, boundaries=[bound for bound in instrument.buckets if bound > 0], **about)
    return (metrics.Counter if instrument.kind == "counter" else metrics.Gauge)(name, **about)
