"""The engine's thread: asleep without work, gone with its engine, begun anew in a forked child."""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from typing import Any, Protocol
from weakref import WeakSet, ref

import torch

__all__ = ["Worker", "cores", "limit_threads"]


class _Served(Protocol):
    @property
    def busy(self) -> bool: ...

    def enqueue(self, message: Any) -> None: ...

    def round(self) -> float: ...

    def forget(self) -> None: ...

    def fail(self, error: BaseException, message: Any = None) -> None: ...


class Worker:
    """Feeds messages to an engine on a thread of its own and lets it work as long as it is busy.

    The thread holds its engine only while there is work: an engine that nobody else holds ends, and its thread with it.
    """

    def __init__(self, engine: _Served) -> None:
        self.engine = ref(engine, lambda _: self.close())
        self.reset()
        _workers.add(self)

    def reset(self) -> None:
        """Begin anew: after a fork the thread is gone, and a lock might be held by nobody."""
        self._messages: deque[Any] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, message: Any, engine: _Served | None = None) -> bool:
        """Queue a message; the engine, if given, lives on until it is served. False if it comes too late."""
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
        """End the thread once it has nothing in hand."""
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
            except BaseException as error:  # noqa: BLE001 - without this thread every later caller would wait for ever
                engine.fail(error, message)


_workers: WeakSet[Worker] = WeakSet()


@atexit.register
def _close_all() -> None:
    # A thread inside torch while the interpreter goes would crash it.
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

    torch's number belongs to the thread that sets it, but is also what threads to come begin with: another thread sets
    that back to what is usual.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
        setter = threading.Thread(target=torch.set_num_threads, args=(usual,))
        setter.start()
        setter.join()
