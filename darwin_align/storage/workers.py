"""Work on a stream of items, several at once, begun in their order, with an orderly end on request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from darwin_align.core.errors import DarwinError

__all__ = ["Stop", "Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stop:
    """A request to end a run: first after the work in flight, then at once. Safe to call from a signal handler.

    >>> stop = Stop()
    >>> stop.request()
    >>> stop.requested, stop.dropping
    (True, False)
    """

    def __init__(self) -> None:
        self.requested = self.dropping = False
        self._drop: Callable[[], object] | None = None

    def request(self) -> None:
        """Begin nothing further; requested once more, drop the work in flight. The next run does it."""
        self.dropping, self.requested = self.requested, True
        if self.dropping and self._drop is not None:
            self._drop()

    def on_drop(self, drop: Callable[[], object] | None) -> None:
        """Set the callback that drops the work in flight. It runs in the thread of the request."""
        self._drop = drop


class Workers(Generic[Item, Result]):
    """Does the work of a stream's items, at most so many at once.

    Items are begun in their order. Results and errors are passed on as they come, on the event loop's thread. An
    error that ``done`` or ``failed`` raises drops all work in flight and ends the run.

    Args:
        take: returns the next item, ``None`` after the last one; called by several workers at once.
        work: processes an item.
        done: called with an item and its result.
        failed: called with an item and the error of its work.
        concurrency: items in flight at most.
        stop: ends the run. The first request ends it by ``take``, which then returns ``None``; a second one drops the
            work in flight.
    """

    def __init__(
        self,
        take: Callable[[], Awaitable[Item | None]],
        work: Callable[[Item], Awaitable[Result]],
        *,
        done: Callable[[Item, Result], object],
        failed: Callable[[Item, Exception], object],
        concurrency: int,
        stop: Stop | None = None,
    ) -> None:
        self._take, self._work, self._done, self._failed = take, work, done, failed
        self._concurrency, self._stop = concurrency, stop or Stop()
        self._in_flight: set[asyncio.Task[Result]] = set()
        self.dropped = False
        """Whether an item was taken and then dropped, because a stop was requested twice."""

    async def run(self) -> None:
        """Work until there is no further item.

        Raises:
            BaseException: what ``take``, ``done`` or ``failed`` raised, the first if there are several.
        """
        loop = asyncio.get_running_loop()
        self._stop.on_drop(lambda: loop.call_soon_threadsafe(self._drop))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._worker())
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            self._stop.on_drop(None)

    async def _worker(self) -> None:
        while (item := await self._take()) is not None:
            if self._stop.dropping:
                self.dropped = True
                return
            task = asyncio.create_task(self._result(item))
            self._in_flight.add(task)
            try:
                await asyncio.wait([task])
            finally:
                self._in_flight.discard(task)
                task.cancel()
            self._pass_on(item, task)

    async def _result(self, item: Item) -> Result:
        return await self._work(item)

    def _pass_on(self, item: Item, task: asyncio.Task[Result]) -> None:
        if task.cancelled():
            if self._stop.dropping:
                self.dropped = True
            else:  # by something in the work itself: without an error it would count neither as done nor as failed
                self._failed(item, DarwinError("the work was cancelled from within"))
        elif (error := task.exception()) is None:
            self._done(item, task.result())
        elif isinstance(error, Exception):
            self._failed(item, error)
        else:
            raise error

    def _drop(self) -> None:
        for task in self._in_flight:
            task.cancel()


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
