"""What the engine knows of its work: who asked for it, and where its rows are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Generic, TypeVar, cast

from torch import Tensor

from darwin_align.backends.local.engine.sequences import DecodeSequence, ReadSequence
from darwin_align.backends.local.engine.slot_manager import Slot, SlotAllocation, SlotRequest, packed
from darwin_align.backends.local.engine.state import Entry
from darwin_align.backends.local.sampling import Sampler

__all__ = ["Batch", "Job", "PrefillGroup", "Row"]

T = TypeVar("T")
_MOST_READ = 1024


@dataclass(eq=False)
class Job(Generic[T]):
    """What one caller asked for."""

    sequences: Sequence[DecodeSequence | ReadSequence]
    finish: Callable[[], T]
    without_slots: Callable[[Sequence[Any]], None] | None
    over_slots: bool
    owner: str
    threads: int
    usual_threads: int
    future: Future[T] = field(default_factory=Future)
    left: int = 0
    """Sequences that are not done."""
    since: int = 0
    """:attr:`SlotManager.now` when it was admitted to the queue."""
    came: float = 0.0
    """The same by the clock of :func:`time.perf_counter`."""
    deadline: float | None = None
    """On the clock of :func:`time.monotonic`: what is decoded by then is the result."""
    _running: bool = False

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and monotonic() >= self.deadline

    def end(self) -> None:
        """Give the caller its result, unless it has one already."""
        try:
            result = self.finish()
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            self.fail(error)
        else:
            if self._claim():
                self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error, unless it has a result already."""
        if self._claim():
            self.future.set_exception(error)

    def _claim(self) -> bool:
        """Whether the caller still waits. From then on it can no longer cancel."""
        if self.future.done():
            return False
        # An error between claiming and setting comes back here through `fail`.
        self._running = self._running or self.future.set_running_or_notify_cancel()
        return self._running


@dataclass(eq=False)
class PrefillGroup:
    """Rows of one job that got their slots together: they begin to decode together, once all are read."""

    rows: list[Row] = field(default_factory=list)
    unread: int = 0


@dataclass(eq=False)
class Row:
    """A sequence in the engine, with its slot."""

    sequence: DecodeSequence | ReadSequence
    job: Job[Any]
    allocation: SlotAllocation = None  # type: ignore[assignment] # set with its slot, as the next one is
    prefill: PrefillGroup = None  # type: ignore[assignment]
    followers: list[Row] = field(default_factory=list)
    """Rows that copy from this one once it is read."""
    issued: int = 0
    """Steps taken since it has its slot; those whose tokens have not come back yet are among them."""
    pushed: int = 0
    """Steps whose tokens came back."""
    seen: bool = False
    """It had a slot before and made room for others."""

    def __post_init__(self) -> None:
        self.decodes = isinstance(self.sequence, DecodeSequence)

    @property
    def decode(self) -> DecodeSequence:
        """Its sequence, where that is decoded."""
        return cast(DecodeSequence, self.sequence)

    @property
    def wanted(self) -> int:
        """Tokens that may still be decoded: none of a sequence that is only read."""
        return self.decode.wanted if self.decodes else 0

    @property
    def slot(self) -> Slot:
        """Where it is."""
        return self.allocation.slot

    @property
    def unread(self) -> int:
        """Tokens to read before anything else. The last one is read with the first step, unless there is none."""
        return len(self.sequence.ids) - self.allocation.shared - bool(self.wanted)

    @property
    def held(self) -> int:
        """Tokens in the row, the pending one and those under way included."""
        return len(self.sequence.ids) + self.issued - self.pushed

    @property
    def steps(self) -> int:
        """Steps that may still be issued."""
        return self.wanted - (self.issued - self.pushed)

    @property
    def next_read(self) -> int:
        """Tokens that are read in one go: the mask of a long row, read whole, would not fit into memory."""
        return min(self.unread, _MOST_READ)

    @property
    def slot_request(self) -> SlotRequest:
        """What it asks of the slot manager."""
        return SlotRequest(packed(self.sequence.ids), self.job.owner, self.job.since)

    @property
    def entry(self) -> Entry:
        """How it enters its slot."""
        ids, pending = self.sequence.ids, bool(self.wanted)
        seed, drawn = (self.decode.seed, self.decode.drawn) if self.decodes else (0, 0)
        return Entry(self.slot.index, ids, len(ids) - pending, seed, drawn)


@dataclass(eq=False)
class Batch:
    """Rows that take steps together, as long as nobody comes or goes."""

    rows: list[Row]
    slots: range
    sampler: Sampler
    moving: Tensor | None
    """bool (slots,), false for idle ones among them; ``None`` if there are none."""
    active: Tensor | None
    """int64 (rows,), where the rows are among the slots, if some are idle."""
    width: int
    """Positions of the longest row, the one that is decoded included."""
    keys: Sequence[Tensor] = ()
    """Noise of the coming steps: hashed for many at once."""
    step: int = 0
