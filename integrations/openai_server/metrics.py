"""Metrics for Prometheus: requests, what the library measures of searches and servers, and the process."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from darwin_align import Policy, Scorer
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.telemetry.measurements import TOKENS, Measuring
from darwin_align.telemetry.prometheus import PrometheusRecord

__all__ = ["Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """The instruments of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        made: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("darwin_requests", "Requests answered", ["route", "status"], **made)
        self.seconds = Histogram(
            "darwin_request_seconds", "Time to the end of an answer", ["route"], buckets=_SECONDS, **made
        )
        self.busy = Gauge("darwin_requests_in_flight", "Searches and scorings under way", ["kind"], **made)
        self.cancelled = Counter("darwin_cancelled", "Searches given up because the client left", ["kind"], **made)
        for kind in ("search", "reward"):
            self.cancelled.labels(kind)  # a series that begins at 0 has a rate
        self.rewards = Counter("darwin_rewards", "Responses scored for clients", ["model"], **made)
        self._record = PrometheusRecord(self.registry)
        self.observer = Measuring(self._record)
        """Sees the searches and scorings of this application."""
        self._slots = Gauge("darwin_engine_slots_in_use", "KV slots in use by searches", ["model"], **made)

    def watch_engine(self, name: str, part: Policy | Scorer | None) -> None:
        """Report how many rows are in use on the engine of a local policy or scorer; others have none."""
        if isinstance(part, LocalPolicy):
            self._slots.labels(name).set_function(lambda: part.engine.slots_in_use)
        elif isinstance(part, LocalScorer):
            self._slots.labels(name).set_function(lambda: part.reward_model.engine.slots_in_use)

    def scored(self, model: str, rewards: int, tokens: int) -> None:
        """Record responses that were scored for a client."""
        self.rewards.labels(model).inc(rewards)
        self._record(TOKENS, tokens, {"model": model, "operator": "score", "kind": "reward"})
