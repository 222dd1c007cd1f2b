"""uvicorn, with deadlines for whoever connects."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .settings import ServerSettings

__all__ = ["server"]


def server(app: Any, settings: ServerSettings) -> uvicorn.Server:
    """A uvicorn that keeps the settings, and waits for nobody for ever.

    Args:
        app: an ASGI application.
        settings: of the server.
    """
    patient = type("_Patient", (_Patient,), {"head_seconds": settings.head_seconds})
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=patient,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.idle_seconds,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    return uvicorn.Server(config)


class _Patient(H11Protocol):
    """Closes connections whose next request does not begin in time: uvicorn itself would wait for ever."""

    head_seconds = 20.0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()
