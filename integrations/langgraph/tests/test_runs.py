"""What a trace shows of a search in a graph, and what is left of it when nobody waits for it any more."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.tracers.schemas import Run
from langgraph.graph import START, MessagesState, StateGraph

from darwin_align import DarwinChatModel, SearchConfig
from darwin_align.integrations.langgraph import graph as example
from darwin_align.integrations.langgraph.household import household_model
from darwin_align.integrations.langgraph.progress import PROGRESS, ProgressToStream
from tests.core.kit import ASKED, search_of
from tests.test_streaming import Hanging, Holding

SETTINGS: dict[str, Any] = {"max_new_tokens": 6, "replacement_period": 3, "cycles": 1, "seed": 5}
GIVEN: Any = {"messages": [HumanMessage(ASKED)]}
ALL = ["messages", "custom", "updates", "values"]

TREE = """\
LangGraph
  model
    DarwinChatModel
      FunctionMutator [mutate]
      Decoder [decode]
      ScriptedScorer [score]
      TopKReplacement [select]
      Decoder [decode]
      ScriptedScorer [score]
      TopKReplacement [select]
"""


def model_of(**parts: Any) -> DarwinChatModel:
    return DarwinChatModel(search=search_of(**{"ends": 0.0, "config": SearchConfig(**SETTINGS), **parts}))


def answers(whole: Any) -> dict[str, Any]:
    return {"messages": [whole]}


def added(chunks: list[Any]) -> Any:
    first, *rest = chunks
    for chunk in rest:
        first = first + chunk
    return first


def node_of(model: DarwinChatModel, method: str) -> Callable[..., Any]:
    """A node that asks the model in one of its four methods."""

    async def ainvoke(state: MessagesState) -> Any:
        return answers(await model.ainvoke(state["messages"]))

    async def astream(state: MessagesState) -> Any:
        return answers(added([chunk async for chunk in model.astream(state["messages"])]))

    methods: dict[str, Callable[..., Any]] = {
        "invoke": lambda state: answers(model.invoke(state["messages"])),
        "stream": lambda state: answers(added(list(model.stream(state["messages"])))),
        "ainvoke": ainvoke,
        "astream": astream,
    }
    return methods[method]


def graph_of(model: DarwinChatModel, method: str) -> Any:
    graph: Any = StateGraph(MessagesState)
    graph.add_node("model", node_of(model, method)).add_edge(START, "model")
    return graph.compile().with_config(callbacks=[ProgressToStream()])


async def drained(parts: Any) -> None:
    async for _ in parts:
        pass


def run(graph: Any, drive: str, config: Any) -> None:
    """Drive a graph: by ``invoke`` or ``ainvoke``, or by ``stream`` or ``astream`` and their modes."""
    how, _, modes = drive.partition(" ")
    mode = {"stream_mode": ALL if modes == "all" else [modes]} if modes else {}
    match how:
        case "invoke":
            graph.invoke(GIVEN, config)
        case "ainvoke":
            asyncio.run(graph.ainvoke(GIVEN, config))
        case "stream":
            list(graph.stream(GIVEN, config, **mode))
        case "astream":
            asyncio.run(drained(graph.astream(GIVEN, config, **mode)))


def drawn(runs: list[Run], depth: int = 0) -> str:
    lines = []
    for one in runs:
        question = [tag.removeprefix("darwin:") for tag in one.tags or [] if tag.startswith("darwin:")]
        lines.append(f"{'  ' * depth}{one.name}{''.join(f' [{name}]' for name in question)}\n")
        lines.append(drawn(one.child_runs, depth + 1))
    return "".join(lines)


DRIVES = [how + mode for how in ("stream", "astream") for mode in (*(f" {mode}" for mode in ALL), " all")]
WAYS = [
    (drive, method)
    for drive in ("invoke", "ainvoke", *DRIVES)
    for method in ("invoke", "stream", "ainvoke", "astream")
    if drive.startswith("a")
    or not method.startswith("a")  # a graph that is run without await has no use for async nodes
]


@pytest.mark.parametrize(("drive", "method"), WAYS)
def test_the_operators_are_children_of_the_models_run_below_the_nodes(drive: str, method: str) -> None:
    seen = RunCollectorCallbackHandler()
    run(graph_of(model_of(), method), drive, {"callbacks": [seen]})
    tree = drawn(seen.traced_runs)
    print(tree)
    assert tree == TREE
    [node] = seen.traced_runs[0].child_runs
    assert all(one.error is None and one.end_time for one in (node, *node.child_runs, *node.child_runs[0].child_runs))


def test_an_agents_tree_has_the_search_below_its_model_node() -> None:
    seen = RunCollectorCallbackHandler()
    graph = example.build(household_model())
    graph.invoke({"messages": [HumanMessage(example.ASKED)]}, {"configurable": {"thread_id": "t"}, "callbacks": [seen]})
    tree = drawn(seen.traced_runs)
    print(tree)
    nodes = [(one.name, [child.name for child in one.child_runs]) for one in seen.traced_runs[0].child_runs]
    assert [name for name, _ in nodes] == ["model", "tools", "model"]
    assert tree.count("      DarwinChatModel\n        AutoMutator [mutate]\n        Decoder [decode]\n") == 2


# Whoever goes away


async def test_a_cancelled_graph_ends_the_search() -> None:
    policy, hanging = Holding(), Hanging()
    graph = graph_of(model_of(policy=policy, scorer=hanging), "ainvoke")
    task = asyncio.ensure_future(drained(graph.astream(GIVEN, stream_mode=ALL)))
    await asyncio.wait_for(hanging.begun.wait(), 5)
    assert policy.held
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(hanging.cancelled.wait(), 5)
    assert policy.held == set() != policy.ever


@pytest.mark.parametrize("method", ["ainvoke", "astream"])
async def test_a_graphs_stream_left_in_the_middle_ends_the_search(method: str) -> None:
    policy, hanging = Holding(), Hanging()
    graph = graph_of(model_of(policy=policy, scorer=hanging), method)
    parts = graph.astream(GIVEN, stream_mode="custom")
    async for part in parts:
        if part[PROGRESS]["operator"] == "decode":
            break
    await asyncio.wait_for(hanging.begun.wait(), 5)
    assert policy.held
    await parts.aclose()
    await asyncio.wait_for(hanging.cancelled.wait(), 5)
    assert policy.held == set() != policy.ever


def in_use(model: DarwinChatModel) -> list[int]:
    """Rows that the engines of the policy and of the reward model hold for a search."""
    engines = [model.search.policy.engine, model.search.scorer.scorers[0].reward_model.engine]
    for engine in engines:
        engine.submit([], lambda: None).result(30)  # what was released before is released now
    return [engine.slots_in_use for engine in engines]


@pytest.fixture
def pair() -> DarwinChatModel:
    model = household_model()
    model.invoke("Hello")
    return model


@pytest.fixture
def held(pair: DarwinChatModel) -> list[int]:
    """Rows that the shared engines hold for others, e.g. for whoever asked a policy by hand."""
    return in_use(pair)


async def test_the_engines_rows_are_released_when_a_stream_is_left(pair: DarwinChatModel, held: list[int]) -> None:
    config: Any = {"configurable": {"thread_id": "t"}}
    parts = example.build(pair).astream({"messages": [HumanMessage(example.ASKED)]}, config, stream_mode="custom")
    async for part in parts:
        if part[PROGRESS]["operator"] == "score":
            break
    assert all(now > before for now, before in zip(in_use(pair), held, strict=True))
    await parts.aclose()
    assert in_use(pair) == held


@pytest.mark.parametrize("modes", [["custom"], ["messages", "custom", "updates"]])
def test_a_plain_stream_that_is_left_releases_them_too(
    modes: list[str], pair: DarwinChatModel, held: list[int]
) -> None:
    """A node that runs in a thread cannot be cancelled: LangGraph waits for its end."""
    config: Any = {"configurable": {"thread_id": "t"}}
    parts = example.build(pair).stream({"messages": [HumanMessage(example.ASKED)]}, config, stream_mode=modes)
    next(parts)
    parts.close()
    assert in_use(pair) == held


# What importing costs


def test_the_front_door_loads_nothing_of_langgraph() -> None:
    names = "('langgraph', 'langchain', 'langchain_core', 'torch')"
    script = "import sys, darwin_align.integrations.langgraph, darwin_align.integrations.langchain\n"
    script += f"assert not [name for name in {names} if name in sys.modules]"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)  # noqa: S603 - our own script
