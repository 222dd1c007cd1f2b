"""The engine's thread: it sleeps without work, ends with its engine, and starts again in a forked child."""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol
from weakref import WeakSet, ref

import torch

__all__ = ["Worker", "cores", "fastest_threads", "limit_threads"]

_GAIN = 0.9
"""Share of the time with fewer threads that more of them may take: on a busy machine they wait for each other."""
_MEASURED = 0.1
"""Seconds that each number of threads is measured for, at least."""


class _Served(Protocol):
    @property
    def busy(self) -> bool: ...

    def enqueue(self, message: Any) -> None: ...

    def round(self) -> float: ...

    def forget(self) -> None: ...

    def fail(self, error: BaseException, message: Any = None) -> None: ...


class Worker:
    """Feeds messages to an engine on its own thread, and runs rounds as long as the engine is busy.

    The thread references its engine only while there is work: an engine without other references ends, and its thread
    with it.
    """

    def __init__(self, engine: _Served) -> None:
        self.engine = ref(engine, lambda _: self.close())
        self.reset()
        _workers.add(self)

    def reset(self) -> None:
        """Start with nothing: after a fork the thread is gone, and a lock may be locked for ever."""
        self._messages: deque[Any] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, message: Any, engine: _Served | None = None) -> bool:
        """Queue a message; the engine, if given, is referenced until then. False if the worker is closed."""
        with self._wake:
            if self._closed:
                return False
            self._messages.append((message, engine))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="darwin-align-engine", daemon=True)
                self._thread.start()
            self._wake.notify()
            return True

    def close(self) -> None:
        """End the thread after its current round."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _serve(self) -> None:
        with torch.inference_mode():
            while self._await_message():
                engine = self._messages[0][1] or self.engine()
                if engine is None:
                    return
                self._work(engine)
                del engine

    def _await_message(self) -> bool:
        with self._wake:
            while not self._messages and not self._closed:
                self._wake.wait()
            return not self._closed

    def _pause(self, seconds: float) -> None:
        with self._wake:
            if not self._messages and not self._closed:
                self._wake.wait(seconds)

    def _work(self, engine: _Served) -> None:
        while not self._closed and (self._messages or engine.busy):
            message = None
            try:
                while self._messages:
                    message = self._messages.popleft()[0]
                    engine.enqueue(message)
                if engine.busy and (seconds := engine.round()):
                    self._pause(seconds)
            except BaseException as error:  # noqa: BLE001 - if this thread ended, all later callers would wait for ever
                engine.fail(error, message)


_workers: WeakSet[Worker] = WeakSet()


@atexit.register
def _close_all() -> None:
    # A thread inside torch while the interpreter shuts down would crash it.
    for worker in list(_workers):
        worker.close()
    for worker in list(_workers):
        worker.join(5)


def _reset_all() -> None:
    for worker in list(_workers):
        worker.reset()
        if (engine := worker.engine()) is not None:
            engine.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)


def cores() -> int:
    """CPU cores that this thread may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(threads: int, usual: int) -> None:
    """Compute on so many CPU threads from here on, on this thread alone.

    torch keeps the number for each thread, but new threads start with the one set last. So a short-lived thread sets
    that back to ``usual``.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
        setter = threading.Thread(target=torch.set_num_threads, args=(usual,))
        setter.start()
        setter.join()


def fastest_threads(work: Callable[[], object], most: int) -> int:
    """The number of CPU threads that some work gains from, as measured now: 1, 2, 4 … as long as each is faster.

    Args:
        work: what is measured, on the calling thread.
        most: threads to try at most, and what threads that start meanwhile begin with.
    """
    best, least = 1, float("inf")
    for threads in sorted({*(1 << i for i in range(most.bit_length())), most}):
        limit_threads(threads, most)
        work()  # the first run starts the threads
        runs, start = 0, perf_counter()
        while perf_counter() - start < _MEASURED:
            work()
            runs += 1
        if (seconds := (perf_counter() - start) / runs) > _GAIN * least:
            break
        best, least = threads, seconds
    return best
