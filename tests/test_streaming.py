"""Streams: the answer once it is decided, progress meanwhile, and nothing left behind by who goes away."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, CallbackManager
from langchain_core.messages import AIMessageChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from darwin_align import Budget, DarwinChatModel, Population, Request, Response, SearchConfig
from darwin_align.core import Event
from darwin_align.core.errors import ConfigError, EndpointConnectionError
from darwin_align.langchain.progress import PROGRESS, Progress
from tests.core.kit import ASKED, Babbler, Case, cases, search_of

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")

SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "replacement_period": 3, "cycles": 2, "seed": 5}


def model_of(**parts: Any) -> DarwinChatModel:
    return DarwinChatModel(search=search_of(**{"config": SearchConfig(**SETTINGS), **parts}))


class Told(BaseCallbackHandler):
    def __init__(self) -> None:
        self.progress: list[dict[str, Any]] = []
        self.runs: set[UUID] = set()
        self.models: list[UUID] = []
        self.chains = 0

    def on_chain_start(self, *given: Any, **more: Any) -> None:
        self.chains += 1

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **more: Any) -> None:
        self.models.append(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **more: Any) -> None:
        assert name == PROGRESS == "darwin_progress"
        self.progress.append(json.loads(json.dumps(data)))
        self.runs.add(run_id)


# The answer


async def test_the_answer_is_one_chunk_and_the_end_another() -> None:
    model = model_of()
    answer = model.invoke(ASKED)
    for chunks in (list(model.stream(ASKED)), [chunk async for chunk in model.astream(ASKED)]):
        text, end = chunks
        assert (text.text, end.text) == (answer.text, "")
        assert text.usage_metadata == answer.usage_metadata
        assert text.response_metadata["model_name"] == answer.response_metadata["model_name"]
        assert (end.usage_metadata, end.response_metadata, end.chunk_position) == (None, {}, "last")
        assert text.id == end.id
        whole: Any = text + end
        assert isinstance(whole, AIMessageChunk)
        assert whole.response_metadata["finish_reason"] == answer.response_metadata["finish_reason"]


@pytest.mark.parametrize("n", [0, 2, "x"])
async def test_a_stream_carries_one_answer(n: Any) -> None:
    with pytest.raises(ConfigError, match=r"a stream carries one answer; leave n out, or call generate"):
        list(model_of().stream(ASKED, n=n))
    with pytest.raises(ConfigError, match=r"a stream carries one answer"):
        [chunk async for chunk in model_of().astream(ASKED, n=n)]
    assert list(model_of().stream(ASKED, n=1))


async def test_streaming_mode_is_an_unknown_setting() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'streaming_mode'"):
        list(model_of().stream(ASKED, streaming_mode="final"))
    with pytest.raises(ConfigError, match=r"unknown setting 'streaming_mode'"):
        [chunk async for chunk in model_of().astream(ASKED, streaming_mode="committed")]
    with pytest.raises(ConfigError, match=r"DarwinChatModel has no argument 'streaming_mode'"):
        DarwinChatModel(search=search_of(), streaming_mode="committed")


def test_a_bypass_streams_its_plain_sample() -> None:
    model = DarwinChatModel(search=search_of(), bypass=lambda messages: True)
    assert "".join(chunk.text for chunk in model.stream(ASKED, seed=5)) == model.invoke(ASKED, seed=5).text


# Progress


async def calls(model: Any, given: Any, config: Any) -> None:
    model.invoke(given, config)
    await model.ainvoke(given, config)
    list(model.stream(given, config))
    [chunk async for chunk in model.astream(given, config)]
    model.batch([given], config)
    await (await model.astream_events(given, config, version="v3"))


async def test_progress_goes_to_the_handlers_of_the_models_run_also_bare() -> None:
    told, model = Told(), model_of()
    await calls(model, ASKED, {"callbacks": [told]})
    assert told.runs == set(told.models)
    assert len(told.models) == 6
    result = model.search.invoke(ASKED)
    once = len(result.events)
    assert len(told.progress) == 6 * once
    first = told.progress[:once]
    assert [(p["operator"], p["cycle"], p["step"]) for p in first] == [
        (event.operator, event.cycle, event.step) for event in result.events
    ]
    assert (first[-1]["text"], first[-1]["reward"], first[-1]["finished"]) == (result.text, result.reward, True)
    assert first[0]["text"] is None
    assert first[-1]["instruction"] == result.instruction
    for i in range(6):
        texts = [p["text"] for p in told.progress[i * once : (i + 1) * once]]
        assert texts == [p["text"] for p in first]


@pytest.mark.parametrize("wrap", [list, CallbackManager])
async def test_handlers_of_the_constructor_hear_progress_and_no_operators(wrap: Any) -> None:
    own, of_calls = Told(), Told()
    model = model_of().model_copy(update={"callbacks": wrap([own])})
    await calls(model, ASKED, {"callbacks": [of_calls]})
    assert own.progress == of_calls.progress
    assert own.runs == set(own.models) == set(of_calls.models)
    assert (own.chains, of_calls.chains > 0) == (0, True)
    [chunk async for chunk in model.astream_events(ASKED, version="v2")]
    assert len(own.progress) * 6 == len(of_calls.progress) * 7
    await calls(model, ASKED, None)
    assert len(own.progress) * 6 == len(of_calls.progress) * 13


async def test_progress_within_a_chain_and_as_events() -> None:
    chain = ChatPromptTemplate.from_template("{q}") | model_of()
    told = Told()
    chain.invoke({"q": ASKED}, {"callbacks": [told]})
    assert told.runs == set(told.models)
    for runnable, given_ in ((chain, {"q": ASKED}), (model_of(), ASKED), (RunnableLambda(model_of().invoke), ASKED)):
        events = [event async for event in runnable.astream_events(given_, version="v2")]
        found = [event for event in events if event["event"] == "on_custom_event"]
        assert [event["data"] for event in found if event["name"] == PROGRESS][-1]["text"] == told.progress[-1]["text"]
        [run] = {event["run_id"] for event in events if event["event"] == "on_chat_model_start"}
        assert {event["run_id"] for event in found} == {run}


async def test_a_search_by_itself_tells_its_own_run() -> None:
    told, later = Told(), []

    class Later(AsyncCallbackHandler):
        async def on_custom_event(self, name: str, data: Any, **more: Any) -> None:
            later.append(data)

    search = model_of().search
    search.invoke(ASKED, {"callbacks": [told]})
    await search.ainvoke(ASKED, {"callbacks": [Later()]})
    assert len(told.runs) == 1
    assert [p["text"] for p in later] == [p["text"] for p in told.progress]


def test_without_a_run_nobody_is_told() -> None:
    told = Told()
    assert search_of().run(ASKED, {"callbacks": [told]}, **SETTINGS).text
    assert told.progress == []


async def test_a_callback_may_be_bound() -> None:
    seen: list[tuple[Event, Population]] = []
    model = model_of().bind(on_event=lambda event, population: seen.append((event, population)))
    result = model_of().search.invoke(ASKED)
    model.invoke(ASKED)
    await model.ainvoke(ASKED)
    list(model.stream(ASKED))
    [chunk async for chunk in model.astream(ASKED)]
    assert [event.operator for event, _ in seen] == [event.operator for event in result.events] * 4


def test_the_budgets_use_and_a_failure_are_told() -> None:
    told = Told()
    model = model_of(policy=Babbler(0.0))
    model.invoke(ASKED, {"callbacks": [told]}, budget=Budget(tokens=40, reward_calls=1000))
    shares = [p["budget"]["tokens"] for p in told.progress]
    assert shares == sorted(shares)
    assert shares[-1] >= 1 > shares[-4]
    assert told.progress[-1]["budget"]["reward_calls"] == told.progress[-1]["usage"]["reward_calls"] / 1000
    assert told.progress[-1]["failure"] is None

    class Dying(Babbler):
        calls = 0

        def generate(self, rows: Any) -> Any:
            self.calls += 1
            if self.calls > 2:
                raise EndpointConnectionError("refused")
            return super().generate(rows)

    told = Told()
    answer = model_of(policy=Dying(0.0)).invoke(ASKED, {"callbacks": [told]})
    assert told.progress[-1]["failure"] == "EndpointConnectionError: refused"
    assert told.progress[-1]["text"] == answer.text


DRAWN: list[dict[str, Any]] = [{"choice": "soft"}]


@given(cases(), st.sampled_from([{}, {}, *DRAWN, {"target_reward": 2.0}]))
def test_the_last_progress_is_the_answer(case: Case, more: dict[str, Any]) -> None:
    """Also with a lookahead, whose texts are thrown away, with every selector, and of a drawn answer."""
    if more in DRAWN and case.config.reward_temperature == 0:
        more = {}
    standing = Progress(case.config.replace(**more))
    trace = case.trace(**more)
    for event, (_, population) in zip(trace.result.events, trace.steps, strict=True):
        told = standing.after(event, population)
    assert (told["text"], told["reward"]) == (trace.result.text, trace.result.reward)
    assert told["finished"]


@given(cases())
def test_what_stands_never_comes_from_a_lookahead(case: Case) -> None:
    standing = Progress(case.config)
    trace = case.trace()
    for event, (_, population) in zip(trace.result.events, trace.steps, strict=True):
        told = standing.after(event, population)
        if event.operator == "select":
            texts = {beam.text for beam in population.beams}
            assert told["finished"] or told["text"] in texts
        if told["text"] is not None:
            assert len(told["text"]) <= case.config.max_new_tokens


# Whoever goes away


class Holding(Babbler):
    """Holds every search's rows until it is released."""

    def __init__(self) -> None:
        super().__init__(ends=0.0)
        self.held: set[str] = set()
        self.ever: set[str] = set()

    def generate(self, rows: Any) -> Any:
        self.held.update(row.search_id for row in rows)
        self.ever.update(self.held)
        return super().generate(rows)

    def release(self, search_id: str) -> None:
        self.held.discard(search_id)


