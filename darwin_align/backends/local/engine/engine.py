"""The engine: one thread and one model, which decode and read the rows of all searches in one batch.

In each round the scheduler admits waiting rows, reads some buckets of rows, and decodes one token on every row that is
read. So a new row waits for one step, never for another search's chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import cycle
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakSet

import torch

from darwin_align.backends.local.engine.forward import SlotForward, forward_for
from darwin_align.backends.local.engine.memory import device_memory, fewer_rows, out_of_memory
from darwin_align.backends.local.engine.rows import Job
from darwin_align.backends.local.engine.scheduler import Scheduler
from darwin_align.backends.local.engine.sequences import DecodeSequence, ReadSequence
from darwin_align.backends.local.engine.worker import Worker, cores, fastest_threads, limit_threads

__all__ = ["Engine"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_TINY = 20_000_000
"""Parameters below which a step is too short to be shared among threads."""
_MEASURED_ROWS = 8
"""Rows of the products by which numbers of threads are compared: about as many as a step of a search has."""

_on_cpu: WeakSet[Engine] = WeakSet()


class Engine:
    """Reads and decodes rows on one model.

    :meth:`submit` may be called from any thread and returns at once. The engine's thread starts with the first call and
    ends with the engine.

    Args:
        model: a transformers model in evaluation mode.
        device: where its embeddings are; ``None`` is the model's device.
        max_rows: rows that have a slot at the same time; others wait.
        row_memory: bytes for the keys and values of all rows; ``None`` is a quarter of the device's memory.
        compiled: compile the decoding step.
        lag: steps whose tokens the host has not read when it issues the next: 1 keeps a GPU busy, and costs a row that
            ends one step. ``None`` is 1 on a GPU and 0 elsewhere.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device | None = None,
        max_rows: int = 64,
        row_memory: int | None = None,
        compiled: bool = False,
        lag: int | None = None,
    ) -> None:
        self._model, self._max_rows, self._row_memory, self._compiled = model, max_rows, row_memory, compiled
        self._device = torch.device(model.device) if device is None else device
        self._lag = int(self._device.type == "cuda") if lag is None else lag
        self._scheduler: Scheduler | None = None
        """``None`` before the model is probed, and if it does not work over slots."""
        self._probed = False
        self._threads: dict[int, int] = {}
        """The measured number of threads, by the most that were allowed."""
        self._reason = ""
        """Why the model does not work over slots."""
        self._probe_lock = Lock()
        if self._device.type == "cpu":
            _on_cpu.add(self)
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
        usual_threads: int | None = None,
        deadline: float | None = None,
    ) -> Future[T]:
        """Queue sequences.

        Args:
            sequences: what to read or decode.
            finish: called on the engine's thread when all are done; its value is the future's result.
            without_slots: decodes or reads them on a model that does not work over slots.
            over_slots: false if ``without_slots`` must be used on any model.
            owner: the search, for :meth:`release`.
            threads: CPU threads for the work; ``None`` is measured with the first job, at most the usual number.
            usual_threads: torch's number for the caller; ``None`` is that of the calling thread.
            deadline: when to finish with what is decoded by then, on the clock of :func:`time.monotonic`;
                ``without_slots`` has to observe it itself.

        Returns:
            A future. It always completes: with the value of ``finish``, with an error, or by cancelling it, which
            removes its rows before the next step.
        """
        usual = usual_threads or torch.get_num_threads()
        job = Job(sequences, finish, without_slots, over_slots, owner, threads, usual, deadline=deadline)
        if not self._worker.put(job, self):
            raise RuntimeError("the engine is closed: the interpreter is shutting down")
        return job.future

    def release(self, owner: str) -> None:
        """Free the slots of a search that is over: a hint, which never changes an answer."""
        self._worker.put(owner)

    @property
    def slots_in_use(self) -> int:
        """Slots that belong to a search."""
        return sum(slot.owner is not None for slot in self._scheduler.store.manager.slots) if self._scheduler else 0

    @property
    def takes_slots(self) -> bool | None:
        """Whether the model works over slots; ``None`` before it is probed."""
        return self._scheduler is not None if self._probed else None

    @property
    def positions(self) -> int:
        """Positions that were fed to the model over slots so far."""
        return self._scheduler.forward.positions if self._scheduler else 0

    def prepare(self) -> str:
        """Probe once whether the model works over slots, by running a few tokens through it.

        Returns:
            Why it does not; "" if it does.
        """
        with self._probe_lock:
            if not self._probed:
                with torch.inference_mode():
                    forward, self._reason = forward_for(self._model, self._device)
                    if forward is not None:
                        self._scheduler = self._new_scheduler(forward)
                self._probed = True
                if self._reason:
                    logger.warning(
                        "%s is read anew at every step, without reuse of keys and values: %s",
                        type(self._model).__name__,
                        self._reason,
                    )
        return self._reason

    def _new_scheduler(self, forward: SlotForward) -> Scheduler:
        budget = device_memory(self._device) // 4 if self._row_memory is None else self._row_memory
        # Read from the cache of the probe, before it is dropped.
        name = type(self._model).__name__
        scheduler = Scheduler(forward, name, self._device, max_rows=self._max_rows, budget=budget, lag=self._lag)
        if self._compiled:
            forward.compile()
        forward.cache.lay_out([], 0, 0)
        return scheduler

    # -- the engine's thread, see Worker

    def enqueue(self, message: Any) -> None:
        """Take one message from the queue: a job, or the owner whose slots to free."""
        if isinstance(message, str):
            if self._scheduler is not None:
                self._scheduler.release(message)
            return
        job: Job[Any] = message
        try:
            if job.future.cancelled():
                return
            limit_threads(job.threads or job.usual_threads, job.usual_threads)
            if job.sequences and job.over_slots and not self.prepare():
                assert self._scheduler is not None  # noqa: S101 - the model works over slots
                threads = job.threads or self._measured_threads(job.usual_threads)
                limit_threads(threads, job.usual_threads)
                self._scheduler.start(job, shares_cores=self._shares_its_cores(threads))
            else:
                self._serve_without_slots(job)
        except BaseException as error:  # noqa: BLE001 - the caller's future gets it
            # Rows of the job that wait already are dropped in the next round, as those of a cancelled job are.
            job.fail(error)

    def _measured_threads(self, most: int) -> int:
        if self._device.type != "cpu" or most == 1:
            return most
        if most not in self._threads:
            self._threads[most] = self._fastest_threads(most)
            logger.info("%s computes on %d of %d CPU threads", type(self._model).__name__, self._threads[most], most)
        return self._threads[most]

    def _fastest_threads(self, most: int) -> int:
        base, looked_up = self._model.base_model, self._model.get_input_embeddings().weight
        if sum(weight.numel() for weight in base.parameters()) < _TINY:
            return 1
        weights = [w for w in base.parameters() if w.ndim == 2 and w.is_floating_point() and w is not looked_up]
        if not weights:
            return most
        # One product after another: even on a busy machine each is short, a whole pass is not.
        rows, following = torch.ones(_MEASURED_ROWS, max(map(len, weights)), dtype=weights[0].dtype), cycle(weights)

        def product() -> None:
            weight = next(following)
            rows[:, : len(weight)].to(weight.dtype) @ weight

        return fastest_threads(product, most)

    def _shares_its_cores(self, threads: int) -> bool:
        """Whether another model computes on the same cores while this one waits: then waiting costs nothing."""
        return self._device.type == "cpu" and threads >= cores() and len(_on_cpu) > 1

    @property
    def busy(self) -> bool:
        """Whether any row waits or runs."""
        return self._scheduler is not None and self._scheduler.busy

    def round(self) -> float:
        """Run one round of the scheduler.

        Returns:
            Seconds to wait for a message before the next round.
        """
        scheduler = self._scheduler
        assert scheduler is not None  # noqa: S101 - rounds run while it is busy
        try:
            return scheduler.round()
        except BaseException as error:  # noqa: BLE001 - a failed pass must not hang its callers
            if out_of_memory(error):
                scheduler.restart_with_fewer_rows(error)
            else:
                self.fail(error)
        return 0.0

    def fail(self, error: BaseException, message: Any = None) -> None:
        """Give the error to every caller, also to that of a message in hand, and start with no rows."""
        if isinstance(message, Job):
            message.fail(error)
        if self._scheduler is not None:
            self._scheduler.fail(error)

    def forget(self) -> None:
        """Drop all work, in a child process: its callers are in the parent."""
        self._probe_lock = Lock()  # the thread that holds it did not survive the fork
        self.fail(RuntimeError("the process was forked"))

    def _serve_without_slots(self, job: Job[Any]) -> None:
        left, size = list(job.sequences), self._max_rows
        while left:
            if job.without_slots is None:
                raise TypeError(f"{type(self._model).__name__} does not work over slots: without_slots=… is needed")
            try:
                job.without_slots(left[:size])
            except BaseException as error:
                if not out_of_memory(error):
                    raise
                size = fewer_rows(min(size, len(left)), type(self._model).__name__, self._device, error)
            else:
                del left[:size]
        job.complete()
