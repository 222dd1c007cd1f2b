"""One event loop for the process, in a thread of its own: where everything asynchronous runs.

An author writes an operator's method once, plain or ``async``. Plain callers and foreign event loops (a notebook's, a
server's) reach an ``async`` method through this portal, so a client that it opens lives on one loop for good.

* After a fork the child starts its own portal on first use.
* At interpreter exit the loop is stopped; what still runs on it is cancelled.
* Nothing here is ever pickled: operators carry no reference to the portal.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["acall", "call"]


class _Portal:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="darwin-align-portal", daemon=True)
        self.thread.start()
        # Threads wait in here for the portal, and the portal may wait for further threads: a small pool could lock up.
        self.pool = ThreadPoolExecutor(max_workers=256, thread_name_prefix="darwin-align")

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine on the loop, in the caller's context."""
        context, future = contextvars.copy_context(), Future[Any]()

        def start() -> None:
            if future.set_running_or_notify_cancel():
                task = self.loop.create_task(coroutine, context=context)
                task.add_done_callback(lambda done: _copy_outcome(done, future))

        self.loop.call_soon_threadsafe(start)
        return future

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.loop.call_soon_threadsafe(self._cancel_all)
        self.thread.join(timeout=2)

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.call_soon(self.loop.stop)


_lock = threading.Lock()
_portal: _Portal | None = None


def _the_portal() -> _Portal:
    global _portal  # noqa: PLW0603 - one for the process is the point
    with _lock:
        if _portal is None:
            _portal = _Portal()
            atexit.register(_portal.close)
        return _portal


def _forget() -> None:
    # The thread did not survive the fork; a lock might have been held by it.
    global _portal, _lock
    if _portal is not None:
        atexit.unregister(_portal.close)
    _portal, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def call(method: Callable[..., Any], *args: Any) -> Any:
    """Call a plain or ``async`` method from plain code and return its result.

    Raises:
        RuntimeError: called on the portal's own thread, which would wait for itself.

    >>> async def double(x):
    ...     return 2 * x
    >>> call(double, 21)
    42
    """
    result = method(*args)
    if not inspect.isawaitable(result):
        return result
    portal = _the_portal()
    if threading.current_thread() is portal.thread:
        raise RuntimeError("plain code on the portal's loop waits for an async method: make the caller async")
    return portal.submit(_await(result)).result()


async def acall(method: Callable[..., Any], *args: Any) -> Any:
    """Call a plain or ``async`` method from any event loop; a plain one runs in a thread."""
    portal = _the_portal()
    on_portal = threading.current_thread() is portal.thread
    if inspect.iscoroutinefunction(method):
        coroutine = method(*args)
        return await (coroutine if on_portal else asyncio.wrap_future(portal.submit(coroutine)))
    context = contextvars.copy_context()
    return await asyncio.wrap_future(portal.pool.submit(context.run, call, method, *args))


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _copy_outcome(task: asyncio.Task[Any], future: Future[Any]) -> None:
    if task.cancelled():
        future.set_exception(asyncio.CancelledError())
    elif error := task.exception():
        future.set_exception(error)
    else:
        future.set_result(task.result())
