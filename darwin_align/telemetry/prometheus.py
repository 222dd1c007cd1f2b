"""The figures as Prometheus metrics (extra ``metrics``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from darwin_align.core.errors import ConfigError, MissingPackageError
from darwin_align.operators.observers import observing
from darwin_align.telemetry.measurements import INSTRUMENTS, Instrument, Measuring

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
except ImportError:
    raise MissingPackageError(
        "metrics for Prometheus need prometheus-client: pip install 'darwin-align[metrics]'"
    ) from None

__all__ = ["PrometheusRecord", "serving_metrics"]


class PrometheusRecord:
    """Records measurements in a registry.

    Args:
        registry: gets every instrument at once, so that also those without a value yet are listed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._metrics = {instrument: _metric(instrument, registry) for instrument in INSTRUMENTS}

    def __call__(self, instrument: Instrument, value: float, labels: Mapping[str, str]) -> None:
        """Record one."""
        child = self._metrics[instrument].labels(**labels)
        if instrument.kind == "histogram":
            child.observe(value)
        elif instrument.kind == "gauge":
            child.set(value)
        else:
            child.inc(value)


def _metric(instrument: Instrument, registry: CollectorRegistry) -> Any:
    about = (instrument.prometheus_name, instrument.description, instrument.labels)
    if instrument.kind == "histogram":
        return Histogram(*about, buckets=instrument.buckets, registry=registry)
    return (Counter if instrument.kind == "counter" else Gauge)(*about, registry=registry)


@contextmanager
def serving_metrics(port: int, host: str = "127.0.0.1") -> Iterator[None]:
    """Serve at ``/metrics`` the figures of all that runs in this context.

    Args:
        port: to listen on.
        host: address to listen on; others than loopback let everyone read the figures.

    Raises:
        ConfigError: the port cannot be had.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    record = PrometheusRecord(registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(f"cannot serve metrics on {host}:{port} ({error.strerror}): choose another port") from None
    try:
        with observing(Measuring(record)):
            yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
