"""uvicorn, with deadlines for clients."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from time import monotonic
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .faults import Fault, draining, refusal
from .settings import HEALTH, ServerSettings

__all__ = ["server"]

logger = logging.getLogger(__name__)

_LAST_WORDS = 5.0
"""Seconds that requests have to say that they were cancelled."""
_RESERVE = 64
"""Connections beyond the limit, on which only health checks are answered."""


def server(app: ASGIApp, settings: ServerSettings) -> uvicorn.Server:
    """A uvicorn under the server's settings, with a deadline for every wait.

    Args:
        app: an ASGI application.
        settings: of the server.
    """
    limits = {name: getattr(settings, name) for name in ("head_seconds", "write_seconds")}
    protocol = type("_DeadlineProtocol", (_DeadlineProtocol,), {**limits, "most": settings.max_connections + _RESERVE})
    admission = _Admission(app, settings.max_connections)
    config = uvicorn.Config(
        admission,
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.idle_seconds,
    )
    return _Server(config, admission, settings.drain_seconds)


class _Server(uvicorn.Server):
    """A server that goes on listening while its last requests end.

    Its garbage collector leaves alone what was there before the first request. Models and libraries are a million
    objects: looking through them stops every request for half a second, and large bodies make it happen often.
    """

    def __init__(self, config: uvicorn.Config, admission: _Admission, drain_seconds: float) -> None:
        super().__init__(config)
        self.admission, self.drain_seconds = admission, drain_seconds
        admission.state = self.server_state

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        gc.collect()
        gc.freeze()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new requests until the running ones have ended, then close the port.

        A balancer sees ``/readyz`` fail before it would see refused connections. Requests that still run at the end are
        cancelled, and answered with that (503), or their streams end.
        """
        end = monotonic() + self.drain_seconds
        self.admission.draining = True
        logger.info("draining: %d requests have %g s to end", self.admission.busy, self.drain_seconds)
        while self.admission.busy and not self.force_exit and monotonic() < end:
            await asyncio.sleep(0.05)
        if not self.force_exit:
            await self.admission.cancel_running()
        self.config.timeout_graceful_shutdown = max(1, round(end - monotonic()))
        await super().shutdown(sockets)


class _Admission:
    """Refuses requests that are too many, or too late, but answers health checks (uvicorn's own limit does not)."""

    state: uvicorn.server.ServerState

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most, self.draining = app, most, False
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> int:
        """Requests that are being answered."""
        return len(self._running)

    async def cancel_running(self) -> None:
        """Cancel all requests, and wait a moment for their last words."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=_LAST_WORDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it (503)."""
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self.app(scope, receive, send)
        elif (fault := self._fault()) is not None:
            await refusal(fault)(scope, receive, send)
        else:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - uvicorn runs every request in one
            self._running.add(task)
            try:
                await self.app(scope, receive, send)
            except asyncio.CancelledError:
                if not self.draining:
                    raise  # else it was cancelled here: a stream breaks off
            finally:
                self._running.discard(task)

    def _fault(self) -> Fault | None:
        if self.draining:
            return draining("the server is about to end and takes no new requests")
        if len(self.state.connections) > self.most:
            message = f"the server has {self.most} open connections, the most that it takes: come back in 5 s"
            headers = {"Retry-After": "5", "Connection": "close"}
            return Fault(503, message, kind="rate_limit_error", code="too_many_connections", headers=headers)
        return None


class _DeadlineProtocol(H11Protocol):
    """Closes connections whose next request does not begin in time, or whose client does not read.

    uvicorn itself would wait for ever.
    """

    head_seconds = 20.0
    write_seconds = 60.0
    most = 1024
    _waiting: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=0)  # pauses at every byte that the client does not take at once
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _watch_writing(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self.write_seconds, self._check_writing, unread)

    def _check_writing(self, unread: int) -> None:
        """Abort if the client read nothing since; nothing more is sent meanwhile."""
        if self.transport.get_write_buffer_size() >= unread:
            self.transport.abort()
        else:
            self._watch_writing()

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
