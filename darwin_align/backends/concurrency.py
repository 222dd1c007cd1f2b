"""A limit of concurrent calls in a process."""

from __future__ import annotations

import asyncio

__all__ = ["Places"]


class Places:
    """So many calls at a time; ``async with places():`` waits for one of them.

    They belong to one event loop, as everything asynchronous here does; in another one, e.g. after a fork, they are all
    free.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._loop: asyncio.AbstractEventLoop | None = None
        self._free: asyncio.Semaphore

    def __call__(self) -> asyncio.Semaphore:
        """The places of the running loop."""
        if (loop := asyncio.get_running_loop()) is not self._loop:
            self._loop, self._free = loop, asyncio.Semaphore(self.most)
        return self._free
