"""Expensive results by key: each is computed once, in a thread of its own, and the least recently used are dropped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Event, Lock, Thread
from typing import Generic, TypeVar, cast

from darwin_align.core.errors import RequestError

__all__ = ["Compilations"]

T = TypeVar("T")


@dataclass(eq=False)
class _Job(Generic[T]):
    """One result, computed or being computed."""

    future: Future[T] = field(default_factory=Future)
    started: Event = field(default_factory=Event)
    leave: Callable[[], None] = lambda: None
    """Releases its slot among those that are computed at the same time; has an effect once."""
    size: int = 0


class Compilations(Generic[T]):
    """Computes results and keeps them. Callers of the same key wait for one computation, without a lock.

    A :class:`~darwin_align.core.errors.RequestError` is a result as well and is raised again; other errors are
    forgotten. A refusal is raised as a new exception each time: threads that share one would share its traceback.

    Args:
        size: bytes that a result takes, roughly.
        most: results that are kept.
        most_bytes: bytes of all that are kept.
        seconds: what computing one may take; all callers are then refused, also later.
        at_once: how many are computed at the same time.
    """

    def __init__(
        self, size: Callable[[T], int], *, most: int, most_bytes: int, seconds: float, at_once: int = 2
    ) -> None:
        self._size, self._most, self._most_bytes, self._seconds = size, most, most_bytes, seconds
        self._jobs: OrderedDict[bytes, _Job[T]] = OrderedDict()
        self._slots = BoundedSemaphore(at_once)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._jobs)

    def clear(self) -> None:
        """Forget all results."""
        with self._lock:
            self._jobs.clear()

    @property
    def size(self) -> int:
        """Bytes that the kept results take, roughly."""
        with self._lock:
            return sum(job.size for job in self._jobs.values())

    def get(self, key: bytes, make: Callable[[], T]) -> T:
        """The result of a key, computed if there is none.

        Blocks: not for a thread that runs an event loop.

        Args:
            key: names the result.
            make: computes it.

        Raises:
            RequestError: ``make`` raised it, or took too long.
        """
        with self._lock:
            job = self._jobs.get(key)
            new = job is None
            if job is None:
                job = self._jobs[key] = _Job()
            self._jobs.move_to_end(key)
        if new:
            Thread(target=self._run, args=(key, job, make), name="darwin-align-compile", daemon=True).start()
        return self._wait(job)

    def _wait(self, job: _Job[T]) -> T:
        job.started.wait()
        try:
            return job.future.result(timeout=self._seconds)
        except RequestError as error:
            raise type(error)(*error.args) from error.__cause__
        except TimeoutError:
            if job.future.done() and (failed := job.future.exception()) is not None:
                raise failed from None  # a TimeoutError of make itself
            self._give_up(job)
            return self._wait(job)

    def _give_up(self, job: _Job[T]) -> None:
        """Refuse what takes too long, now and later. Its thread cannot be stopped; its result is thrown away."""
        refusal = RequestError(
            f"the request's schemas took more than {self._seconds:g} s to compile: simplify them, or leave the "
            "constraint out and check the answer yourself"
        )
        with self._lock:
            if not job.future.done():
                job.future.set_exception(refusal)
        job.leave()

    def _run(self, key: bytes, job: _Job[T], make: Callable[[], T]) -> None:
        self._slots.acquire()
        job.leave = _once(self._slots.release)
        job.started.set()
        try:
            made, failed = make(), None
        except BaseException as error:  # noqa: BLE001 - raised again in the threads that wait
            made, failed = None, error
        job.leave()
        with self._lock:
            if failed is not None and not isinstance(failed, RequestError) and self._jobs.get(key) is job:
                del self._jobs[key]
            if not job.future.done():  # a job that was given up has its refusal already
                self._settle(job, made, failed)
            self._drop()

    def _settle(self, job: _Job[T], made: T | None, failed: BaseException | None) -> None:
        if failed is not None:
            job.future.set_exception(failed)
        else:
            job.size = self._size(cast(T, made))
            job.future.set_result(cast(T, made))

    def _drop(self) -> None:
        """Forget the least recently used until the bounds hold; what is being computed stays."""
        done = [key for key, job in self._jobs.items() if job.future.done()]
        total = sum(job.size for job in self._jobs.values())
        for key in done[:-1]:
            if len(self._jobs) <= self._most and total <= self._most_bytes:
                return
            total -= self._jobs.pop(key).size


def _once(call: Callable[[], None]) -> Callable[[], None]:
    lock = Lock()

    def called() -> None:
        if lock.acquire(blocking=False):
            call()

    return called
