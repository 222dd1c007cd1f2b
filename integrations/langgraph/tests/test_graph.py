"""The graph: what its three streams carry, how threads go on elsewhere, and that swaps pass through it."""

from operator import itemgetter
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph

from darwin_align import DarwinChatModel, SearchConfig
from darwin_align.integrations.langgraph import graph as example
from darwin_align.integrations.langgraph.household import household_model
from darwin_align.integrations.langgraph.progress import PROGRESS, ProgressToStream
from darwin_align.operators import TopKReplacement, Tournament
from tests.core.kit import ASKED, search_of

ASK: Any = {"messages": [HumanMessage(example.ASKED)]}
SETTINGS: dict[str, Any] = {"max_new_tokens": 6, "replacement_period": 3, "cycles": 1, "seed": 5}


@pytest.fixture(scope="module")
def pair() -> DarwinChatModel:
    return household_model()


def thread(name: str, **choice: Any) -> Any:
    return {"configurable": {"thread_id": name, **choice}}


def contents(messages: list[Any]) -> list[Any]:
    """What a thread holds, without the ids that LangChain and LangGraph draw for each run."""
    return [
        (m.type, m.text, getattr(m, "tool_calls", None), m.response_metadata.get("darwin", {}).get("reward"))
        for m in messages
    ]


def one_node(model: Any) -> Any:
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph: Any = StateGraph(MessagesState)
    return graph.add_node("model", ask).add_edge(START, "model").compile().with_config(callbacks=[ProgressToStream()])


def scripted(**parts: Any) -> DarwinChatModel:
    return DarwinChatModel(search=search_of(**{"ends": 0.0, "config": SearchConfig(**SETTINGS), **parts}))


