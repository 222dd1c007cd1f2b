"""Schedules the rows of all jobs over the slots: admission, reading, decoding, preemption, and restarts.

A row is waiting, placed in a slot, or done. A placed row is in the list of rows to read, then in that of rows to
decode. Between them it may be in no list: a follower is referenced by the row that it copies from, which queues it once
it is read itself; and a row that is read is referenced by its prefill group until the whole group is. Neither is
forgotten, since :meth:`Scheduler._finish_read` runs once for every placed row, and no two rows wait for each other: a
row follows only earlier ones of the sorted order in which the slot manager compares them.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from operator import attrgetter
from time import perf_counter
from typing import Any

import torch

from darwin_align.backends.local.engine.admission import AdmissionDelay
from darwin_align.backends.local.engine.buckets import next_bucket
from darwin_align.backends.local.engine.decoding import StepDecoder
from darwin_align.backends.local.engine.forward import Piece, SlotForward
from darwin_align.backends.local.engine.memory import fewer_rows
from darwin_align.backends.local.engine.rows import Job, PrefillGroup, Row
from darwin_align.backends.local.engine.sequences import ReadSequence
from darwin_align.backends.local.engine.slot_manager import Slot, packed
from darwin_align.backends.local.engine.slot_store import SlotStore
from darwin_align.core.errors import DeviceMemoryError

__all__ = ["QUANTUM", "Scheduler"]

QUANTUM = 64
"""Tokens that a row may decode while others wait for a slot; then it is preempted and queues again."""
_READ = 1024
"""Positions to read before the next step of the rows under decoding."""


class Scheduler:
    """The rows of one model over its slots. All methods run on the engine's thread.

    Args:
        forward: the model over slots.
        model: its name in messages.
        device: where the slots' state is.
        max_rows: rows that have a slot at the same time; others wait.
        budget: bytes for the keys and values of all rows.
        lag: steps whose tokens the host has not read when it issues the next.
    """

    def __init__(
        self, forward: SlotForward, model: str, device: torch.device, *, max_rows: int, budget: int, lag: int
    ) -> None:
        self.forward, self._model, self._device, self.lag = forward, model, device, lag
        self._max_rows, self._budget = max_rows, budget
        self._max_placed = max_rows
        """Rows that may have a slot at the same time now: fewer after memory ran out."""
        self.store = SlotStore(forward, device, budget)
        self._waiting: deque[Row] = deque()
        self._placed: dict[Slot, Row] = {}
        self._unread: list[Row] = []
        self._decoder = StepDecoder(forward, self.store, self._placed)
        self._full = False
        """Whether a row waits for memory and no row has left since: another attempt to admit it would fail."""
        self._jobs: set[Job[Any]] = set()
        self.admission = AdmissionDelay()

    @property
    def busy(self) -> bool:
        """Whether any row waits or runs."""
        return bool(self._waiting or self._placed or self._decoder.pending)

    def start(self, job: Job[Any], *, shares_cores: bool) -> None:
        """Queue the sequences of a job.

        Args:
            job: the job.
            shares_cores: whether another model computes on the same cores while this one waits.
        """
        if not self._jobs:  # what was too much before may not be now
            self._max_placed, self.store.manager.budget = self._max_rows, self._budget
        rows = [Row(sequence, job) for sequence in job.sequences]
        job.unfinished, job.since = len(job.sequences), self.store.manager.now + 1
        job.arrived = perf_counter()
        self.admission.arrived(job.owner, job.arrived)
        self.admission.share = 1.0 if shares_cores else AdmissionDelay.share
        self._jobs.add(job)
        self._waiting.extend(rows)

    def release(self, owner: str) -> None:
        """Free the slots of a search that is over."""
        self.store.manager.release(owner)
        self.admission.forget(owner)

    def round(self) -> float:
        """Admit waiting rows, read some buckets, and decode one token on every row that is read.

        Returns:
            Seconds to wait for a message before the next round.
        """
        self._drop_finished()
        self._preempt()
        self._admit()
        positions = 0
        while self._unread and positions < _READ:
            positions += self._read()
        if self._decoder.busy:
            if not self._unread and (seconds := self.admission.delay(perf_counter())):
                self._collect()
                return seconds
            self._remove_all(self._decoder.step(self.lag))
        return 0.0

    def fail(self, error: BaseException) -> None:
        """Give the error to the callers of all jobs, wherever their rows are, and drop everything."""
        for job in self._jobs:
            job.fail(error)
        self._jobs.clear()
        self._waiting.clear()
        self._clear()

    # -- rows that come and go

    def _drop_finished(self) -> None:
        """Remove the rows of jobs that no caller waits for: cancelled, failed, or ended at their deadline."""
        if late := [job for job in self._jobs if job.late and not job.future.done()]:
            self._collect()
            for job in late:
                job.complete()
        if not any(job.future.done() for job in self._jobs):
            return
        self._waiting = deque(row for row in self._waiting if not row.job.future.done())
        self._remove_all([row for row in self._decoder.rows if row.job.future.done()])
        # Rows that are being read stay until they are: others may copy from them.
        placed = {row.job for row in self._placed.values()}
        self._jobs = {job for job in self._jobs if job in placed or not job.future.done()}

    def _preempt(self) -> None:
        """Fairness: rows that decoded a quantum queue again when others wait for a slot."""
        if not self._waiting or (len(self._placed) < self._max_placed and not self._full):
            return
        long = sorted((row for row in self._decoder.rows if row.issued >= QUANTUM), key=lambda row: -row.issued)
        if long:
            self._collect()
        for row in long[: len(self._waiting)]:
            if self._is_placed(row):  # the tokens that were just collected may have ended it
                self._remove(row)
                self._waiting.append(Row(row.sequence, row.job, requeued=True))

    def _admit(self) -> None:
        """Give slots to the first waiting rows. Those that find none keep their place in the queue."""
        free = 0 if self._full else max(0, self._max_placed - len(self._placed))
        rows = list(islice(self._waiting, free))
        if not rows:
            return
        while rows and not self._widen(max(len(row.sequence.ids) + row.remaining for row in rows) + 1):
            rows.pop()
        jobs = {row.job for row in rows}
        later = [row.slot_request for row in islice(self._waiting, len(rows), None) if row.job in jobs]
        allocations = self.store.manager.allocate([row.slot_request for row in rows], later)
        self.store.grow(len(self.store.manager.slots))
        placed, left = [], []
        for row, allocation in zip(rows, allocations, strict=True):
            if allocation is None:
                left.append(row)
                continue
            placed.append(row)
            row.allocation = allocation
            if allocation.after is None and allocation.source is not None:
                self.store.copy_prefix(allocation.source, allocation.slot, allocation.shared)
        for _ in rows:
            self._waiting.popleft()
        self._waiting.extendleft(reversed(left))
        self._full = bool(left) or not rows
        if placed:
            self._place(placed, rows)

    def _widen(self, needed: int) -> bool:
        width = self.store.manager.width
        fits = self.store.widen(needed)
        if self.store.manager.width != width:
            self._decoder.invalidate()
        return fits

    def _place(self, placed: list[Row], rows: list[Row]) -> None:
        """Enter rows into their slots: leaders are to be read now, followers once their leader is read."""
        self._placed.update((row.slot, row) for row in placed)
        self.store.state.enter([row.entry for row in placed])
        groups: dict[int, PrefillGroup] = {}
        for row in placed:
            row.prefill = groups.setdefault(id(row.job), PrefillGroup())
            row.prefill.rows.append(row)
            row.prefill.unread += 1
            if not row.requeued:
                row.sequence.reused = row.allocation.shared
        for row in placed:
            if row.allocation.after is not None:
                rows[row.allocation.after].followers.append(row)
        for row in placed:
            if row.allocation.after is None:
                self._queue_read(row)

    def _remove(self, row: Row) -> None:
        """Take a row out of its slot: it ended, is preempted, or no caller waits for it."""
        if row.remaining or row.issued:
            # The last token is drawn but not read: its keys and values are not in the slot.
            row.slot.key = packed(row.sequence.ids[:-1])
            self._decoder.remove(row)
        if row.slot.owner is None:
            row.slot.key = b""  # the search is over: nothing of it is kept
        row.slot.busy = self._full = False
        del self._placed[row.slot]
        if not row.remaining:
            row.job.unfinished -= 1
            if not row.job.unfinished:
                if row.issued:
                    now = perf_counter()
                    self.admission.job_finished(row.job.owner, now, now - row.job.arrived)
                row.job.complete()
                self._jobs.discard(row.job)

    def _remove_all(self, rows: list[Row]) -> None:
        for row in rows:
            self._remove(row)

    def _collect(self) -> None:
        """Read all tokens that are decoded, and remove the rows that ended."""
        self._remove_all(self._decoder.collect())

    def _is_placed(self, row: Row) -> bool:
        return self._placed.get(row.slot) is row

    # -- reading

    def _queue_read(self, row: Row) -> None:
        """A row's shared prefix is in its slot: read the rest, if there is any."""
        if row.unread > 0:
            self._unread.append(row)
        else:
            self._finish_read(row)

    def _read(self) -> int:
        """Read a bucket of rows side by side, of a long row a part. Returns how many positions."""
        bucket = next_bucket(self._unread, attrgetter("next_read"), self._max_placed)
        # Slots in their order may be a range, whose keys need not be gathered.
        bucket.sort(key=lambda row: row.slot.index)
        starts = [row.allocation.shared for row in bucket]
        for row in bucket:
            row.allocation.shared += row.next_read
        pieces = [
            Piece(row.slot.index, start, row.sequence.ids[start : row.allocation.shared])
            for row, start in zip(bucket, starts, strict=True)
        ]
        hidden = self.forward.read(pieces)
        done = {row for row in bucket if not row.unread}
        self._unread = [row for row in self._unread if row not in done]
        for row, state in zip(bucket, hidden, strict=True):
            if row not in done:
                row.slot.key = packed(row.sequence.ids[: row.allocation.shared])
                continue
            if isinstance(row.sequence, ReadSequence):
                row.sequence.hidden = state
            self._finish_read(row)
        return sum(len(piece.ids) for piece in pieces)

    def _finish_read(self, row: Row) -> None:
        """A row is read up to its pending token: its followers go on, and its group may begin to decode."""
        row.slot.key = packed(row.sequence.ids[: len(row.sequence.ids) - bool(row.remaining)])
        for follower in row.followers:
            self.store.copy_prefix(row.slot, follower.slot, follower.allocation.shared)
            follower.slot.key = packed(follower.sequence.ids[: follower.allocation.shared])
            self._queue_read(follower)
        row.followers.clear()
        row.prefill.unread -= 1
        if not row.remaining:
            self._remove(row)
        # Rows of one job begin to decode together: one batch serves them from their first step to their last.
        if not row.prefill.unread:
            self._decoder.add([one for one in row.prefill.rows if one.remaining])

    # -- restarts

    def _clear(self) -> None:
        """Drop what is in the slots and who has them: a pass that broke off may have left any of it half done."""
        self._placed.clear()
        self._unread.clear()
        self._decoder.clear()
        self._full = False
        self.store.clear()

    def restart_with_fewer_rows(self, error: BaseException) -> None:
        """Memory ran out in a round: go on with half as many slots. Rows keep the tokens that they have.

        A sequence is its token ids: a row can always be read again from them, so a restart costs time and changes no
        answer. Only a row that runs out of memory alone fails.
        """
        rows, manager = self._restarted_rows(), self.store.manager
        max_placed, slots = min(self._max_placed, len(rows)), len(manager.slots)
        slot_bytes = manager.width * manager.position_bytes
        self._clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            # Slots without a row contain prefixes of others: those are dropped before a row fails.
            fewer_rows(max(max_placed, slots), self._model, self._device, error)
        except DeviceMemoryError as too_little:
            for row in rows[:1]:  # the only one that had a slot
                row.job.fail(too_little)
        self._max_placed = max(1, max_placed // 2)
        if slots:
            manager.budget = max(1, slots // 2) * slot_bytes
        self._waiting = deque(row for row in rows if not row.job.future.done())
        self._jobs = {row.job for row in self._waiting}

    def _restarted_rows(self) -> list[Row]:
        """All rows as new ones, those that had a slot first."""
        placed = list(self._placed.values())
        begun = {id(row.sequence) for row in placed}
        waiting = [row for row in self._waiting if id(row.sequence) not in begun]
        return [Row(row.sequence, row.job, requeued=row.requeued or row in placed) for row in (*placed, *waiting)]
