"""The engine: one thread, one model, the rows of all searches in one batch.

Each round takes in newcomers, reads some buckets of rows, and decodes one token on every row under way. So a
newcomer waits for one step, never for another search's chunk.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from operator import attrgetter
from threading import Lock
from time import perf_counter
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from darwin_align.backends.local.engine.admission import AdmissionDelay
from darwin_align.backends.local.engine.buckets import next_bucket
from darwin_align.backends.local.engine.forward import Piece, SlotForward, forward_for
from darwin_align.backends.local.engine.memory import device_memory, half_as_many, out_of_memory
from darwin_align.backends.local.engine.rows import Batch, Job, PrefillGroup, Row
from darwin_align.backends.local.engine.sequences import DecodeSequence, ReadSequence
from darwin_align.backends.local.engine.slot_manager import Slot, SlotManager, fronted, gathered, packed
from darwin_align.backends.local.engine.state import SlotState, to_host
from darwin_align.backends.local.engine.worker import Worker, cores, limit_threads
from darwin_align.backends.local.sampling import Sampler, penalises
from darwin_align.core.errors import DeviceMemoryError

__all__ = ["Engine"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

QUANTUM = 64
"""Tokens that a row may decode while others wait for a slot; then it makes room and queues again."""
_READ = 1024
"""Positions after which reading makes room for a step."""
_KEYS = 32
"""Steps whose noise keys are hashed at once."""
_WIDTH = 256
"""A compiled step attends to a multiple of this: each width is compiled once."""
_ROUND = 64
"""Slots are as wide as a multiple of this."""


_on_cpu: WeakSet[Engine] = WeakSet()


class Engine:
    """Reads and decodes rows on one model.

    :meth:`submit` may be called from any thread and returns at once. The engine's thread begins with the first call and
    ends with the engine.

    Args:
        model: a transformers model in evaluation mode.
        device: where its embeddings are; ``None`` is the model's own word.
        most_rows: rows that have a slot at the same time; others queue.
        row_memory: bytes for the keys and values of all rows; ``None`` is a quarter of the device's memory.
        compiled: compile the decoding step.
        lag: steps whose tokens the host has not looked at when it issues the next: 1 keeps a GPU busy, and costs a
            finished row one step. ``None`` is 1 on a GPU and 0 elsewhere.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device | None = None,
        most_rows: int = 64,
        row_memory: int | None = None,
        compiled: bool = False,
        lag: int | None = None,
    ) -> None:
        self._model, self._most_rows, self._row_memory, self._compiled = model, most_rows, row_memory, compiled
        self._device = torch.device(model.device) if device is None else device
        self._lag = int(self._device.type == "cuda") if lag is None else lag
        self._side_by_side = most_rows
        """Rows that have a slot at the same time now: fewer after memory ran out."""
        self._budget = 0
        self._forward: SlotForward | None = None
        self._tried = False
        self._reason = ""
        """Why the model does not work over slots."""
        self._trying = Lock()
        self._waiting: deque[Row] = deque()
        self._unread: list[Row] = []
        self._decoding: list[Row] = []
        self._placed: dict[Slot, Row] = {}
        self._full = False
        """Whether somebody waits for memory, and nobody has left since."""
        self._jobs: set[Job[Any]] = set()
        self._admission = AdmissionDelay()
        if self._device.type == "cpu":
            _on_cpu.add(self)
        self._batch: Batch | None = None
        self._pending: deque[tuple[list[Row], Tensor, Tensor, Any]] = deque()
        self._worker = Worker(self)

    # -- the callers' side

    def submit(
        self,
        sequences: Sequence[DecodeSequence | ReadSequence],
        finish: Callable[[], T],
        *,
        without_slots: Callable[[Sequence[Any]], None] | None = None,
        over_slots: bool = True,
        owner: str = "",
        threads: int | None = None,
        deadline: float | None = None,
    ) -> Future[T]:
        """Queue sequences.

        Args:
            sequences: what to read or decode.
            finish: called on the engine's thread when all are done; its value is the future's result.
            without_slots: serves them on a model that does not work over slots.
            over_slots: false if ``without_slots`` must serve them on any model.
            owner: the search, for :meth:`release`.
            threads: CPU threads for the work; ``None`` is the caller's own number.
            deadline: when to finish with what is decoded by then, on the clock of :func:`time.monotonic`;
                ``without_slots`` sees to it itself.

        Returns:
            A future; cancelling it makes its rows leave before the next step.
        """
        usual = torch.get_num_threads()
        job = Job(sequences, finish, without_slots, over_slots, owner, threads or usual, usual, deadline=deadline)
        if not self._worker.put(job, self):
            raise RuntimeError("the engine is closed: the interpreter is shutting down")
        return job.future

    def release(self, owner: str) -> None:
        """Let the rows of a search go: nothing of it will be asked for again."""
        self._worker.put(owner)

    @property
    def slots_in_use(self) -> int:
        """Slots that belong to a search."""
        return sum(slot.owner is not None for slot in self._manager.slots) if self._forward else 0

    @property
    def takes_slots(self) -> bool | None:
        """Whether the model works over slots; ``None`` before the first call."""
        return self._forward is not None if self._tried else None

    # -- the engine's thread

    def enqueue(self, message: Any) -> None:
        """Take one message from the queue: a job, or the owner whose rows may go."""
        if isinstance(message, str):
            if self._forward is not None:
                self._manager.release(message)
            self._admission.forget(message)
            return
        job: Job[Any] = message
        try:
            if job.future.cancelled():
                return
            limit_threads(job.threads, job.usual_threads)
            if job.sequences and job.over_slots and not self.prepare():
                self._begin_job(job)
            else:
                self._serve_without_slots(job)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            # Rows of it that wait already leave with the next round, as those of a cancelled job do.
            job.fail(error)

    def _begin_job(self, job: Job[Any]) -> None:
        if not self._jobs:  # what was too much before may not be now
            self._side_by_side, self._manager.budget = self._most_rows, self._budget
        rows = [Row(sequence, job) for sequence in job.sequences]
        job.left, job.since = len(job.sequences), self._manager.now + 1
        job.came = perf_counter()
        self._admission.came(job.owner, job.came)
        self._admission.share = 1.0 if self._shares_its_cores(job) else AdmissionDelay.share
        self._jobs.add(job)
        self._waiting.extend(rows)

    def _shares_its_cores(self, job: Job[Any]) -> bool:
        """Whether another model works on the same cores while this one waits: then nothing is lost by waiting."""
        return self._device.type == "cpu" and job.threads >= cores() and len(_on_cpu) > 1

    def forget(self) -> None:
        """Drop all work, in a child process: its callers live in the parent."""
        self._trying = Lock()  # the thread that held it did not survive the fork
        self.fail(RuntimeError("the process was forked"))

    @property
    def busy(self) -> bool:
        """Whether any row waits or runs."""
        return bool(self._waiting or self._placed or self._pending)

    def round(self) -> float:
        """Take in who waits, read some buckets, take a step.

        Returns:
            Seconds to wait for a message before the next round.
        """
        try:
            self._drop_ended()
            self._make_room()
            self._admit()
            positions = 0
            while self._unread and positions < _READ:
                positions += self._read()
            if self._decoding or self._pending:
                if not self._unread and (seconds := self._admission.hold(perf_counter())):
                    self._settle(0)
                    return seconds
                self._step()
        except BaseException as error:  # noqa: BLE001 - a failed pass must not hang its callers
            if out_of_memory(error):
                self._begin_anew(error)
            else:
                self.fail(error)
        return 0.0

    def prepare(self) -> str:
        """Find out, once, whether the model works over slots, by running a few tokens through it.

        Returns:
            Why it does not; "" if it does.
        """
        with self._trying:
            if not self._tried:
                with torch.inference_mode():
                    self._forward, self._reason = forward_for(self._model, self._device)
                    if self._forward is not None:
                        self._start(self._forward)
                self._tried = True
                if self._reason:
                    logger.warning(
                        "%s is read anew at every step, without reuse of keys and values: %s",
                        type(self._model).__name__,
                        self._reason,
                    )
        return self._reason

    def _start(self, forward: SlotForward) -> None:
        self._budget = device_memory(self._device) // 4 if self._row_memory is None else self._row_memory
        self._manager, self._state = SlotManager(forward.position_bytes, self._budget), SlotState(self._device)
        if self._compiled:
            forward.compile()
        forward.cache.lay_out([], 0, 0)

    def _serve_without_slots(self, job: Job[Any]) -> None:
        left, size = list(job.sequences), self._most_rows
        while left:
            if job.without_slots is None:
                raise TypeError(f"{type(self._model).__name__} does not work over slots, and nobody serves it without")
            try:
                job.without_slots(left[:size])
            except BaseException as error:
                if not out_of_memory(error):
                    raise
                size = self._fewer(min(size, len(left)), error)
            else:
                del left[:size]
        job.end()

    def _fewer(self, rows: int, error: BaseException) -> int:
        fewer = half_as_many(rows, type(self._model).__name__, error)
        logger.warning("memory on %s ran out with %d rows side by side: going on with %d", self._device, rows, fewer)
        return fewer

    # -- coming and going

    def _drop_ended(self) -> None:
        """Let the rows of jobs go for which nobody waits any more: cancelled, failed, or served at their deadline."""
        if late := [job for job in self._jobs if job.late and not job.future.done()]:
            self._settle(0)
            for job in late:
                job.end()
        if not any(job.future.done() for job in self._jobs):
            return
        self._waiting = deque(row for row in self._waiting if not row.job.future.done())
        for row in [row for row in self._decoding if row.job.future.done()]:
            self._leave(row)
        # Rows that others may copy from are read to their end first.
        placed = {row.job for row in self._placed.values()}
        self._jobs = {job for job in self._jobs if job in placed or not job.future.done()}

    def _make_room(self) -> None:
        """Fairness: rows that decoded a quantum queue again when others wait for a slot."""
        if not self._waiting or (len(self._placed) < self._side_by_side and not self._full):
            return
        long = sorted((row for row in self._decoding if row.issued >= QUANTUM), key=lambda row: -row.issued)
        if long:
            self._settle(0)
        for row in long[: len(self._waiting)]:
            if self._is_placed(row):  # its last token may have come back just now
                self._leave(row)
                self._waiting.append(Row(row.sequence, row.job, seen=True))

    def _admit(self) -> None:
        room = 0 if self._full else max(0, self._side_by_side - len(self._placed))
        rows = list(islice(self._waiting, room))
        if not rows:
            return
        while rows and not self._widen(max(len(row.sequence.ids) + row.wanted for row in rows) + 1):
            rows.pop()
        jobs = {row.job for row in rows}
        later = [row.slot_request for row in islice(self._waiting, len(rows), None) if row.job in jobs]
        allocations = self._manager.allocate([row.slot_request for row in rows], later)
        self._grow(len(self._manager.slots))
        placed, left = [], []
        for row, allocation in zip(rows, allocations, strict=True):
            if allocation is None:
                left.append(row)
                continue
            placed.append(row)
            row.allocation = allocation
            if allocation.after is None and allocation.source is not None:
                self._cache.copy(allocation.source.index, allocation.slot.index, allocation.shared)
        for _ in rows:
            self._waiting.popleft()
        self._waiting.extendleft(reversed(left))
        self._full = bool(left) or not rows
        if placed:
            self._begin(placed, rows)

    def _begin(self, placed: list[Row], rows: list[Row]) -> None:
        self._placed.update((row.slot, row) for row in placed)
        self._state.enter([row.entry for row in placed])
        groups: dict[int, PrefillGroup] = {}
        for row in placed:
            row.prefill = groups.setdefault(id(row.job), PrefillGroup())
            row.prefill.rows.append(row)
            row.prefill.unread += 1
            if not row.seen:
                row.sequence.reused = row.allocation.shared
        for row in placed:
            if row.allocation.after is not None:
                rows[row.allocation.after].followers.append(row)
        for row in placed:
            if row.allocation.after is None:
                self._queue(row)

    def _queue(self, row: Row) -> None:
        """A row's prefix is in its slot: read the rest, if there is any."""
        if row.unread > 0:
            self._unread.append(row)
        else:
            self._is_read(row)

    def _read(self) -> int:
        """Read a bucket of rows side by side, of a long row a part. Returns how many positions."""
        bucket = next_bucket(self._unread, attrgetter("next_read"), self._side_by_side)
        # Slots in their order may be a range, whose keys need not be gathered.
        bucket.sort(key=lambda row: row.slot.index)
        starts = [row.allocation.shared for row in bucket]
        for row in bucket:
            row.allocation.shared += row.next_read
        pieces = [
            Piece(row.slot.index, start, row.sequence.ids[start : row.allocation.shared])
            for row, start in zip(bucket, starts, strict=True)
        ]
        hidden = self._slots.read(pieces)
        done = {row for row in bucket if not row.unread}
        self._unread = [row for row in self._unread if row not in done]
        for row, state in zip(bucket, hidden, strict=True):
            if row not in done:
                row.slot.key = packed(row.sequence.ids[: row.allocation.shared])
                continue
            if isinstance(row.sequence, ReadSequence):
                row.sequence.hidden = state
            self._is_read(row)
        return sum(len(piece.ids) for piece in pieces)

    def _is_read(self, row: Row) -> None:
        """A row is read up to its pending token: those that copy from it go on, and its group may begin to decode."""
        row.slot.key = packed(row.sequence.ids[: len(row.sequence.ids) - bool(row.wanted)])
        for follower in row.followers:
            self._cache.copy(row.slot.index, follower.slot.index, follower.allocation.shared)
            follower.slot.key = packed(follower.sequence.ids[: follower.allocation.shared])
            self._queue(follower)
        row.followers.clear()
        row.prefill.unread -= 1
        if not row.wanted:
            self._leave(row)
        if not row.prefill.unread:
            self._begin_decoding([row for row in row.prefill.rows if row.wanted])

    def _begin_decoding(self, rows: list[Row]) -> None:
        self._decoding.extend(rows)
        if penalised := [row.entry for row in rows if penalises(row.decode.sampling)]:
            self._state.remember(penalised, self._cache.slots, self._cache.width)
        if rows:
            self._batch = None

    def _leave(self, row: Row) -> None:
        """Take a row out: finished, or to make room, or unwanted."""
        if row.wanted or row.issued:
            row.slot.key = packed(row.sequence.ids[:-1])
            self._decoding.remove(row)
            self._batch = None
        if row.slot.owner is None:
            row.slot.key = b""  # the search is over: nothing of it is kept
        row.slot.busy = self._full = False
        del self._placed[row.slot]
        if not row.wanted:
            row.job.left -= 1
            if not row.job.left:
                if row.issued:
                    now = perf_counter()
                    self._admission.left(row.job.owner, now, now - row.job.came)
                row.job.end()
                self._jobs.discard(row.job)

    def _is_placed(self, row: Row) -> bool:
        return self._placed.get(row.slot) is row

    def fail(self, error: BaseException, message: Any = None) -> None:
        """Give every caller the error, that of a message in hand too, and begin anew."""
        if isinstance(message, Job):
            message.fail(error)
        for job in self._jobs:  # all that are under way, wherever their rows are
            job.fail(error)
        self._jobs.clear()
        self._waiting.clear()
        self._clear()

    def _clear(self) -> None:
        """Forget what is in the slots and who is there. A pass that broke off may have left any of it half done."""
        for held in (self._placed, self._unread, self._decoding, self._pending):
            held.clear()
        self._batch, self._full = None, False
        if self._forward is not None:
            self._manager.clear()
            self._forward.cache.lay_out([], 0, 0)
            self._state.lay_out([], 0, 0)

    def _begin_anew(self, error: BaseException) -> None:
        """Memory ran out in a round: let fewer rows go on side by side, each with the tokens that it has."""
        rows, manager = self._restarted(), self._manager
        side_by_side, slots = min(self._side_by_side, len(rows)), len(manager.slots)
        slot_bytes = manager.width * manager.position_bytes
        self._clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            # Slots without a row hold prefixes of others: they go first.
            self._fewer(max(side_by_side, slots), error)
        except DeviceMemoryError as too_little:
            for row in rows[:1]:  # the only one that had a slot
                row.job.fail(too_little)
        self._side_by_side = max(1, side_by_side // 2)
        if slots:
            manager.budget = max(1, slots // 2) * slot_bytes
        self._waiting = deque(row for row in rows if not row.job.future.done())
        self._jobs = {row.job for row in self._waiting}

    def _restarted(self) -> list[Row]:
        """All rows under way as new ones, those that had a slot first."""
        placed = list(self._placed.values())
        begun = {id(row.sequence) for row in placed}
        waiting = [row for row in self._waiting if id(row.sequence) not in begun]
        return [Row(row.sequence, row.job, seen=row.seen or row in placed) for row in (*placed, *waiting)]

    # -- room

    @property
    def _slots(self) -> SlotForward:
        assert self._forward is not None  # noqa: S101 - rows wait only where there are slots
        return self._forward

    @property
    def _cache(self) -> Any:
        return self._slots.cache

    def _widen(self, needed: int) -> bool:
        """Make slots wide enough, half as wide again as before where memory allows: laying them out costs a copy."""
        manager, cache = self._manager, self._cache
        if needed <= manager.width:
            return True
        exact, ample = (-(-width // _ROUND) * _ROUND for width in (needed, max(needed, manager.width * 3 // 2)))
        affordable = manager.budget // max(1, ample * manager.position_bytes) > len(manager.slots)
        for width in (ample, exact) if affordable else (exact,):
            if (kept := manager.fit(width)) is not None:
                slots = min(max(cache.slots, len(kept)), manager.limit)
                cache.lay_out(kept, slots, width)
                self._state.lay_out(kept, slots, width)
                self._batch = None
                return True
        return False

    def _grow(self, needed: int) -> None:
        """Have room for so many slots, twice as many as before where memory allows."""
        manager, cache = self._manager, self._cache
        if needed > cache.slots:
            slots = max(needed, min(2 * cache.slots, manager.limit))
            kept = range(cache.slots)
            self._state.lay_out(kept, slots, manager.width)
            cache.lay_out(kept, slots, manager.width)

    # -- decoding

    def _step(self) -> None:
        batch = self._batch or self._gather()
        if batch is not None:
            state, rows = self._state, batch.slots
            here = slice(rows.start, rows.stop)
            width = batch.width if not self._compiled else min(-(-batch.width // _WIDTH) * _WIDTH, self._cache.width)
            logits = self._slots.step(rows, state.pending[here], state.lengths[here], width)
            history = state.history(rows, batch.width) if batch.sampler.reads_history else None
            if batch.step == len(batch.keys):
                batch.keys, batch.step = state.keys(rows, _KEYS).unbind(), 0
            tokens, logprobs = batch.sampler.draw(logits, batch.keys[batch.step], history)
            batch.step += 1
            state.advance(rows, tokens, batch.moving)
            self._slots.count(len(batch.rows))
            batch.width += 1
            self._pending.append((batch.rows, *to_host(batch.active, tokens, logprobs)))
            for row in batch.rows:
                row.issued += 1
                if not row.steps:
                    self._batch = None
        # The next draw of a guided row depends on this one.
        self._settle(self._lag if batch is not None and not batch.sampler.guided else 0)

    def _gather(self) -> Batch | None:
        """Bring the rows that want a step side by side."""
        rows = [row for row in self._decoding if row.steps > 0]
        if not rows:
            return None
        active = [row.slot.index for row in rows]
        slots, exchanges = fronted(active, self._manager.limit) if self._compiled else gathered(active)
        self._grow(len(slots))
        for one, other in exchanges:
            self._exchange(one, other)
        rows.sort(key=lambda row: row.slot.index)
        idle = len(slots) > len(rows)
        moving = active_rows = None
        by_slot: list[Row | None] = [None] * len(slots)
        for row in rows:
            by_slot[row.slot.index - slots.start] = row
        if idle:
            moving = torch.tensor([row is not None for row in by_slot], device=self._device)
            active_rows = moving.nonzero()[:, 0]
        # An idle neighbour draws as the first row does; nobody looks at what it draws.
        settings = [(row or rows[0]).decode.sampling for row in by_slot]
        guides = [row.decode.guide if row else None for row in by_slot]
        ranks = [row.decode.rank if row else None for row in by_slot]
        width = max(row.held for row in rows)
        self._batch = Batch(rows, slots, Sampler(settings, self._device, guides, ranks), moving, active_rows, width)
        return self._batch

    def _exchange(self, one: int, other: int) -> None:
        slots = self._manager.slots
        lengths = [self._used(slots[one]), self._used(slots[other])]
        self._cache.exchange(one, other, *lengths)
        self._state.exchange(one, other)
        slots[one], slots[other] = slots[other], slots[one]
        slots[one].index, slots[other].index = one, other

    def _used(self, slot: Slot) -> int:
        # A row that is being decoded holds more than its key says.
        row = self._placed.get(slot)
        return max(slot.length, row.held if row is not None and row.issued else 0)

    def _settle(self, lag: int) -> None:
        """Look at the tokens of all but the last ``lag`` steps."""
        while len(self._pending) > lag:
            rows, tokens, logprobs, arrival = self._pending.popleft()
            if arrival is not None:
                arrival.synchronize()
            for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
                row.pushed += 1
                if row.wanted:
                    row.decode.push(token, logprob)
                if not row.wanted and self._is_placed(row):
                    self._leave(row)
