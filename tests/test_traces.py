"""What a trace shows: mutate, decode, score and select as children of the model's run, whichever way it is called."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tracers.context import collect_runs

from darwin_align import DarwinChatModel, Population, Request, SearchConfig
from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core import SearchResult
from darwin_align.operators import Decoder, TopKReplacement
from darwin_align.operators.tracing import cut, summary
from tests.core.kit import ASKED, Babbler, search_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"),
    pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning"),
]

SETTINGS: dict[str, Any] = {"max_new_tokens": 6, "replacement_period": 3, "cycles": 1, "seed": 5}
CHILDREN = ["mutate", "decode", "score", "select", "decode", "score", "select"]


def model_of(**arguments: Any) -> DarwinChatModel:
    return DarwinChatModel(search=search_of(ends=0.0, config=SearchConfig(**SETTINGS)), **arguments)


class Tree(BaseCallbackHandler):
    """Every run: its name, kind, parent, tags, metadata, input, output; and the custom events of each."""

    def __init__(self) -> None:
        self.runs: dict[UUID, dict[str, Any]] = {}
        self.told: list[tuple[UUID, str, Any]] = []
        self.tokens: list[tuple[UUID, str, str | None]] = []

    def _start(self, kind: str, inputs: Any, run_id: UUID, **more: Any) -> None:
        known = {name: more.get(name) for name in ("name", "parent_run_id", "tags", "metadata", "invocation_params")}
        self.runs[run_id] = {"kind": kind, "inputs": inputs, **known}

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **more: Any) -> None:
        self._start("chain", inputs, run_id, **more)

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **more: Any) -> None:
        more["name"] = more.get("name") or serialized["id"][-1]
        self._start("chat_model", messages, run_id, **more)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **more: Any) -> None:
        self.runs[run_id]["outputs"] = outputs

    def on_llm_end(self, response: Any, *, run_id: UUID, **more: Any) -> None:
        self.runs[run_id]["outputs"] = response

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        self.runs[run_id]["error"] = error

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        self.runs[run_id]["error"] = error

    def on_llm_new_token(self, token: Any, *, run_id: UUID, chunk: Any = None, **more: Any) -> None:
        self.tokens.append((run_id, token, chunk.message.id))

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **more: Any) -> None:
        self.told.append((run_id, name, data))

    def of(self, kind: str) -> list[UUID]:
        return [run_id for run_id, run in self.runs.items() if run["kind"] == kind]

    def children(self, parent: UUID | None) -> list[UUID]:
        return [run_id for run_id, run in self.runs.items() if run["parent_run_id"] == parent]

    def question(self, run_id: UUID) -> str:
        [mark] = [tag for tag in self.runs[run_id]["tags"] if tag.startswith("darwin:")]
        return mark.removeprefix("darwin:")

    def draw(self, parent: UUID | None = None, depth: int = 0) -> str:
        lines = [
            f"{'  ' * depth}{self.runs[run]['name']}\n{self.draw(run, depth + 1)}" for run in self.children(parent)
        ]
        return "".join(lines)


TREE = """\
DarwinChatModel
  FunctionMutator
  Decoder
  ScriptedScorer
  TopKReplacement
  Decoder
  ScriptedScorer
  TopKReplacement
