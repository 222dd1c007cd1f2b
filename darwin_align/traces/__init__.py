"""To look at: a search's events as data, pictures and one self-contained page.

It stands on core alone: no torch, no client and no LangChain is loaded. Importing it lets results show themselves in
notebooks.

>>> from darwin_align import DarwinSearch, SearchConfig, trace
>>> from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
>>> search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), config=SearchConfig(mutator="identity"))
>>> recorded = trace(search.invoke("Say something good.", seed=1))
>>> recorded.to_html().startswith("<!DOCTYPE html>")
True
>>> "".join(piece.text for piece in recorded.lineage().answer.pieces) == recorded.result.text
True
"""

from darwin_align.core.result import SearchResult, register_html
from darwin_align.traces.dynamics import Change, Dynamics, Moment, jaccard, rank_biased_overlap
from darwin_align.traces.frames import results_frame
from darwin_align.traces.lineage import CycleLineage, Lane, Lineage, Piece, Point
from darwin_align.traces.plots import plot_results
from darwin_align.traces.record import Cost, Trace, write_html

__all__ = [
    "Change",
    "Cost",
    "CycleLineage",
    "Dynamics",
    "Lane",
    "Lineage",
    "Moment",
    "Piece",
    "Point",
    "Trace",
    "jaccard",
    "plot_results",
    "rank_biased_overlap",
    "results_frame",
    "trace",
    "write_html",
]


def trace(result: SearchResult) -> Trace:
    """Look at a search: its lineage, its costs and dynamics, and one page.

    Args:
        result: of :meth:`DarwinSearch.invoke <darwin_align.search.DarwinSearch.invoke>`, or one read back from JSON.
    """
    return Trace.of(result)


def _html(result: SearchResult) -> str:
    return Trace.of(result).to_snippet()


register_html(_html)