class Hanging:
    """A scorer that waits for ever, and says so."""

    def __init__(self) -> None:
        self.begun, self.loop = asyncio.Event(), asyncio.get_running_loop()
        self.cancelled = asyncio.Event()

    async def score(self, request: Request, responses: Sequence[Response]) -> list[float]:
        self.loop.call_soon_threadsafe(self.begun.set)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.loop.call_soon_threadsafe(self.cancelled.set)
            raise
        return []


async def drained(events: Any) -> None:
    async for _ in events:
        pass


async def through_v3(model: Any) -> None:
    await (await model.astream_events(ASKED, version="v3"))


WAYS = {
    "ainvoke": lambda model: model.ainvoke(ASKED),
    "astream": lambda model: drained(model.astream(ASKED)),
    "chained": lambda model: drained((RunnableLambda(str) | model).astream(ASKED)),
    "v2": lambda model: drained(model.astream_events(ASKED, version="v2")),
    "abatch": lambda model: model.abatch([ASKED, ASKED]),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancelled_task_ends_the_search(way: str) -> None:
    policy, hanging = Holding(), Hanging()
    task = asyncio.ensure_future(WAYS[way](model_of(policy=policy, scorer=hanging)))
    await asyncio.wait_for(hanging.begun.wait(), 5)
    assert policy.held
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(hanging.cancelled.wait(), 5)
    assert policy.held == set() != policy.ever


async def test_events_left_in_the_middle_end_the_search() -> None:
    policy, hanging = Holding(), Hanging()
    events = model_of(policy=policy, scorer=hanging).astream_events(ASKED, version="v2")
    async for event in events:
        if event["event"] == "on_custom_event" and event["data"]["operator"] == "decode":
            break
    await asyncio.wait_for(hanging.begun.wait(), 5)
    assert policy.held
    await events.aclose()
    await asyncio.wait_for(hanging.cancelled.wait(), 5)
    assert policy.held == set()


async def test_a_v3_stream_closed_in_the_middle_ends_the_search() -> None:
    policy, hanging = Holding(), Hanging()
    stream = await model_of(policy=policy, scorer=hanging).astream_events(ASKED, version="v3")
    reading = asyncio.ensure_future(anext(aiter(stream)))
    await asyncio.wait_for(hanging.begun.wait(), 5)
    assert policy.held
    reading.cancel()
    await stream.aclose()
    await asyncio.wait_for(hanging.cancelled.wait(), 5)
    assert policy.held == set()


async def test_streams_closed_early_leave_nothing() -> None:
    policy = Holding()
    stream = model_of(policy=policy).stream(ASKED)
    next(stream)
    stream.close()
    later = model_of(policy=policy).astream(ASKED)
    await anext(later)
    await later.aclose()
    never = model_of(policy=policy).stream(ASKED)
    never.close()
    assert policy.held == set() != policy.ever
    assert len(policy.ever) == 2


@pytest.mark.parametrize("how", ["invoke", "stream"])
def test_a_callback_that_raises_ends_the_search(how: str) -> None:
    class EnoughError(Exception):
        pass

    def enough(event: Event, population: Population) -> None:
        if event.operator == "select":
            raise EnoughError

    policy = Holding()
    model = model_of(policy=policy).bind(on_event=enough)
    with pytest.raises(EnoughError):
        model.invoke(ASKED) if how == "invoke" else list(model.stream(ASKED))
    assert policy.held == set() != policy.ever
