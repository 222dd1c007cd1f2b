"""A graph of one's own: a model's node, a node of tools, a checkpointer, and three streams at once.

Run ``python -m darwin_align.integrations.langgraph.graph``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from darwin_align.core.extras import missing_extra

try:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition
except ImportError as error:
    raise missing_extra(error, "langgraph", program=__name__ == "__main__") from None

from .household import TOOLS, household_model
from .progress import PROGRESS, ProgressToStream

__all__ = ["ASKED", "MODES", "build", "lines", "main"]

ASKED = "Make the kitchen lamp red. Heat the kettle to 80 degrees."
MODES = ["messages", "custom", "updates"]


def build(
    model: BaseChatModel | None = None, *, checkpointer: BaseCheckpointSaver[Any] | None = None, **options: Any
) -> Any:
    """Return the graph: the model is called until it calls no more tools.

    Args:
        model: the embedded pair, if left out.
        checkpointer: where threads are kept; in this process, if left out.
        options: more arguments of ``compile``, e.g. ``interrupt_before``.
    """
    bound = (model or household_model()).bind_tools(list(TOOLS))

    def call_model(state: MessagesState) -> dict[str, list[AIMessage]]:
        return {"messages": [bound.invoke(state["messages"])]}

    async def acall_model(state: MessagesState) -> dict[str, list[AIMessage]]:
        return {"messages": [await bound.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", RunnableLambda(call_model, acall_model))
    graph.add_node("tools", ToolNode(list(TOOLS)))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    compiled: Any = graph.compile(checkpointer=checkpointer or InMemorySaver(), **options)
    return compiled.with_config(callbacks=[ProgressToStream()])


def lines(graph: Any, text: str, thread: str = "kitchen") -> Iterator[str]:
    """Ask, and yield a line for each part of the three streams."""
    config = {"configurable": {"thread_id": thread}}
    for mode, part in graph.stream({"messages": [HumanMessage(text)]}, config, stream_mode=MODES):
        yield f"{mode:8}  {_SHOWN[mode](part)}"


def _message(part: tuple[BaseMessage, dict[str, Any]]) -> str:
    message, about = part
    return f"{about['langgraph_node']}: {message.text!r}{_calls(message)}"


def _progress(part: dict[str, Any]) -> str:
    progress = part[PROGRESS]
    best = "" if progress["reward"] is None else f", best reward {progress['reward']:.1f}: {progress['text']!r:.60}"
    return f"{progress['operator']}{best}"


def _updates(part: dict[str, Any]) -> str:
    nodes = ((node, update["messages"]) for node, update in part.items())
    return "; ".join(f"{node} adds {', '.join(message.type for message in messages)}" for node, messages in nodes)


def _calls(message: BaseMessage) -> str:
    calls = getattr(message, "tool_calls", [])
    return "".join(f" {call['name']}({call['args']})" for call in calls)


_SHOWN: dict[str, Callable[[Any], str]] = {"messages": _message, "custom": _progress, "updates": _updates}


def main() -> None:
    """Ask for two things at once, and show everything that is streamed."""
    print(f"you       {ASKED}")
    for line in lines(build(), ASKED):
        print(line)


if __name__ == "__main__":
    main()
