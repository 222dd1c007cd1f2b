"""The agent: its tools are called with right arguments, its threads are kept, and its stream is its answer."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from darwin_align import DarwinChatModel
from darwin_align.integrations.langgraph import agent as example
from darwin_align.integrations.langgraph.household import TOOLS, household_model
from darwin_align.integrations.langgraph.progress import PROGRESS
from tests.test_tools import call, model_of

BOTH = "Make the kitchen lamp red. Heat the kettle to 80 degrees."
LAMP, KETTLE = ("set_lamp", {"room": "kitchen", "color": "red"}), ("heat_kettle", {"degrees": 80})


@pytest.fixture(scope="module")
def pair() -> DarwinChatModel:
    return household_model()


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


def called(messages: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(made["name"], made["args"]) for message in messages for made in getattr(message, "tool_calls", [])]


def test_two_turns_call_two_tools_and_the_thread_remembers_them(pair: DarwinChatModel) -> None:
    agent = example.build(pair)
    shown = [[line for line in example.turn(agent, text, "kitchen") if line[:4] != "best"] for text in example.TURNS]
    assert shown == [
        [
            "calls     set_lamp(room='kitchen', color='red')",
            "tool      kitchen lamp is red",
            "assistant The lamp in the kitchen is red now.",
        ],
        [
            "calls     heat_kettle(degrees=80)",
            "tool      kettle at 80",
            "assistant The kettle is at 80 degrees.",
        ],
    ]
    remembered = agent.get_state(thread("kitchen")).values["messages"]
    assert [message.type for message in remembered] == ["human", "ai", "tool", "ai"] * 2
    assert called(remembered) == [LAMP, KETTLE]
    assert len({message.id for message in remembered}) == len(remembered)
    assert agent.get_state(thread("another")).values == {}


def test_the_model_is_shown_the_thread() -> None:
    """Without the cut that the embedded policy needs, the second turn is asked behind the first."""
    model = model_of("Yes.")
    agent = example.build(model, tools=[], middleware=[])
    for text in ("First?", "Second?"):
        agent.invoke({"messages": [HumanMessage(text)]}, thread("one"))
    last = model.search.policy.asked[-1]
    assert [turn.text for turn in last.conversation] == ["First?", "Yes.", "Second?"]
    model.search.policy.asked.clear()
    cut = example.build(model, tools=[])
    for text in ("First?", "Second?"):
        cut.invoke({"messages": [HumanMessage(text)]}, thread("one"))
    assert [turn.text for turn in model.search.policy.asked[-1].conversation] == ["Second?"]
    assert len(cut.get_state(thread("one")).values["messages"]) == 4


def joined(parts: list[Any]) -> tuple[dict[str, str], list[str]]:
    """The text of each streamed message by its id, and the ids in the order in which they came."""
    texts: defaultdict[str, str] = defaultdict(str)
    order: list[str] = []
    for mode, part in parts:
        if mode == "messages":
            message: BaseMessage = part[0]
            assert message.id
            texts[message.id] += message.text
            order += [message.id] if order[-1:] != [message.id] else []
    return texts, order


def test_streamed_messages_are_the_threads_and_none_comes_twice(pair: DarwinChatModel) -> None:
    agent = example.build(pair)
    for text in example.TURNS:
        before = len(agent.get_state(thread("t")).values.get("messages", [])) + 1
        parts = list(agent.stream({"messages": [("user", text)]}, thread("t"), stream_mode=["messages", "custom"]))
        texts, order = joined(parts)
        new = agent.get_state(thread("t")).values["messages"][before:]
        assert order == [message.id for message in new]
        assert [texts[message.id] for message in new] == [message.text for message in new]
        chunks = [part[0] for mode, part in parts if mode == "messages" and isinstance(part[0], AIMessageChunk)]
        assert called(chunks) == called(new)
        assert sum(chunk.usage_metadata is not None for chunk in chunks) == 2


def rewards(parts: list[Any]) -> Iterator[tuple[list[float], AIMessage]]:
    """Each answer, with the best rewards that were shown while it was searched for."""
    shown: list[float] = []
    for mode, part in parts:
        if mode == "custom":
            shown += [part[PROGRESS]["reward"]] if part[PROGRESS]["reward"] is not None else []
        else:
            for update in part.values():
                for message in update["messages"]:
                    if isinstance(message, AIMessage):
                        yield shown, message
                        shown = []


async def test_two_tools_at_once_with_the_search_awaited(pair: DarwinChatModel) -> None:
    agent = example.build(pair)
    asked = {"messages": [HumanMessage(BOTH)]}
    parts = [part async for part in agent.astream(asked, thread("a"), stream_mode=["custom", "updates"])]
    messages = (await agent.aget_state(thread("a"))).values["messages"]
    assert called(messages) == [LAMP, KETTLE]
    assert [message.type for message in messages] == ["human", "ai", "tool", "tool", "ai"]
    assert [message.text for message in messages[2:4]] == ["kitchen lamp is red", "kettle at 80"]
    found = list(rewards(parts))
    assert len(found) == 2
    for shown, message in found:
        assert shown[-1] == message.response_metadata["darwin"]["reward"]
    whole = agent.invoke(asked, thread("b"))["messages"]
    assert [(message.text, called([message])) for message in whole] == [(m.text, called([m])) for m in messages]


class Tea(BaseModel):
    """A tea."""

    minutes: int


@pytest.mark.parametrize("strategy", [ProviderStrategy, ToolStrategy, None])
async def test_structured_answers_end_a_thread_in_either_way(strategy: Any) -> None:
    model = model_of(call("Tea", minutes=3) if strategy is ToolStrategy else '{"minutes": 3}')
    model.search.policy.enforces_formats = True
    model = DarwinChatModel(search=model.search)
    form = strategy(Tea) if strategy else Tea
    agent: Any = create_agent(model, list(TOOLS), response_format=form, checkpointer=InMemorySaver())
    state = await agent.ainvoke({"messages": [HumanMessage("How long?")]}, thread("t"))
    assert state["structured_response"] == Tea(minutes=3)
    assert agent.get_state(thread("t")).values["structured_response"] == Tea(minutes=3)


@pytest.mark.parametrize("strategy", [ProviderStrategy, ToolStrategy])
def test_the_embedded_pair_ends_with_an_object_in_either_way(strategy: Any, pair: DarwinChatModel) -> None:
    agent: Any = create_agent(pair, [], response_format=strategy(Tea))
    state = agent.invoke({"messages": [HumanMessage("How long does green tea steep?")]})
    assert isinstance(state["structured_response"], Tea)
