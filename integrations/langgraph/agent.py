"""An agent with two tools and a memory: ``create_agent`` on the embedded pair, two turns of one thread, streamed.

Run ``python -m darwin_align.integrations.langgraph.agent``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from darwin_align.core.extras import missing_extra

try:
    from langchain.agents import create_agent
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.memory import InMemorySaver
except ImportError as error:
    raise missing_extra(error, "langgraph", program=__name__ == "__main__") from None

from .household import TOOLS, household_model
from .progress import PROGRESS, ProgressToStream

__all__ = ["TURNS", "LastExchange", "build", "main", "turn"]

TURNS = ("Make the kitchen lamp red.", "Heat the kettle to 80 degrees.")


class LastExchange(AgentMiddleware):
    """Shows the model the last human turn and what came after it; the thread keeps everything.

    The embedded policy never saw a call of a tool behind an earlier exchange. Leave this out for a model of your own.
    """

    def wrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]
    ) -> ModelResponse | AIMessage:
        """Ask with the last exchange."""
        return handler(_cut(request))

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse | AIMessage:
        """Ask with the last exchange."""
        return await handler(_cut(request))


def _cut(request: ModelRequest) -> ModelRequest:
    begins = max(i for i, message in enumerate(request.messages) if isinstance(message, HumanMessage))
    return request.override(messages=request.messages[begins:])


def build(
    model: BaseChatModel | None = None, *, checkpointer: BaseCheckpointSaver[Any] | None = None, **options: Any
) -> Any:
    """Return the agent.

    Args:
        model: the embedded pair, if left out.
        checkpointer: where threads are kept; in this process, if left out.
        options: more arguments of ``create_agent``.
    """
    options = {"tools": list(TOOLS), "middleware": [LastExchange()], **options}
    agent: Any = create_agent(model or household_model(), checkpointer=checkpointer or InMemorySaver(), **options)
    return agent.with_config(callbacks=[ProgressToStream()])


def turn(agent: Any, text: str, thread: str) -> Iterator[str]:
    """Say something in a thread, and yield a line for each thing that happens."""
    config = {"configurable": {"thread_id": thread}}
    conversation, rewards = {"messages": [HumanMessage(text)]}, list[float]()
    for mode, part in agent.stream(conversation, config, stream_mode=["messages", "custom"]):
        if mode == "messages":
            yield from _shown(part[0])
        elif (reward := part[PROGRESS]["reward"]) is not None and reward not in rewards:
            rewards.append(reward)
            yield f"best      reward {reward:.1f} so far"


def _shown(message: BaseMessage) -> Iterator[str]:
    """A chunk's calls and text; the last chunk of every answer is empty."""
    for call in getattr(message, "tool_calls", []):
        yield f"calls     {call['name']}({', '.join(f'{name}={value!r}' for name, value in call['args'].items())})"
    if message.text:
        yield f"{'tool' if message.type == 'tool' else 'assistant':9} {message.text}"


def main() -> None:
    """Run two turns of one thread, and show what it remembers."""
    agent = build()
    for text in TURNS:
        print(f"you       {text}")
        for line in turn(agent, text, thread="kitchen"):
            print(line)
    for thread in ("kitchen", "another"):
        state = agent.get_state({"configurable": {"thread_id": thread}}).values
        print(f"thread {thread!r} remembers {len(state.get('messages', []))} messages")


if __name__ == "__main__":
    main()
