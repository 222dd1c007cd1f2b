"""The drawing of a search: LangChain's graph of Algorithm 1's loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.graph import Graph

from darwin_align.core import SearchConfig
from darwin_align.core.types import OperatorName
from darwin_align.operators.coerce import parts_of

__all__ = ["loop_graph"]


def loop_graph(
    search: Runnable[Any, Any],
    operators: Mapping[OperatorName, Runnable[Any, Any]],
    config: SearchConfig,
    run_config: RunnableConfig,
) -> Graph:
    """Draw the search's loop under these settings; steps that they leave out are not drawn."""
    graph = Graph()
    first = graph.add_node(search.get_input_schema(), "messages")
    nodes = {
        role: graph.add_node(operator, f"{role}: {parts_of(operator, run_config)[0].get_name()}")
        for role, operator in operators.items()
        if (role != "mutate" or config.cycles) and (role != "select" or config.replaces)
    }
    last = graph.add_node(search.get_output_schema(), "result")
    decode, score = nodes["decode"], nodes["score"]
    begin, end = nodes.get("mutate", decode), nodes.get("select", score)
    graph.add_edge(first, begin)
    if begin is not decode:
        graph.add_edge(begin, decode)
    graph.add_edge(decode, score)
    if end is not score:
        graph.add_edge(score, end)
        graph.add_edge(end, decode, f"{config.replacement_period} more tokens", conditional=True)
    if config.cycles > 1:
        graph.add_edge(end, begin, "next cycle", conditional=True)
    graph.add_edge(end, last, "ended, or budget spent", conditional=True)
    return graph
