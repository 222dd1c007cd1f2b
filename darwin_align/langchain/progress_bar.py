"""A search's progress on stderr or in a notebook's cell, drawn by rich (extra ``progress``)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from darwin_align.core import Population, SearchConfig
from darwin_align.core.errors import MissingPackageError
from darwin_align.core.terminal import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressBar"]

_TITLE_LENGTH = 40


class ProgressBar:
    """The bar of one search, from ``with`` to its end, however it ends.

    It is full when every cycle has decoded ``max_new_tokens``, or a limit of the budget is reached: a search whose
    answers end earlier ends earlier. Searches that run at a time share one display, with a line each.

    Args:
        instruction: its beginning is the bar's title.
        config: the search's.

    Raises:
        MissingPackageError: rich is missing, or in a notebook ipywidgets, by which rich draws there.
    """

    def __init__(self, instruction: str, config: SearchConfig) -> None:
        _check_packages()
        title = printable(instruction, single_line=True)
        self._title = title if len(title) <= _TITLE_LENGTH else f"{title[:_TITLE_LENGTH]}…"
        self._config = config
        self._task: TaskID

    def __enter__(self) -> Self:
        self._task = _display.add(self._title)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            _display.update(self._task, completed=1.0)
        _display.remove(self._task)

    def update(self, progress: Mapping[str, Any], population: Population) -> None:
        """Draw what :class:`~darwin_align.langchain.progress.Progress` says after an event, and the population."""
        cycles = max(self._config.cycles, 1)
        longest = max((beam.length for beam in population.beams), default=0)
        share = (progress["cycle"] + min(longest / self._config.max_new_tokens, 1)) / cycles
        reward = "" if progress["reward"] is None else f" · reward {progress['reward']:.3g}"
        _display.update(
            self._task,
            completed=min(max(share, *progress["budget"].values(), 0), 1),
            state=f"cycle {progress['cycle'] + 1}/{cycles} · {progress['usage']['decoded_tokens']:,} tokens{reward}",
        )


class _Display:
    """The process's one display: rich draws no two on a terminal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: Progress
        self._tasks = 0

    def add(self, title: str) -> TaskID:
        with self._lock:
            if not self._tasks:
                self._progress = _new_progress()
                self._progress.start()
            self._tasks += 1
            return self._progress.add_task(title, total=1.0, state="")

    def update(self, task: TaskID, **fields: Any) -> None:
        self._progress.update(task, **fields)

    def remove(self, task: TaskID) -> None:
        """End a line; the last one stays to be read."""
        with self._lock:
            self._tasks -= 1
            if self._tasks:
                self._progress.remove_task(task)
            else:
                self._progress.refresh()  # in a notebook, stop() does not
                self._progress.stop()


_display = _Display()


def _new_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    title, state = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[state]}", markup=False)
    return Progress(title, BarColumn(), state, TimeElapsedColumn(), console=Console(stderr=True))


def _check_packages() -> None:
    try:
        from rich.console import Console
    except ImportError:
        raise MissingPackageError("progress=True needs rich: pip install 'darwin-align[progress]'") from None
    if Console().is_jupyter:
        try:
            import ipywidgets  # noqa: F401
        except ImportError:
            raise MissingPackageError(
                "progress=True needs ipywidgets in a notebook: pip install 'darwin-align[notebook]'"
            ) from None
