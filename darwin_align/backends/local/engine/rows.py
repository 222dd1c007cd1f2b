"""What the engine knows of its work: who asked for it, and where its rows are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor

from darwin_align.backends.local.engine.book import Place, Slot
from darwin_align.backends.local.engine.lines import Line
from darwin_align.backends.local.sampling import Sampler

__all__ = ["Batch", "Intake", "Job", "Row"]

T = TypeVar("T")


@dataclass(eq=False)
class Job(Generic[T]):
    """What one caller asked for."""

    lines: Sequence[Line]
    finish: Callable[[], T]
    whole: Callable[[Sequence[Any]], None] | None
    over_slots: bool
    owner: str
    threads: int
    usual_threads: int
    future: Future[T] = field(default_factory=Future)
    left: int = 0
    """Lines that are not done."""
    since: int = 0
    """The book's time when it came, and the clock's."""
    came: float = 0.0

    def end(self) -> None:
        """Give the caller its result."""
        if self.future.set_running_or_notify_cancel():
            try:
                result = self.finish()
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                self.future.set_exception(error)
            else:
                self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(eq=False)
class Intake:
    """Rows of one job that were placed together: they begin to write together."""

    rows: list[Row] = field(default_factory=list)
    unread: int = 0


@dataclass(eq=False)
class Row:
    """A line with its place."""

    line: Line
    job: Job[Any]
    place: Place = None  # type: ignore[assignment] # set when it gets one
    intake: Intake = None  # type: ignore[assignment]
    followers: list[Row] = field(default_factory=list)
    """Rows that copy from this one once it is read."""
    issued: int = 0
    """Steps taken since it has its place; those whose tokens have not come back yet are among them."""
    pushed: int = 0
    """Steps whose tokens came back."""
    seen: bool = False
    """It had a place before and made room for others."""

    @property
    def slot(self) -> Slot:
        """Where it is."""
        return self.place.slot

    @property
    def unread(self) -> int:
        """Tokens to read before anything else. The last one is read with the first step, unless there is none."""
        return len(self.line.ids) - self.place.shared - bool(self.line.wanted)

    @property
    def held(self) -> int:
        """Tokens in the row, the pending one and those under way included."""
        return len(self.line.ids) + self.issued - self.pushed

    @property
    def steps(self) -> int:
        """Steps that may still be issued."""
        return self.line.wanted - (self.issued - self.pushed)


@dataclass(eq=False)
class Batch:
    """Rows that take steps together, as long as nobody comes or goes."""

    rows: list[Row]
    slots: range
    sampler: Sampler
    moving: Tensor | None
    """bool (slots,), false for idle ones among them; ``None`` if there are none."""
    places: Tensor | None
    """int64 (rows,), where the rows are among the slots, if some are idle."""
    width: int
    """Positions of the longest row, the one that is written included."""
    keys: Sequence[Tensor] = ()
    """Noise of the coming steps: hashed for many at once."""
    step: int = 0
