"""To look at: a search's events as data, pictures and one self-contained page.

The room stands on core alone, so that ``SearchResult.trace`` may open it without loading torch, a client or
LangChain.

>>> from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
>>> from darwin_align import DarwinSearch, SearchConfig
>>> search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), config=SearchConfig(mutator="identity"))
>>> trace = Trace.of(search.invoke("Say something good.", seed=1))
>>> trace.to_html().startswith("<!DOCTYPE html>")
True
>>> "".join(piece.text for piece in trace.lineage().answer.pieces) == trace.result.text
True
"""

from darwin_align.trace.dynamics import Change, Dynamics, Moment, jaccard, rank_biased_overlap
from darwin_align.trace.lineage import CycleLineage, Lane, Lineage, Piece, Point
from darwin_align.trace.record import Cost, Trace, write_html

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
    "rank_biased_overlap",
    "write_html",
]
