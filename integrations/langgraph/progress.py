"""A search's progress, in LangGraph's custom stream.

A search reports its progress by LangChain custom events, and LangGraph's ``stream_mode="custom"`` carries what is given
to its stream writer: two independent channels. One callback handler joins them, for every model in the
graph, also for those in nodes that are not your own, like ``create_agent``'s.
"""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langgraph.config import get_stream_writer
from langgraph.types import StreamWriter

__all__ = ["PROGRESS", "ProgressToStream"]

PROGRESS = "darwin_progress"
"""Name of the custom events, and the key under which their data stand in the stream."""


class ProgressToStream(BaseCallbackHandler):
    """Passes ``darwin_progress`` events on to the graph's stream, as ``{"darwin_progress": {...}}``.

    Give it to a graph, once, or to one run of it:

    >>> from langgraph.graph import START, MessagesState, StateGraph
    >>> drawn = StateGraph(MessagesState).add_node("model", lambda state: state).add_edge(START, "model")
    >>> graph = drawn.compile().with_config(callbacks=[ProgressToStream()])

    It finds the writer of the node in which the model is called, so it works in graphs only, and there in nodes that
    are functions: where a chain is the node itself, LangGraph runs its later steps without the node's context.
    """

    run_inline = True  # in order, and in the context in which the node's writer is found
    raise_error = True  # outside of a node it raises, instead of dropping events

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        """Write a search's progress; other events are ignored."""
        if name == PROGRESS:
            _writer()({PROGRESS: data})


def _writer() -> StreamWriter:
    try:
        return get_stream_writer()
    except (KeyError, RuntimeError) as error:
        raise RuntimeError(
            "ProgressToStream is called outside of a graph's node, where there is no stream to write to: give it to a "
            "graph; where a chain is the node itself, call the chain within a function that is the node"
        ) from error
