"""One event loop for the process, in a thread of its own: where everything asynchronous runs.

An operator's method is either plain or ``async``, and works with both drivers. Plain callers and foreign event loops (a
notebook's, a server's) reach an ``async`` method through this portal, so a client that it opens stays on one loop.

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
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any, Protocol, TypeVar, cast

__all__ = [
    "OutOfTime",
    "acall",
    "call",
    "default_submit",
    "has_own_submit",
    "off_loop",
    "on_portal",
    "start",
    "submits",
    "time_limit",
    "wait",
]

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")


class HasSubmit(Protocol):
    """A policy or a scorer."""

    @property
    def submit(self) -> Callable[..., object]: ...


class _Portal:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="darwin-align-portal", daemon=True)
        self.thread.start()
        # Threads wait in here for the portal, and the portal may wait for further threads: a small pool could lock up.
        self.pool = ThreadPoolExecutor(max_workers=256, thread_name_prefix="darwin-align")

    def submit(self, coroutine: Coroutine[object, object, T]) -> Future[T]:
        """Run a coroutine on the loop, in the caller's context; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

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


class _Waits:
    """What a pool thread waits for on the portal: who cancels the thread's call cancels these, and those to come."""

    def __init__(self) -> None:
        self.cancels: list[Callable[[], object]] = []
        self.cancelled = False

    def add(self, cancel: Callable[[], object]) -> None:
        self.cancels.append(cancel)  # first: cancel() on another thread then sees it, or is seen here
        if self.cancelled:
            cancel()

    def cancel(self) -> None:
        self.cancelled = True
        for cancel in self.cancels:
            cancel()


_waits: contextvars.ContextVar[_Waits | None] = contextvars.ContextVar("_waits", default=None)


def _the_portal() -> _Portal:
    global _portal  # noqa: PLW0603 - one for the process is the point
    with _lock:
        if _portal is None:
            _portal = _Portal()
            atexit.register(_portal.close)
        return _portal


def _forget() -> None:
    # The thread did not survive the fork; it might have owned the lock.
    global _portal, _lock
    if _portal is not None:
        atexit.unregister(_portal.close)
    _portal, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def on_portal() -> bool:
    """Whether this is the portal's own thread, where plain code must not wait for anything asynchronous."""
    return _portal is not None and threading.current_thread() is _portal.thread


def submits(method: F) -> F:
    """Mark a method that queues work elsewhere and returns a :class:`concurrent.futures.Future` at once.

    :func:`acall` then calls it on the event loop itself and awaits the future, without a thread that waits for it.
    """
    method.__submits__ = True  # type: ignore[attr-defined]
    return method


def default_submit(method: F) -> F:
    """Mark a base class's ``submit``, which only runs the plain method in the background: a search then skips it."""
    method.__default_submit__ = True  # type: ignore[attr-defined]
    return submits(method)


def has_own_submit(part: HasSubmit) -> bool:
    """Whether a policy or scorer overrides ``submit``, so that a search calls it instead of the plain method."""
    return not getattr(part.submit, "__default_submit__", False)


class OutOfTime(Exception):  # noqa: N818 - no error: the time of a call is over
    """What was called did not end within the :func:`time_limit`, and was cancelled."""


_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("_deadline", default=None)
"""On the clock of :func:`time.monotonic`."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt what is called from here on, as far as it waits for anything: plain code that computes goes on.

    Args:
        seconds: from now on; ``None`` sets no limit. Of limits within each other the earlier one counts.

    Raises:
        OutOfTime: by :func:`call`, :func:`acall` and :func:`wait`, once the time is over.
    """
    limits = [limit for limit in (_deadline.get(), None if seconds is None else monotonic() + seconds) if limit]
    setting = _deadline.set(min(limits, default=None))
    try:
        yield
    finally:
        _deadline.reset(setting)


def _time_left() -> float | None:
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - monotonic())


