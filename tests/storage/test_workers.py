"""Workers: so many at once, in order, and ended in good order."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from darwin_align.core.errors import DarwinError
from darwin_align.storage.workers import Stop, Workers


class Log:
    """What became of numbers from 0 on."""

    def __init__(self) -> None:
        self.begun, self.done, self.failed = list[int](), list[tuple[int, Any]](), list[tuple[int, Exception]]()
        self.under_way = self.most = 0

    def workers(self, items: int, work: Callable[[int], Any], concurrency: int, stop: Stop | None = None) -> Any:
        stop, numbers = stop or Stop(), iter(range(items))

        async def take() -> int | None:
            await asyncio.sleep(0)
            return None if stop.requested else next(numbers, None)

        async def counted(item: int) -> Any:
            self.begun.append(item)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            try:
                return await work(item)
            finally:
                self.under_way -= 1

        return Workers(
            take,
            counted,
            done=lambda *both: self.done.append(both),
            failed=lambda *both: self.failed.append(both),
            concurrency=concurrency,
            stop=stop,
        )


async def squared(item: int) -> int:
    await asyncio.sleep(0)
    return item * item


@pytest.mark.parametrize("concurrency", [1, 3, 50])
async def test_items_are_begun_in_order_and_so_many_at_once(concurrency: int) -> None:
    log = Log()
    await log.workers(20, squared, concurrency).run()
    assert log.begun == list(range(20))
    assert sorted(log.done) == [(n, n * n) for n in range(20)]
    assert log.failed == []
    assert log.most <= concurrency
    assert log.most > 1 or concurrency == 1


async def test_results_are_handed_over_as_they_come() -> None:
    """A slow first item keeps no other result from being handed over, so that a kill loses it alone."""
    log, last = Log(), asyncio.Event()

    async def work(item: int) -> int:
        if item == 0:
            await last.wait()
        if item == 9:
            last.set()
        return item

    await log.workers(10, work, 2).run()
    assert log.done[-1] == (0, 0)


async def test_an_item_that_fails_keeps_no_other_one() -> None:
    log, error = Log(), ValueError("no")

    async def work(item: int) -> int:
        if item == 2:
            raise error
        return await squared(item)

    workers = log.workers(5, work, 2)
    await workers.run()
    assert log.failed == [(2, error)]
    assert sorted(item for item, _ in log.done) == [0, 1, 3, 4]
    assert not workers.dropped


async def test_work_that_is_cancelled_from_within_has_failed() -> None:
    log = Log()

    async def work(item: int) -> None:
        if item == 1:
            raise asyncio.CancelledError

    workers = log.workers(3, work, 1)
    await workers.run()
    [(item, error)] = log.failed
    assert (item, str(error)) == (1, "the work was cancelled from within")
    assert isinstance(error, DarwinError)
    assert not workers.dropped


@pytest.mark.parametrize("place", ["take", "done", "failed"])
async def test_an_error_of_a_callback_drops_all_and_is_raised_itself(place: str) -> None:
    ended, error = list[int](), DarwinError("the disk is full")
    numbers = iter(range(9))

    def fails(*_: object) -> Any:
        raise error

    async def take() -> int | None:
        item = next(numbers)
        return fails() if place == "take" and item == 3 else item

    async def work(item: int) -> None:
        try:
            if item:
                await asyncio.sleep(3600)
            await asyncio.sleep(0)
            if place == "failed":
                raise ValueError
            if place == "take":
                await asyncio.sleep(3600)
        finally:
            ended.append(item)

    with pytest.raises(DarwinError) as caught:
        await Workers(take, work, done=fails, failed=fails, concurrency=4).run()
    assert caught.value is error
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(ended) == (3 if place == "take" else 4)


@contextmanager
def signalled(stop: Stop, number: int) -> Iterator[None]:
    before = signal.signal(number, lambda *_: stop.request())
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_after_the_work_in_flight(number: int) -> None:
    log, stop = Log(), Stop()

    async def work(item: int) -> int:
        if item == 3:
            signal.raise_signal(number)
        await asyncio.sleep(0.01)
        return item

    workers = log.workers(100, work, 4, stop)
    with signalled(stop, number):
        await workers.run()
    assert sorted(log.done) == [(n, n) for n in range(4)]
    assert log.begun == [0, 1, 2, 3]
    assert not workers.dropped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_two_signals_drop_the_work_in_flight(number: int) -> None:
    log, stop = Log(), Stop()

    async def work(item: int) -> None:
        if item == 3:
            signal.raise_signal(number)
            signal.raise_signal(number)
        await asyncio.sleep(3600)

    workers = log.workers(100, work, 4, stop)
    with signalled(stop, number):
        await asyncio.wait_for(workers.run(), 10)
    assert (log.done, log.failed, log.under_way) == ([], [], 0)
    assert workers.dropped


async def test_what_was_taken_when_all_is_dropped_is_not_begun() -> None:
    stop, begun = Stop(), list[int]()

    async def take() -> int:
        stop.request()
        stop.request()
        return 1

    async def work(item: int) -> None:
        begun.append(item)

    workers = Workers(take, work, done=print, failed=print, concurrency=1, stop=stop)
    await workers.run()
    assert workers.dropped
    assert begun == []


async def test_a_cancelled_run_cancels_its_work_and_lets_the_signal_go() -> None:
    log, stop = Log(), Stop()

    async def work(item: int) -> None:
        await asyncio.sleep(3600)

    task = asyncio.create_task(log.workers(9, work, 3, stop).run())
    while len(log.begun) < 3:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert log.under_way == 0
    assert (log.done, log.failed) == ([], [])
    stop.request()
    stop.request()  # the run is over: nothing is called any more
