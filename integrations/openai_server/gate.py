"""Limits of work at the same time, and its end when the client disconnects."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from math import ceil
from time import perf_counter
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from .faults import Fault

__all__ = ["ClientGone", "Gate", "client_left", "client_of", "while_connected"]

T = TypeVar("T")


class ClientGone(Exception):  # noqa: N818 - no client is left to report it to
    """The client closed the connection before it had its answer."""


class Gate:
    """Lets so many tasks run at once and refuses others, with the time after which to retry.

    Args:
        most: tasks at the same time.
        what: what they are, for messages.
        most_each: tasks of one client at the same time; ``None`` for as many as there are.
    """

    def __init__(self, most: int, what: str, most_each: int | None = None) -> None:
        self.most, self.what, self.most_each = most, what, most if most_each is None else most_each
        self.busy = 0
        self._each: Counter[str] = Counter()
        self._usual = 1.0

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], client: str = "") -> asyncio.Task[T]:
        """Start work as a task, which occupies a place until it ends, however it ends.

        Args:
            work: what is done.
            client: whose request it is.

        Raises:
            Fault: all places, or all of this client, are taken (429).
        """
        if self.busy >= self.most:
            raise self._full(f"the server works on {self.most} {self.what} already")
        if self._each[client] >= self.most_each:
            raise self._full(f"{self.most_each} {self.what} of this API key are under way already")
        began = perf_counter()
        task = asyncio.create_task(work())
        self.busy += 1
        self._each[client] += 1
        task.add_done_callback(lambda _: self._leave(began, client))
        return task

    def _leave(self, began: float, client: str) -> None:
        self.busy -= 1
        self._each[client] -= 1
        if not self._each[client]:
            del self._each[client]
        self._usual = 0.8 * self._usual + 0.2 * (perf_counter() - began)

    def _full(self, why: str) -> Fault:
        # Half of the running work will be over by then; chance keeps refused clients from retrying together.
        wait = min(60, max(1, ceil(self._usual * random.uniform(0.5, 1.0))))
        return Fault(
            429,
            f"{why}: come back in {wait} s",
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"Retry-After": str(wait)},
        )


def client_of(request: Request) -> str:
    """Which API key a request brought; all without keys are one client."""
    found: str = getattr(request.state, "client", "")
    return found


async def while_connected(receive: Receive, task: asyncio.Task[T]) -> T:
    """Wait for a task as long as the client does; the task never outlives this call.

    Raises:
        ClientGone: the client left, and the task was cancelled.
    """
    gone = asyncio.create_task(client_left(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def client_left(receive: Receive) -> None:
    """Wait until the client closes the connection; its body was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
