"""Reward against tokens, by matplotlib (extra ``plots``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from darwin_align.core.errors import MissingPackageError
from darwin_align.core.result import SearchResult
from darwin_align.traces.frames import scored_beams
from darwin_align.traces.record import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_results", "plot_trace"]


def plot_results(results: Iterable[SearchResult], ax: Axes | None = None) -> Axes:
    """Draw a line for each search: the best reward of a finished answer after so many decoded tokens.

    >>> from darwin_align import DarwinSearch
    >>> from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
    >>> search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer())
    >>> axes = plot_results(search.batch(["Say something good.", "Say something kind."], seed=1))
    >>> axes.get_xlabel(), len(axes.lines)
    ('decoded tokens', 2)

    Args:
        results: of searches.
        ax: where to draw; a new figure by default.

    Raises:
        MissingPackageError: matplotlib is missing.
        ReplayError: a result's events are not those of its request and settings.
    """
    ax = _axes(ax)
    for result in results:
        _best_so_far(ax, _rows(Trace.of(result)), label=f"{result.request.instruction:.40}")
    ax.legend()
    return ax


def plot_trace(trace: Trace, ax: Axes | None = None) -> Axes:
    """Draw the rewards of one search as :meth:`Trace.plot <darwin_align.traces.record.Trace.plot>` says."""
    ax, rows = _axes(ax), _rows(trace)
    for name, marker, shown in (
        ("first response", "D", [row for row in rows if row["first_response"]]),
        ("unfinished", ".", [row for row in rows if not row["first_response"] and row["finish_reason"] is None]),
        ("finished", "o", [row for row in rows if not row["first_response"] and row["finish_reason"] is not None]),
    ):
        if shown:
            tokens, rewards = zip(*((row["decoded_tokens"], row["reward"]) for row in shown), strict=True)
            ax.scatter(tokens, rewards, s=18, alpha=0.6, marker=marker, label=name)
    _best_so_far(ax, rows, label="best finished answer")
    ax.legend()
    return ax


def _rows(trace: Trace) -> list[dict[str, Any]]:
    """The scored beams; a finished one where it was first scored as finished, not at every step after that."""
    seen, rows = set[tuple[object, ...]](), []
    for row in scored_beams(trace.answered):
        key = (row["cycle"], row["beam"], row["text"], row["finish_reason"])
        if row["finish_reason"] is None or key not in seen:
            rows.append(row)
        seen.add(key)
    return rows


def _best_so_far(ax: Axes, rows: Sequence[dict[str, Any]], label: str) -> None:
    tokens, best = list[int](), list[float]()
    for row in rows:
        if row["finish_reason"] is not None and (not best or row["reward"] > best[-1]):
            tokens.append(row["decoded_tokens"])
            best.append(row["reward"])
    if best:
        ax.step([*tokens, rows[-1]["decoded_tokens"]], [*best, best[-1]], where="post", label=label)


def _axes(ax: Axes | None) -> Axes:
    try:
        from matplotlib import pyplot
    except ImportError:
        raise MissingPackageError("plots need matplotlib: pip install 'darwin-align[plots]'") from None
    if ax is None:
        _, ax = pyplot.subplots()
    ax.set_xlabel("decoded tokens")
    ax.set_ylabel("reward")
    return ax
