"""Searches as tables for analysis: pandas data frames (extra ``frames``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from darwin_align.core.errors import MissingPackageError
from darwin_align.core.result import SearchResult
from darwin_align.traces.record import Answered, Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["beams_frame", "results_frame", "scored_beams"]

_USAGE = ("decoded_tokens", "prefilled_tokens", "reward_tokens", "reward_calls", "seconds")
_PLACES = ("places", "accepted", "filled_by_parent", "filled_by_aspects", "wasted_tokens")


def beams_frame(trace: Trace) -> pd.DataFrame:
    """One row for each beam at each time that it was scored.

    Columns: ``cycle``, ``step``, ``beam``, ``first_response``, ``instruction``, ``text``, ``length`` (tokens),
    ``reward``, ``finish_reason``, ``replaced`` (whether the selection after this step gave the beam another's state),
    and ``decoded_tokens`` and ``seconds`` of the whole search so far.

    Raises:
        MissingPackageError: pandas is missing.
    """
    return _pandas().DataFrame(list(scored_beams(trace.answered)))


def results_frame(results: Iterable[SearchResult]) -> pd.DataFrame:
    """One row for each search: prompt, answer, rewards, what ended it, what it cost and how it explored.

    Raises:
        MissingPackageError: pandas is missing.
    """
    return _pandas().DataFrame([_row(result) for result in results])


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingPackageError("data frames need pandas: pip install 'darwin-align[frames]'") from None
    return pandas


def scored_beams(answered: Iterable[Answered]) -> Iterator[dict[str, Any]]:
    """Yield the rows of :func:`beams_frame`."""
    decoded, seconds, rows = 0, 0.0, list[dict[str, Any]]()
    for _, event, after in answered:
        decoded += event.delta.usage.decoded_tokens
        seconds += event.seconds
        if event.operator == "score":
            yield from rows
            rows = [
                {
                    "cycle": event.cycle,
                    "step": event.step,
                    "beam": i,
                    "first_response": beam.first_response,
                    "instruction": beam.instruction,
                    "text": beam.text,
                    "length": beam.length,
                    "reward": beam.reward,
                    "finish_reason": beam.finish_reason,
                    "replaced": False,
                    "decoded_tokens": decoded,
                    "seconds": seconds,
                }
                for i, beam in enumerate(after.beams)
                if beam.reward is not None
            ]
        elif event.operator == "select":
            for row in rows:
                beam = after.beams[row["beam"]]
                row["replaced"] = beam.text != row["text"]
    yield from rows


def _row(result: SearchResult) -> dict[str, Any]:
    usage, explored = result.usage, result.exploration
    return {
        "prompt": result.request.instruction,
        "text": result.text,
        "reward": result.reward,
        "first_response": result.first_response.text,
        "first_reward": result.first_response.reward,
        "instruction": result.instruction,
        "answers": len(result.ranking),
        "cycles": result.cycles,
        "stop_reason": result.stop_reason,
        "finish_reason": result.best.finish_reason,
        "seed": result.config.seed,
        **{name: getattr(usage, name) for name in _USAGE},
        **{name: None if explored is None else getattr(explored, name) for name in _PLACES},
    }
