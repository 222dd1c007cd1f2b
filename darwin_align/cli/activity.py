"""Signs of life on stderr while something takes long: a spinner on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic

from darwin_align.core.terminal import printable

__all__ = ["working"]

_QUIET_SECONDS = 10.0
"""Between two lines where there is no terminal."""

Update = Callable[[str], None]


@contextmanager
def working(title: str) -> Iterator[Update]:
    """Show at once that work is in progress, until the block ends.

    Args:
        title: what is done, e.g. "loading models".

    Yields:
        A function that takes the newest state, one line of text.
    """
    status = _spinner(title) if sys.stderr.isatty() else None
    with status if status is not None else _lines(title) as update:
        yield update


def _spinner(title: str) -> AbstractContextManager[Update] | None:
    """A spinner, where rich is installed."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return None

    @contextmanager
    def spinning() -> Iterator[Update]:
        with Console(stderr=True).status(Text(f"{title} …")) as status:
            yield lambda state: status.update(Text(printable(f"{title}: {state}", single_line=True)))

    return spinning()


@contextmanager
def _lines(title: str) -> Iterator[Update]:
    start, ended, states = monotonic(), threading.Event(), [""]

    def write() -> None:
        while not ended.wait(_QUIET_SECONDS):
            _write(f"{title} … {monotonic() - start:.0f} s{states[0] and f', {states[0]}'}")

    _write(f"{title} …")
    thread = threading.Thread(target=write, name="darwin-activity", daemon=True)
    thread.start()
    try:
        yield lambda state: states.__setitem__(0, state)
    finally:
        ended.set()
        thread.join()


def _write(line: str) -> None:
    sys.stderr.write(printable(line, single_line=True) + "\n")
    sys.stderr.flush()