def off_loop(submit: Callable[[], Future[T]]) -> Future[T]:
    """Call what returns a future; where an event loop runs on this thread, in another thread.

    For methods that :func:`submits` marks and whose preparation takes long: tokenising long texts, compiling grammars.

    Returns:
        A future of the same result; cancelling it cancels what ``submit`` returned.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return submit()
    outer: Future[T] = Future()
    _the_portal().pool.submit(contextvars.copy_context().run, _pass_on, submit, outer)
    return outer


def _pass_on(submit: Callable[[], Future[T]], outer: Future[T]) -> None:
    """Submit, and tie two futures together: the outer takes the result, and its cancellation reaches the inner."""
    if outer.cancelled():
        return
    try:
        inner = submit()
    except BaseException as error:  # noqa: BLE001 - who waits for the future must hear of it
        _settle(outer, partial(outer.set_exception, error))
        return

    def finished(done: Future[T]) -> None:
        if done.cancelled():
            outer.cancel()
        elif (error := done.exception()) is not None:
            _settle(outer, partial(outer.set_exception, error))
        else:
            _settle(outer, partial(outer.set_result, done.result()))

    inner.add_done_callback(finished)
    outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)


def _settle(future: Future[T], settle: Callable[[], None]) -> None:
    try:
        settle()
    except InvalidStateError:
        if not future.cancelled():  # else its caller left meanwhile
            raise


_AWAKE = 0.5
"""Seconds between two looks for signals: one that comes just before a wait begins is not dealt with until it ends."""


def wait(future: Future[T]) -> T:
    """Wait for a future in plain code; an interrupted caller, or one whose own call is cancelled, cancels it.

    Raises:
        OutOfTime: the time limit is over.
    """
    if (waits := _waits.get()) is not None:
        waits.add(future.cancel)
    try:
        while True:
            left = _time_left()
            try:
                return future.result(_AWAKE if left is None else min(left, _AWAKE))
            except TimeoutError:
                if future.done():  # now, or with a TimeoutError of its own
                    return future.result()
                if left is not None and left <= _AWAKE:
                    raise OutOfTime from None
    finally:
        future.cancel()  # a finished future stays as it is


def call(method: Callable[..., object], *args: object) -> Any:
    """Call a plain or ``async`` method, or one that submits, from plain code and return its result.

    Raises:
        RuntimeError: called on the portal's own thread, which would wait for itself; or the method raised
            StopIteration, which would pass for an answer in the generators that ask.

    >>> async def double(x):
    ...     return 2 * x
    >>> call(double, 21)
    42
    """
    try:
        result = method(*args)
    except StopIteration as error:
        raise RuntimeError(f"{method!r:.80} raised StopIteration") from error
    if isinstance(result, Future):
        return wait(result)
    if not inspect.isawaitable(result):
        return result
    if on_portal():
        if inspect.iscoroutine(result):
            result.close()
        raise RuntimeError("plain code on the portal's loop waits for an async method: make the caller async")
    return wait(_the_portal().submit(_await(result)))


async def acall(method: Callable[..., object], *args: object) -> Any:
    """Call a plain or ``async`` method from any event loop; a plain one runs in a thread.

    Cancelling it cancels what is asynchronous below it, also behind a plain method.

    Raises:
        OutOfTime: the time limit is over.
    """
    try:
        async with asyncio.timeout(_time_left()) as limit:
            return await _acall(method, *args)
    except TimeoutError:
        if not limit.expired():
            raise
        raise OutOfTime from None


async def _acall(method: Callable[..., object], *args: object) -> object:
    portal = _the_portal()
    if inspect.iscoroutinefunction(method):
        coroutine = method(*args)
        return await (coroutine if on_portal() else asyncio.wrap_future(portal.submit(coroutine)))
    if getattr(method, "__submits__", False):
        return await asyncio.wrap_future(cast("Future[object]", method(*args)))
    context, waits = contextvars.copy_context(), _Waits()
    context.run(_waits.set, waits)
    try:
        return await asyncio.wrap_future(portal.pool.submit(context.run, call, method, *args))
    except asyncio.CancelledError:
        waits.cancel()
        raise


def start(method: Callable[..., object], *args: object) -> Future[Any]:
    """Call a plain or ``async`` method in the background; cancelling the future cancels what is asynchronous below it.

    >>> start(divmod, 7, 2).result()
    (3, 1)
    """
    return _the_portal().submit(acall(method, *args))


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