def test_both_tools_are_called_and_reported(pair: DarwinChatModel) -> None:
    messages = example.build(pair).invoke(ASK, thread("t"))["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "tool", "ai"]
    assert [(made["name"], made["args"]) for made in messages[1].tool_calls] == [
        ("set_lamp", {"room": "kitchen", "color": "red"}),
        ("heat_kettle", {"degrees": 80}),
    ]
    assert [message.text for message in messages[2:4]] == ["kitchen lamp is red", "kettle at 80"]
    assert messages[-1].text


def check_streams(parts: list[Any], state: list[Any]) -> None:
    """Progress, then the answer's chunks, then the update with the whole of it; and so again for the next answer."""
    searches: list[list[dict[str, Any]]] = [[]]
    chunks: dict[str, AIMessageChunk] = {}
    begun: set[str] = set()
    for mode, part in parts:
        if mode == "custom":
            assert not begun
            searches[-1].append(part[PROGRESS])
        elif mode == "messages" and isinstance(part[0], AIMessageChunk):
            begun.add(part[0].id)
            chunks[part[0].id] = chunks[part[0].id] + part[0] if part[0].id in chunks else part[0]
        elif mode == "updates" and "model" in part:
            [message] = part["model"]["messages"]
            begun.remove(message.id)
            assert chunks[message.id].text == message.text
            assert chunks[message.id].tool_calls == message.tool_calls
            assert searches[-1][-1]["reward"] == message.response_metadata["darwin"]["reward"]
            searches.append([])
    assert list(chunks) == [message.id for message in state if message.type == "ai"]
    assert len(chunks) == 2
    assert searches.pop() == []
    for search in searches:
        places = [(progress["cycle"], progress["step"]) for progress in search]
        assert places == sorted(places)
        assert [progress["operator"] for progress in search][:3] == ["mutate", "decode", "score"]
        assert search[-1]["finished"]


def test_three_streams_at_once(pair: DarwinChatModel) -> None:
    graph = example.build(pair)
    parts = list(graph.stream(ASK, thread("t"), stream_mode=example.MODES))
    check_streams(parts, graph.get_state(thread("t")).values["messages"])


async def test_three_streams_at_once_with_the_search_awaited(pair: DarwinChatModel) -> None:
    graph = example.build(pair)
    parts = [part async for part in graph.astream(ASK, thread("t"), stream_mode=example.MODES)]
    check_streams(parts, graph.get_state(thread("t")).values["messages"])


async def test_values_hold_every_message_once(pair: DarwinChatModel) -> None:
    graph = example.build(pair)
    states = [state async for state in graph.astream(ASK, thread("t"), stream_mode="values")]
    assert [len(state["messages"]) for state in states] == [1, 2, 4, 5]
    ids = [message.id for message in states[-1]["messages"]]
    assert len(set(ids)) == len(ids)


def test_an_answer_streams_through_a_graph_under_one_id() -> None:
    model = scripted()
    parts = list(one_node(model).stream({"messages": [("user", ASKED)]}, stream_mode=["messages", "updates"]))
    texts = [part[0].text for mode, part in parts if mode == "messages"]
    [message] = parts[-1][1]["model"]["messages"]
    assert texts == [message.text, ""]
    assert message.text == model.invoke(ASKED).text
    assert {part[0].id for mode, part in parts if mode == "messages"} == {message.id}


def test_a_thread_goes_on_in_another_graph_as_if_nothing_had_been(pair: DarwinChatModel) -> None:
    whole = example.build(pair).invoke(ASK, thread("t"))["messages"]
    saver = InMemorySaver()
    example.build(pair, checkpointer=saver, interrupt_before=["tools"]).invoke(ASK, thread("t"))
    other = example.build(household_model(), checkpointer=saver)
    assert other.get_state(thread("t")).next == ("tools",)
    assert contents(other.invoke(None, thread("t"))["messages"]) == contents(whole)


async def test_a_thread_goes_on_with_the_search_awaited(pair: DarwinChatModel) -> None:
    whole = await example.build(pair).ainvoke(ASK, thread("t"))
    saver = InMemorySaver()
    await example.build(pair, checkpointer=saver, interrupt_after=["tools"]).ainvoke(ASK, thread("t"))
    other = example.build(household_model(), checkpointer=saver)
    assert other.get_state(thread("t")).next == ("model",)
    assert contents((await other.ainvoke(None, thread("t")))["messages"]) == contents(whole["messages"])


def test_operators_are_swapped_through_a_graphs_config() -> None:
    selector = TopKReplacement(survivors=3).configurable_alternatives(
        ConfigurableField(id="selector"), default_key="top_k", tournament=Tournament()
    )
    graph = one_node(scripted(selector=selector))
    for choice, name in (({}, "TopKReplacement"), ({"selector": "tournament"}, "Tournament")):
        seen = RunCollectorCallbackHandler()
        graph.invoke({"messages": [("user", ASKED)]}, {**thread("t", **choice), "callbacks": [seen]})
        [[node]] = [run.child_runs for run in seen.traced_runs]
        [model] = node.child_runs
        assert {run.name for run in model.child_runs if "darwin:select" in (run.tags or [])} == {name}


def test_an_operator_may_write_to_the_stream_itself() -> None:
    def score(request: Any, responses: Any) -> list[float]:
        get_stream_writer()({"rated": len(responses)})
        return [float(len(response.text)) for response in responses]

    async def ascore(request: Any, responses: Any) -> list[float]:
        return score(request, responses)

    for scorer in (score, ascore):
        graph = one_node(scripted(scorer=scorer))
        parts = list(graph.stream({"messages": [("user", ASKED)]}, stream_mode="custom"))
        assert sum("rated" in part for part in parts) == sum(
            part[PROGRESS]["operator"] == "score" for part in parts if PROGRESS in part
        )


async def test_what_a_judge_writes_is_no_message_of_the_graph() -> None:
    judge = ChatPromptTemplate.from_template("{response}") | FakeListChatModel(responses=["1"]) | StrOutputParser()
    graph = one_node(scripted(scorer=judge))
    given: Any = {"messages": [("user", ASKED)]}
    parts = list(graph.stream(given, stream_mode="messages"))
    parts += [part async for part in graph.astream(given, stream_mode="messages")]
    assert [message.text for message, _ in parts if message.text] == [scripted(scorer=judge).invoke(ASKED).text] * 2


def test_progress_has_a_place_in_nodes_only() -> None:
    with pytest.raises(RuntimeError, match="give it to a graph"):
        scripted().invoke(ASKED, {"callbacks": [ProgressToStream()]})


@pytest.mark.parametrize("within", [False, True])
async def test_a_chain_tells_its_progress_within_a_function(within: bool) -> None:
    """As a node itself it cannot: LangGraph runs its later steps without the node's context."""
    chain: Any = itemgetter("messages") | scripted() | RunnableLambda(lambda message: {"messages": [message]})
    graph: Any = StateGraph(MessagesState)
    graph.add_node("model", RunnableLambda(chain.invoke) if within else chain)
    compiled = graph.add_edge(START, "model").compile().with_config(callbacks=[ProgressToStream()])
    given: Any = {"messages": [("user", ASKED)]}
    if not within:
        with pytest.raises(RuntimeError, match="call the chain within a function"):
            compiled.invoke(given)
        return
    parts = list(compiled.stream(given, stream_mode="custom"))
    assert [part[PROGRESS]["operator"] for part in parts][:3] == ["mutate", "decode", "score"]
    assert [part async for part in compiled.astream(given, stream_mode="custom")] != []


def test_other_events_are_left_alone() -> None:
    """There is no stream to write to here: our own event would raise."""
    assert ProgressToStream().on_custom_event("mine", {}) is None
    with pytest.raises(RuntimeError):
        ProgressToStream().on_custom_event(PROGRESS, {})
