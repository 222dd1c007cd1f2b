"""Progress of a batch: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from darwin_align.core.terminal import printable

__all__ = ["Lines", "ProgressReporter", "reporting"]

_QUIET = 30.0
"""Seconds between two lines where there is no terminal to draw on."""


class ProgressReporter(Protocol):
    """Shows the progress of a batch."""

    def begin(self, total: int | None, done: int) -> None:
        """Start: the number of prompts, if it is known, and how many of them earlier runs answered."""

    def step(self, *, answered: bool) -> None:
        """Count a prompt that ended."""

    def message(self, text: str) -> None:
        """Show a message."""


class _Silent:
    """Shows nothing."""

    def begin(self, total: int | None, done: int) -> None: ...

    def step(self, *, answered: bool) -> None: ...

    def message(self, text: str) -> None: ...


class Pace:
    """How long the rest of a batch takes.

    Prompts that begin together end together, in waves as large as the concurrency: what is left takes whole waves, and
    four prompts as long as sixteen.

    >>> now = [0.0]
    >>> pace = Pace(concurrency=16, clock=lambda: now[0])
    >>> now[0] = 11.0
    >>> for _ in range(16):
    ...     pace.step()
    >>> pace.left(4)
    11.0

    Args:
        concurrency: prompts in flight at most.
        clock: returns seconds.
    """

    def __init__(self, concurrency: int = 1, clock: Callable[[], float] = monotonic) -> None:
        self._concurrency, self._clock = concurrency, clock
        self.ended = 0
        """Prompts that ended."""
        self._start = self._last = clock()

    def step(self) -> None:
        """Count a prompt that ended."""
        self.ended += 1
        self._last = self._clock()

    @property
    def rate(self) -> float:
        """Prompts a second, up to the last one that ended."""
        return self.ended / max(self._last - self._start, 1e-9)

    def left(self, remaining: int) -> float | None:
        """Seconds until all remaining prompts have ended; ``None`` before the first one has."""
        if not self.ended:
            return None
        wave = min(self._concurrency, self.ended) / self.rate
        return max(0.0, -(-remaining // self._concurrency) * wave - (self._clock() - self._last))


@contextmanager
def reporting(shown: bool, concurrency: int = 1) -> Iterator[ProgressReporter]:
    """Report the progress of a batch on stderr, by rich where it is installed and a terminal is there.

    Args:
        shown: whether anything is shown.
        concurrency: prompts in flight at most.
    """
    bar = _bar(concurrency) if shown and sys.stderr.isatty() else None
    if bar is not None:
        with bar:
            yield bar
    else:
        yield Lines(concurrency=concurrency) if shown else _Silent()


class Lines:
    """Lines for logs.

    Args:
        clock: returns seconds.
        write: takes a line.
        concurrency: prompts in flight at most.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        write: Callable[[str], object] | None = None,
        concurrency: int = 1,
    ) -> None:
        self._clock, self._write, self._concurrency = clock, write or _to_stderr, concurrency
        self._total: int | None = None
        self._before = self._answered = self._without = 0
        self._last = clock()
        self._pace = Pace(concurrency, clock)

    def begin(self, total: int | None, done: int) -> None:
        """Start the clock."""
        self._total, self._before = total, done
        self._last = self._clock()
        self._pace = Pace(self._concurrency, self._clock)
        of = "an unknown number of" if total is None else f"{total:,}"
        earlier = f", {done:,} of them answered by earlier runs" if done else ""
        self._write(f"batch: {of} prompts{earlier}\n")

    def step(self, *, answered: bool) -> None:
        """Count, and write if it was quiet for a while."""
        self._answered += answered
        self._without += not answered
        self._pace.step()
        if self._clock() - self._last >= _QUIET:
            self._last = self._clock()
            self._write(self._standing())

    def message(self, text: str) -> None:
        """Write a line."""
        self._write(f"batch: {printable(text, single_line=True)}\n")

    def _standing(self) -> str:
        done = self._before + self._answered
        of = "" if self._total is None else f" of {self._total:,}"
        without = f", {self._without:,} without" if self._without else ""
        span = None if self._total is None else self._pace.left(self._total - self._before - self._pace.ended)
        left = "" if span is None else f", {_span(span)} left"
        return f"batch: {done:,}{of} answered{without}, {self._pace.rate:.2g} a second{left}\n"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _bar(concurrency: int) -> _Bar | None:
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return None
    return _Bar(concurrency)


class _Bar:
    """A bar by rich."""

    def __init__(self, concurrency: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed
        from rich.text import Text

        self._concurrency, self._pace = concurrency, Pace(concurrency)

        class Left(ProgressColumn):
            """What is left, in whole waves: rich's own column goes by the latest steps, which come in bursts."""

            def render(column, task: Task) -> Text:  # noqa: N805 - the bar is self here
                left = None if task.total is None else self._pace.left(int(task.total - task.completed))
                return Text("" if left is None else f"{_span(left)} left", style="progress.remaining")

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Elapsed(), Left())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("batch", total=None)
        self._without = 0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, total: int | None, done: int) -> None:
        """Start the clock: the work of earlier runs is no measure of this one's speed."""
        self._pace = Pace(self._concurrency)
        self._progress.reset(self._task, total=total, completed=done)

    def step(self, *, answered: bool) -> None:
        """Draw."""
        self._without += not answered
        self._pace.step()
        name = f"batch, {self._without:,} without an answer" if self._without else "batch"
        self._progress.update(self._task, advance=1, description=name)

    def message(self, text: str) -> None:
        """Write above the bar."""
        self._progress.console.print(printable(text, single_line=True), markup=False, highlight=False)


def _to_stderr(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()
