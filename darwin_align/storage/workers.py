"""So many pieces of work at once, begun in the order of their input, and ended in good order when asked to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from darwin_align.core.errors import DarwinError

__all__ = ["Stop", "Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stop:
    """Asks a run to end: first after the work under way, then at once. Safe to call from a signal handler.

    >>> stop = Stop()
    >>> stop.ask()
    >>> stop.asked, stop.dropping
    (True, False)
    """

    def __init__(self) -> None:
        self.asked = self.dropping = False
        self._drop: Callable[[], object] | None = None

    def ask(self) -> None:
        """Begin nothing further; asked once more, drop what is under way. The next run does it."""
        self.dropping, self.asked = self.asked, True
        if self.dropping and self._drop is not None:
            self._drop()

    def on_drop(self, drop: Callable[[], object] | None) -> None:
        """Set what is called, in whichever thread asks, when work under way is to be dropped."""
        self._drop = drop


class Workers(Generic[Item, Result]):
    """Does the work of a stream's items, at most so many at once.

    Items are begun in their order. Results and errors are handed over as they come, on the event loop's thread. An
    error that ``done`` or ``failed`` raises drops all work under way and ends the run.

    Args:
        take: gives the next item, ``None`` after the last one; called by several workers at once.
        work: does an item's work.
        done: is given an item and its result.
        failed: is given an item and the error of its work.
        concurrency: items under way at most.
        stop: asks to end. Who asks once ends the run by ``take``, which then gives ``None``; asked twice, the work
            under way is dropped.
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
        self._under_way: set[asyncio.Task[Result]] = set()
        self.dropped = False
        """Whether an item was taken and then dropped, because the run was asked twice to stop."""

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
            self._under_way.add(task)
            try:
                await asyncio.wait([task])
            finally:
                self._under_way.discard(task)
                task.cancel()
            self._hand_over(item, task)

    async def _result(self, item: Item) -> Result:
        return await self._work(item)

    def _hand_over(self, item: Item, task: asyncio.Task[Result]) -> None:
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
        for task in self._under_way:
            task.cancel()


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