"""


def under(*names: str) -> str:
    """The tree under further runs."""
    heads = "".join(f"{'  ' * depth}{name}\n" for depth, name in enumerate(names))
    return heads + "".join(f"{'  ' * len(names)}{line}\n" for line in TREE.splitlines())


async def drained(events: Any) -> None:
    async for _ in events:
        pass


async def v3(runnable: Any, given: Any, config: Any) -> None:
    await (await runnable.astream_events(given, config, version="v3"))


def sync_v3(runnable: Any, given: Any, config: Any) -> None:
    _ = runnable.stream_events(given, config, version="v3").output


ON_ANY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "invoke": lambda r, given, config: r.invoke(given, config),
    "ainvoke": lambda r, given, config: asyncio.run(r.ainvoke(given, config)),
    "stream": lambda r, given, config: list(r.stream(given, config)),
    "astream": lambda r, given, config: asyncio.run(drained(r.astream(given, config))),
    "batch": lambda r, given, config: r.batch([given], config),
    "abatch": lambda r, given, config: asyncio.run(r.abatch([given], config)),
    "v1": lambda r, given, config: asyncio.run(drained(r.astream_events(given, config, version="v1"))),
    "v2": lambda r, given, config: asyncio.run(drained(r.astream_events(given, config, version="v2"))),
    "log": lambda r, given, config: asyncio.run(drained(r.astream_log(given, config))),
}
ON_MODELS = {
    **ON_ANY,
    "v3": lambda r, given, config: asyncio.run(v3(r, given, config)),
    "sync v3": sync_v3,
}


@pytest.mark.parametrize("bound", [False, True], ids=["bare", "bound"])
@pytest.mark.parametrize("way", ON_MODELS)
def test_the_operators_are_children_of_the_models_run(way: str, bound: bool) -> None:
    tree, model = Tree(), model_of()
    ON_MODELS[way](model.bind(temperature=0.5) if bound else model, ASKED, {"callbacks": [tree]})
    assert tree.draw() == TREE
    [model_run] = tree.of("chat_model")
    assert [tree.question(run) for run in tree.children(model_run)] == CHILDREN
    assert {run["kind"] for run_id, run in tree.runs.items() if run_id != model_run} == {"chain"}
    assert all("outputs" in run for run in tree.runs.values())


@pytest.mark.parametrize("way", ON_ANY)
def test_in_a_sequence(way: str) -> None:
    tree = Tree()
    chain = RunnableLambda(lambda given: given["q"]) | model_of()
    ON_ANY[way](chain, {"q": ASKED}, {"callbacks": [tree]})
    assert tree.draw().replace("  RunnableLambda\n", "") == under("RunnableSequence")


@pytest.mark.parametrize(
    ("way", "inner"),
    [
        (way, inner)
        for way in ON_ANY
        for inner in ("invoke", "ainvoke", "stream", "astream")
        if not (
            inner.startswith("a") and way in ("invoke", "stream", "batch")
        )  # LangChain refuses async functions there
    ],
)
def test_in_a_lambda(way: str, inner: str) -> None:
    tree, model = Tree(), model_of()

    def call(given: str) -> Any:
        return model.invoke(given) if inner == "invoke" else list(model.stream(given))[-1]

    async def acall(given: str) -> Any:
        return await model.ainvoke(given) if inner == "ainvoke" else [c async for c in model.astream(given)][-1]

    function = acall if inner.startswith("a") else call
    ON_ANY[way](RunnableLambda(function), ASKED, {"callbacks": [tree]})
    assert tree.draw() == under(function.__name__)


@pytest.mark.parametrize("way", ON_MODELS)
def test_callbacks_tags_metadata_and_names_pass_through(way: str) -> None:
    tree, model = Tree(), model_of(tags=["model's"], metadata={"model": 1})
    config: Any = {"callbacks": [tree], "tags": ["call's"], "metadata": {"call": 1}, "run_name": "Mine"}
    if way in ("v1", "v2"):
        config.pop("run_name")
    ON_MODELS[way](model, ASKED, config)
    [model_run] = tree.of("chat_model")
    seen = tree.runs[model_run]
    assert seen["name"] == ("DarwinChatModel" if way in ("v1", "v2") else "Mine")
    assert {"call's", "model's"} <= set(seen["tags"])
    assert seen["metadata"].items() >= {"call": 1, "model": 1, "ls_provider": "darwin_align"}.items()
    for run in tree.children(model_run):
        tags, metadata = set(tree.runs[run]["tags"]), tree.runs[run]["metadata"]
        assert "call's" in tags
        assert "model's" not in tags  # the constructor's are the model's own, as everywhere in LangChain
        assert metadata["call"] == 1
        assert not any(name.startswith("ls_") for name in metadata)


def test_many_at_once_keep_their_own_children() -> None:
    tree, model = Tree(), model_of()
    model.batch([ASKED, "How do I bake bread?", "Why?"], {"callbacks": [tree]})
    runs = tree.of("chat_model")
    assert len(runs) == 3
    assert [[tree.question(child) for child in tree.children(run)] for run in runs] == [CHILDREN] * 3
    asked = {str(tree.runs[run]["inputs"][0][0].content) for run in runs}
    assert asked == {ASKED, "How do I bake bread?", "Why?"}
    for run in runs:
        asked_here = tree.runs[run]["inputs"][0][0].content
        assert {tree.runs[child]["inputs"]["parent"] for child in tree.children(run)} == {asked_here}


async def test_two_streams_that_a_consumer_reads_in_turns() -> None:
    tree, model = Tree(), model_of()
    one, two = (model.stream(asked, {"callbacks": [tree]}) for asked in (ASKED, "Why?"))
    for _ in zip(one, two, strict=True):
        assert model.invoke("Between", {"callbacks": [tree]})
    assert [len(tree.children(run)) for run in tree.of("chat_model")] == [len(CHILDREN)] * 4
    a, b = (model.astream(asked, {"callbacks": [tree]}) for asked in (ASKED, "Why?"))
    await asyncio.gather(drained(a), drained(b))
    assert [len(tree.children(run)) for run in tree.of("chat_model")] == [len(CHILDREN)] * 6


def test_an_invoke_that_asks_for_a_stream() -> None:
    tree = Tree()
    answer = model_of().invoke(ASKED, {"callbacks": [tree]}, stream=True)
    assert tree.draw() == TREE
    assert "".join(token for _, token, _ in tree.tokens) == answer.text
    assert {message_id for *_, message_id in tree.tokens} == {answer.id}


def test_a_bound_operator_stays_under_the_model_within_a_chain() -> None:
    tree = Tree()
    scorer = ScriptedScorer().with_config(tags=["judge"], run_name="Judge").with_retry()
    search = search_of(ends=0.0, scorer=scorer, config=SearchConfig(**SETTINGS))
    chain = RunnableParallel(answer=DarwinChatModel(search=search) | StrOutputParser())
    for given in (chain.invoke, lambda *a: list(chain.stream(*a))):
        given(ASKED, {"callbacks": [tree]})
    for run in tree.of("chat_model"):
        assert [tree.question(child) for child in tree.children(run)] == CHILDREN
    assert sum("judge" in run["tags"] for run in tree.runs.values()) >= 4


def test_a_judges_own_runs_are_under_score() -> None:
    judge = ChatPromptTemplate.from_template("{response}") | FakeListChatModel(responses=["1"]) | StrOutputParser()
    search = search_of(ends=0.0, scorer=judge, config=SearchConfig(**SETTINGS))
    for way in ("invoke", "ainvoke", "stream", "astream"):
        tree = Tree()
        ON_ANY[way](DarwinChatModel(search=search), ASKED, {"callbacks": [tree]})
        [model_run] = [run for run in tree.of("chat_model") if tree.runs[run]["name"] == "DarwinChatModel"]
        judges = [run for run in tree.of("chat_model") if run != model_run]
        assert judges
        for run in judges:
            chain = tree.runs[run]["parent_run_id"]
            assert tree.question(tree.runs[chain]["parent_run_id"]) == "score"


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "v2"])
def test_a_search_by_itself(way: str) -> None:
    tree = Tree()
    search = search_of(ends=0.0, config=SearchConfig(**SETTINGS))
    ON_ANY[way](search, ASKED, {"callbacks": [tree], "run_name": "Mine"} if way != "v2" else {"callbacks": [tree]})
    [root] = tree.children(None)
    assert [tree.question(run) for run in tree.children(root)] == CHILDREN
    shown = tree.runs[root]["outputs"]
    result = search.invoke(ASKED)
    assert (shown["text"], shown["reward"]) == (result.text, result.reward)
    assert "events" not in shown
    assert isinstance(result, SearchResult)


def test_operators_by_hand_are_traced_alike() -> None:
    tree, start = Tree(), Population.start(Request.of(ASKED), mutations=3)
    chain = Decoder(policy=Babbler()) | ScriptedScorer() | TopKReplacement(survivors=1)
    whole = chain.invoke(start, {"callbacks": [tree]})
    assert isinstance(whole, Population)
    [root] = tree.children(None)
    shown = [tree.runs[run] for run in tree.children(root)]
    assert [run["name"] for run in shown] == ["Decoder", "ScriptedScorer", "TopKReplacement"]
    assert shown[0]["inputs"] == summary(start)
    assert shown[-1]["outputs"] == summary(whole)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_operators_runs_are_small_plain_data(way: str) -> None:
    tree = Tree()
    words = ["word" * 20] * 3
    search = search_of(policy=ScriptedPolicy(words, length=500), config=SearchConfig(mutations=40, cycles=1, seed=1))
    ON_ANY[way](DarwinChatModel(search=search), "Why? " * 2000, {"callbacks": [tree]})
    [model_run] = tree.of("chat_model")
    for run in map(tree.runs.get, tree.children(model_run)):
        assert run is not None
        for side in ("inputs", "outputs"):
            assert len(json.dumps(run[side])) < 8000
            assert run[side]["further_beams"] == 29


def test_a_failed_operator_shows_where_it_failed() -> None:
    def score(request: Any, responses: Any) -> list[float]:
        raise KeyError("mine")

    tree = Tree()
    with pytest.raises(KeyError):
        DarwinChatModel(search=search_of(scorer=score)).invoke(ASKED, {"callbacks": [tree]})
    errors = [run["name"] for run in tree.runs.values() if "error" in run]
    assert errors == ["DarwinChatModel", "FunctionScorer"]


def test_no_key_reaches_a_trace() -> None:
    tree = Tree()
    policy = EndpointPolicy("http://127.0.0.1:9", model="m", api_key="sk-secret", headers={"x-key": "sk-secret"})
    model = DarwinChatModel(
        policy=policy, decoder=Babbler(), scorer=ScriptedScorer(), mutator=lambda *a: [], guard=None
    )
    model.invoke(ASKED, {"callbacks": [tree]}, **SETTINGS)
    assert "EndpointPolicy('http://127.0.0.1:9', model='m')" in str(tree.runs)
    assert "sk-secret" not in str(tree.runs)


def test_invocation_params_leave_out_what_is_no_setting() -> None:
    tree, model = Tree(), model_of()
    events = model.search.invoke(ASKED).events
    model.invoke(ASKED, {"callbacks": [tree]}, on_event=lambda *_: None, replay=events, seed=5)
    [run] = tree.of("chat_model")
    params = tree.runs[run]["invocation_params"]
    assert params["replay"] == f"{len(events)} recorded events"
    assert "on_event" not in params
    assert tree.children(run) == []  # replayed: no operator was asked


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_handler_that_waits_for_tokens_gets_them_with_the_messages_own_id(way: str) -> None:
    """LangGraph's message stream and ``astream_events`` attach such handlers to an invoke."""

    model, answers = model_of(), []

    async def inner(given: str) -> Any:
        answers.append(model.invoke(given) if way == "invoke" else await model.ainvoke(given))
        return answers[0]

    events: list[Any] = [event async for event in RunnableLambda(inner).astream_events(ASKED, version="v2")]
    [end] = [event for event in events if event["event"] == "on_chat_model_end"]
    chunks = [event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(chunk.text for chunk in chunks) == answers[0].text == end["data"]["output"].text
    assert {chunk.id for chunk in chunks} == {answers[0].id} == {f"lc_run--{end['run_id']}"}
    assert chunks[-1].chunk_position == "last"
    assert [chunk.usage_metadata is not None for chunk in chunks] == [True, False]


def test_collected_runs_are_nested() -> None:
    with collect_runs() as found:
        model_of().invoke(ASKED)
    [run] = found.traced_runs
    assert [child.name for child in run.child_runs] == TREE.replace("  ", "").splitlines()[1:]
    with collect_runs() as found:
        list(model_of().stream(ASKED))
    [run] = found.traced_runs
    assert [child.name for child in run.child_runs] == TREE.replace("  ", "").splitlines()[1:]


def test_asynchronous_handlers_see_the_same() -> None:
    class Later(AsyncCallbackHandler):
        def __init__(self) -> None:
            self.names: list[str] = []

        async def on_chain_start(self, serialized: Any, inputs: Any, **more: Any) -> None:
            self.names.append(more["name"])

    for way in ("ainvoke", "astream", "v2"):
        later = Later()
        ON_ANY[way](model_of(), ASKED, {"callbacks": [later]})
        assert later.names == TREE.replace("  ", "").splitlines()[1:]


@pytest.mark.parametrize("length", [5, 6, 9, 50])
def test_cut_texts_are_never_longer(length: int) -> None:
    assert len(cut("abcdefghi " * 30, length)) <= length
    assert cut("ab", length) == "ab"
