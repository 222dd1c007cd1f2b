"""One connection pool for the process: it lives on the portal's loop and is closed at exit.

httpx's own pool inspects every connection for every request, which takes longer than the requests themselves as soon as
dozens are in flight. So the pool here is a stack of httpx clients for each server. Each serves one request at a time;
the most recently used is on top. A server never has more connections than it had requests in flight at the same time.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import ssl
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import httpx

__all__ = ["borrowed_client"]

_Stacks = defaultdict[str, list[httpx.AsyncClient]]

_idle: dict[asyncio.AbstractEventLoop, _Stacks] = {}
_inherited: list[_Stacks] = []


@contextlib.contextmanager
def borrowed_client(server: str) -> Iterator[httpx.AsyncClient]:
    """Take a client of the running loop for one request to a server.

    Endpoints send requests on the portal's loop only, so there is one loop.
    """
    loop = asyncio.get_running_loop()
    if loop not in _idle:
        if not _idle:
            # Registered after the portal's own handler, so it runs before it, while the loop still runs.
            atexit.register(_close)
        _idle[loop] = defaultdict(list)
    stack = _idle[loop][server]
    client = stack.pop() if stack else _client()
    try:
        yield client
    finally:
        stack.append(client)


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=httpx.Limits(keepalive_expiry=30.0), verify=_certificates())


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # reading them takes longer than a request


def _close() -> None:
    for loop, stacks in list(_idle.items()):
        if loop.is_running():
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(_close_all(stacks), loop).result(timeout=2)
    _idle.clear()


async def _close_all(stacks: _Stacks) -> None:
    for client in [client for stack in stacks.values() for client in stack]:
        await client.aclose()


def _forget() -> None:
    # The parent's loop did not survive the fork. Its connections stay open: the parent still uses them.
    _inherited.extend(_idle.values())
    _idle.clear()
    atexit.unregister(_close)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
