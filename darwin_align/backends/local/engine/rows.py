"""The engine's work: jobs, their rows, and the batch of a step."""

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
    """The sequences of one :meth:`Engine.submit`, and its future.

    The future completes exactly once. :meth:`_claim` decides between the engine and a caller that cancels: who comes
    first wins, and the other one's attempt has no effect.
    """

    sequences: Sequence[DecodeSequence | ReadSequence]
    finish: Callable[[], T]
    without_slots: Callable[[Sequence[Any]], None] | None
    over_slots: bool
    owner: str
    threads: int | None
    """CPU threads for it; ``None`` leaves the number to the engine."""
    usual_threads: int
    future: Future[T] = field(default_factory=Future)
    unfinished: int = 0
    """Sequences that are not done."""
    since: int = 0
    """:attr:`SlotManager.now` when it was admitted to the queue."""
    arrived: float = 0.0
    """The same by the clock of :func:`time.perf_counter`."""
    deadline: float | None = None
    """On the clock of :func:`time.monotonic`: what is decoded by then is the result."""
    _running: bool = False

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and monotonic() >= self.deadline

    def complete(self) -> None:
        """Set the future to the value of ``finish``, unless it is done already."""
        try:
            result = self.finish()
        except BaseException as error:  # noqa: BLE001 - the caller's future gets it
            self.fail(error)
        else:
            if self._claim():
                self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Set the future to an error, unless it is done already."""
        if self._claim():
            self.future.set_exception(error)

    def _claim(self) -> bool:
        """Whether the future may be completed now. From then on it cannot be cancelled."""
        if self.future.done():
            return False
        # After an error between claiming and setting, `fail` claims again: the future is running, and still unset.
        self._running = self._running or self.future.set_running_or_notify_cancel()
        return self._running


@dataclass(eq=False)
class PrefillGroup:
    """Rows of one job that were admitted together: they begin to decode together, once all are read."""

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
    """Steps issued since it has its slot, including those whose tokens the host has not read."""
    pushed: int = 0
    """Steps whose tokens the host has read."""
    requeued: bool = False
    """Whether it had a slot before and was preempted."""

    def __post_init__(self) -> None:
        self.decodes = isinstance(self.sequence, DecodeSequence)

    @property
    def decode(self) -> DecodeSequence:
        """Its sequence, for rows that are decoded."""
        return cast(DecodeSequence, self.sequence)

    @property
    def remaining(self) -> int:
        """Tokens that may still be decoded: none of a sequence that is only read."""
        return self.decode.remaining if self.decodes else 0

    @property
    def slot(self) -> Slot:
        """Its slot."""
        return self.allocation.slot

    @property
    def unread(self) -> int:
        """Tokens to read before its first step. That step reads the last token; without any step it is read here."""
        return len(self.sequence.ids) - self.allocation.shared - bool(self.remaining)

    @property
    def length(self) -> int:
        """Tokens in the row, including the pending one and those that the host has not read."""
        return len(self.sequence.ids) + self.issued - self.pushed

    @property
    def steps(self) -> int:
        """Steps that may still be issued."""
        return self.remaining - (self.issued - self.pushed)

    @property
    def next_read(self) -> int:
        """Tokens to read in one pass: the mask of a long row, read whole, would not fit into memory."""
        return min(self.unread, _MOST_READ)

    @property
    def slot_request(self) -> SlotRequest:
        """Its request to the slot manager."""
        return SlotRequest(packed(self.sequence.ids), self.job.owner, self.job.since)

    @property
    def entry(self) -> Entry:
        """Its state as it enters its slot."""
        ids, pending = self.sequence.ids, bool(self.remaining)
        seed, drawn = (self.decode.seed, self.decode.drawn) if self.decodes else (0, 0)
        return Entry(self.slot.index, ids, len(ids) - pending, seed, drawn)


@dataclass(eq=False)
class Batch:
    """Rows that take steps together, as long as none comes or goes."""

    rows: list[Row]
    slots: range
    sampler: Sampler
    moving: Tensor | None
    """bool (slots,), false for idle slots in the range; ``None`` if there are none."""
    active: Tensor | None
    """int64 (rows,), where the rows are among the slots, if some are idle."""
    width: int
    """Positions of the longest row, including the one that is decoded."""
    keys: Sequence[Tensor] = ()
    """Noise keys of the next steps, hashed for many at once."""
    step: int = 0
