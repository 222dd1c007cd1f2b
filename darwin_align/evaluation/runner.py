"""Many prompts at once: bounded concurrency, progress on stderr, and failures raised at the end."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from time import monotonic

from darwin_align.core.errors import ConfigError
from darwin_align.core.terminal import printable
from darwin_align.operators.portal import call
from darwin_align.storage.workers import Workers

__all__ = ["Job", "run_jobs"]

Job = Callable[[], Awaitable[object]]
Tick = Callable[[], None]

_QUIET = 30.0
"""Seconds between two lines of progress where there is no terminal to draw on."""


def run_jobs(jobs: Sequence[Job], *, title: str, concurrency: int, progress: bool = True) -> None:
    """Run all jobs, so many at a time.

    The first job that fails keeps others from being begun; running ones are finished, as their cost is spent.

    Args:
        jobs: coroutine functions.
        title: title of the progress bar.
        concurrency: largest number of running jobs.
        progress: show progress on stderr.

    Raises:
        ConfigError: ``concurrency`` allows none.
        Exception: whatever the first failed job raised, with a note of how many are done.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency={concurrency} is impossible: allow one prompt at a time at least")
    if jobs:
        with _progress(title, len(jobs), progress) as tick:
            call(partial(_run, jobs, concurrency, tick))


async def _run(jobs: Sequence[Job], concurrency: int, tick: Tick) -> None:
    waiting, failed = deque(jobs), list[Exception]()
    done = 0

    async def take() -> Job | None:
        return waiting.popleft() if waiting and not failed else None

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        tick()

    def fail(_: Job, error: Exception) -> None:
        failed.append(error)

    await Workers(take, lambda job: job(), done=count, failed=fail, concurrency=min(concurrency, len(jobs))).run()
    if failed:
        also = f"; {len(failed) - 1} others failed beside it" if failed[1:] else ""
        failed[0].add_note(f"{done} of {len(jobs)} prompts are done and kept{also}: run the command again to go on")
        raise failed[0]


@contextmanager
def _progress(title: str, total: int, shown: bool) -> Iterator[Tick]:
    if not shown:
        yield lambda: None
    elif sys.stderr.isatty() and (drawn := _drawn(title, total)) is not None:
        with drawn as tick:
            yield tick
    else:
        yield _Lines(title, total)


def _drawn(title: str, total: int) -> AbstractContextManager[Tick] | None:
    """A bar, where rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining
    except ImportError:
        return None
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        Remaining(),
    )

    @contextmanager
    def drawing() -> Iterator[Tick]:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total)
            yield lambda: bar.advance(task)

    return drawing()


class _Lines:
    """A line now and then, for logs."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._write()

    def __call__(self) -> None:
        self._done += 1
        if self._done == self._total or monotonic() - self._last > _QUIET:
            self._write()

    def _write(self) -> None:
        self._last = monotonic()
        sys.stderr.write(f"{printable(self._title, single_line=True)}: {self._done} of {self._total}\n")
        sys.stderr.flush()
