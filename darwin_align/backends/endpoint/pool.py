"""One connection pool for the process: it lives on the portal's loop and is closed at exit.

httpx's own pool looks at every connection for every request, which costs more than the requests themselves as soon as
dozens are in flight. So the pool here is a stack of httpx clients that serve one request at a time, the warmest on top.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import ssl
from collections.abc import Iterator
from functools import cache

import httpx

__all__ = ["borrowed_client"]

_idle: dict[asyncio.AbstractEventLoop, list[httpx.AsyncClient]] = {}
_inherited: list[list[httpx.AsyncClient]] = []


@contextlib.contextmanager
def borrowed_client() -> Iterator[httpx.AsyncClient]:
    """Lend a client of the running loop for one request. Endpoints ask on the portal only, so there is one loop."""
    loop = asyncio.get_running_loop()
    if loop not in _idle:
        if not _idle:
            # Registered after the portal's own handler, so it runs before it: the loop still turns.
            atexit.register(_close)
        _idle[loop] = []
    client = _idle[loop].pop() if _idle[loop] else _client()
    try:
        yield client
    finally:
        _idle.setdefault(loop, []).append(client)


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=httpx.Limits(keepalive_expiry=30.0), verify=_certificates())


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # reading them takes longer than a request


def _close() -> None:
    for loop, clients in _idle.items():
        if loop.is_running():
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(_close_all(clients), loop).result(timeout=2)
    _idle.clear()


async def _close_all(clients: list[httpx.AsyncClient]) -> None:
    for client in clients:
        await client.aclose()


def _forget() -> None:
    # The parent's loop did not survive the fork. Its connections are kept, not closed: they are the parent's to use.
    _inherited.extend(_idle.values())
    _idle.clear()
    atexit.unregister(_close)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
