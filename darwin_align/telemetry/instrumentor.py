"""What ``opentelemetry-instrument`` finds by the package's entry point."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from darwin_align.telemetry import instrument, uninstrument

__all__ = ["DarwinInstrumentor"]


class DarwinInstrumentor(BaseInstrumentor):  # type: ignore[misc] # its file is not type-checked
    """Calls :func:`~darwin_align.telemetry.instrument`."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing but this package."""
        return ()

    def _instrument(self, **settings: Any) -> None:
        instrument(
            tracer_provider=settings.get("tracer_provider"),
            meter_provider=settings.get("meter_provider"),
            capture_content=settings.get("capture_content"),
        )

    def _uninstrument(self, **_: Any) -> None:
        uninstrument()
