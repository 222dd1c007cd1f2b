"""Streams: the answer once it is decided, progress meanwhile, and nothing left behind by who goes away."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, CallbackManager
from langchain_core.messages import AIMessageChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from darwin_align import Budget, DarwinChatModel, Population, Request, Response, SearchConfig
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.core import Event
from darwin_align.core.errors import ConfigError, EndpointConnectionError, OperatorError
from darwin_align.core.seeds import below
from darwin_align.langchain.committed import Committed
from darwin_align.langchain.progress import PROGRESS, Progress
from darwin_align.operators import Continuation, Row
from tests.core.kit import ASKED, REQUEST, Babbler, Case, Letters, cases, search_of

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


@given(cases(), st.sampled_from([{}, {}, {"choice": "soft"}, {"target_reward": 2.0}]))
def test_the_last_progress_is_the_answer(case: Case, more: dict[str, Any]) -> None:
    """Also with a lookahead, whose texts are thrown away, with every selector, and of a drawn answer."""
    if more.get("choice") == "soft" and case.config.reward_temperature == 0:
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


# Committed text


@dataclass
class Parrot(Babbler):
    """Writes the same letters under every instruction and seed, but for so many places of a hundred."""

    strays: int = 10

    def _continue(self, row: Row) -> Continuation:
        own = super()._continue(row)
        same = super()._continue(replace(row, seed=0, request=REQUEST))
        at = [below(100, row.seed, "stray", place) < self.strays for place in range(len(own.tokens))]
        tokens = list(row.tokens)
        for place in range(len(row.tokens), len(own.tokens)):
            kept = own.tokens[place] if at[place] or place >= len(same.tokens) else same.tokens[place]
            tokens.append(kept)
            if kept == 0:
                break
        return replace(
            own,
            tokens=tuple(tokens),
            text="".join(chr(96 + token) for token in tokens if token),
            new_tokens=len(tokens) - len(row.tokens),
            finish_reason="stop" if tokens[-1:] == [0] else None,
        )


def by_hand(config: SearchConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.model_fields_set}


EARLY: list[int] = []
"""Characters that the random searches committed before their end."""


@limits(max_examples=150)
@given(
    cases(selectors=("top_k", "tournament", "smc", "speculative_rejection")),
    st.sampled_from([0, 3, 10, 30]),
    st.sampled_from([None, 20, 60]),
    st.tuples(st.integers(0, 12), st.sampled_from(["decode", "score"])),
    st.sampled_from([{}, {}, {"choice": "soft"}, {"target_reward": 2.0}]),
)
def test_committed_text_is_how_the_answer_begins(
    case: Case, strays: int, tokens: int | None, death: tuple[int, str], more: dict[str, Any]
) -> None:
    """Whatever replaces, ties, looks ahead, spends its budget, has had enough, is drawn, or breaks off."""
    settings, (dies, at) = {**by_hand(case.config), "budget": Budget(tokens=tokens), **more}, death

    def model() -> DarwinChatModel:
        policy, calls = Parrot(case.ends, strays), {"decode": 0, "score": 0}

        def live(operator: str) -> None:
            calls[operator] += 1
            if dies and operator == at and calls[operator] > dies:
                raise EndpointConnectionError("refused")

        def generate(rows: Any) -> Any:
            live("decode")
            return policy.generate(rows)

        def score(request: Any, responses: Any) -> list[float]:
            live("score")
            return [Letters(case.levels)(response.text) for response in responses]

        return DarwinChatModel(search=search_of(policy=generate, scorer=score), streaming_mode="committed")

    try:
        answer = model().invoke(ASKED, **settings)
    except EndpointConnectionError:
        with pytest.raises(EndpointConnectionError):
            list(model().stream(ASKED, **settings))
        return
    *early, _rest, end = list(model().stream(ASKED, **settings))
    EARLY.append(sum(len(chunk.text) for chunk in early))
    whole: Any = early[0] if early else _rest
    for chunk in [*early[1:], _rest, end] if early else [end]:
        whole = whole + chunk
    assert whole.text == answer.text
    assert all(chunk.usage_metadata is None and not chunk.response_metadata for chunk in early)
    assert whole.usage_metadata == answer.usage_metadata
    assert whole.response_metadata["darwin"]["reward"] == answer.response_metadata["darwin"]["reward"]


def test_the_random_searches_did_commit_early() -> None:
    assert sum(map(bool, EARLY)) > 10


COMMITTING: dict[str, Any] = {"max_new_tokens": 30, "replacement_period": 5, "cycles": 1, "seed": 5}


async def test_it_comes_before_the_end_in_every_way_to_stream() -> None:
    """The last question is asked after the first text was read."""
    asked: list[str] = []
    search = search_of(policy=Parrot(0.0, 2), config=SearchConfig(**COMMITTING))
    model = DarwinChatModel(search=search, streaming_mode="committed")
    settings = {"on_event": lambda event, population: asked.append(event.operator)}
    expected = model.invoke(ASKED).text
    stream = model.stream(ASKED, **settings)
    assert expected.startswith(next(stream).text)
    assert 0 < len(asked) < len(search.invoke(ASKED).events)
    list(stream)
    asked.clear()
    later = model.astream(ASKED, **settings)
    assert expected.startswith((await anext(later)).text)
    assert 0 < len(asked) < len(search.invoke(ASKED).events)
    [chunk async for chunk in later]
    for runnable in (model, RunnableLambda(model.invoke), RunnableLambda(str) | model):
        events = [e async for e in runnable.astream_events(ASKED, version="v2")]
        texts = [e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"]
        assert len([text for text in texts if text]) > 1
        assert "".join(texts) == expected
        [end] = [e["data"]["output"] for e in events if e["event"] == "on_chat_model_end"]
        assert end.text == expected
        assert end.usage_metadata["output_tokens"] > 0
    final = [chunk.text for chunk in model.stream(ASKED, streaming_mode="final")]
    assert final == [expected, ""]
    v3 = await model.astream_events(ASKED, version="v3")
    assert (await v3.output).text == expected


def test_a_replay_commits_what_it_replays() -> None:
    search = search_of(policy=Parrot(0.0, 2), config=SearchConfig(**COMMITTING))
    model = DarwinChatModel(search=search, streaming_mode="committed")
    result = search.invoke(ASKED)
    for known in range(len(result.events) + 1):
        assert "".join(c.text for c in model.stream(ASKED, replay=result.events[:known])) == result.text


async def test_a_committed_stream_closed_in_the_middle_ends_the_search() -> None:
    class HoldingParrot(Parrot):
        held: set[str] = set()  # noqa: RUF012 - one policy
        calls = 0

        def generate(self, rows: Any) -> Any:
            self.calls += 1
            self.held.update(row.search_id for row in rows)
            return super().generate(rows)

        def release(self, search_id: str) -> None:
            self.held.discard(search_id)

    policy = HoldingParrot(0.0, 0)
    model = DarwinChatModel(search=search_of(policy=policy, config=SearchConfig(**COMMITTING)))
    model = model.model_copy(update={"streaming_mode": "committed"})
    stream = model.stream(ASKED)
    next(stream)
    assert policy.held
    stream.close()
    assert policy.held == set()
    once = policy.calls
    later = model.astream(ASKED)
    await anext(later)
    assert policy.held
    await later.aclose()
    assert policy.held == set()
    assert policy.calls == 2 * once
    chained = (RunnableLambda(str) | model).stream(ASKED)
    next(chained)
    assert policy.held
    chained.close()
    assert policy.held == set()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"cycles": 0}, r"a plain sample \(cycles=0\) is decoded in one piece"),
        ({"selector": "none"}, r"with selector='none' every beam is decoded to its end in one piece"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            r"with tools, what is written may turn out to be",
        ),
        ({"streaming_mode": "comitted"}, r"unknown streaming_mode 'comitted': did you mean 'committed'\?"),
    ],
)
async def test_where_nothing_could_be_committed_it_is_refused(settings: dict[str, Any], reason: str) -> None:
    model = model_of().bind(**{"streaming_mode": "committed", **settings})
    with pytest.raises(ConfigError, match=reason):
        list(model.stream(ASKED))
    with pytest.raises(ConfigError, match=reason):
        [chunk async for chunk in model.astream(ASKED)]
    with pytest.raises(ConfigError, match=r"streaming_mode"):
        DarwinChatModel(search=search_of(), streaming_mode="comitted")


def test_a_bypass_streams_its_plain_sample() -> None:
    model = DarwinChatModel(search=search_of(), streaming_mode="committed", bypass=lambda messages: True)
    assert "".join(chunk.text for chunk in model.stream(ASKED, seed=5)) == model.invoke(ASKED, seed=5).text


def test_the_end_of_a_text_waits_where_it_could_begin_a_stop_string() -> None:
    committed = Committed(Request.of(ASKED, stop=("END",)), SearchConfig(cycles=1, seed=5))
    population = Population.start(Request.of(ASKED), mutations=2)
    texts = ["abc \N{REPLACEMENT CHARACTER}", "abc ENERGY", "abc ENEMY"]
    safe = []
    for text in texts:
        beams = {i: beam.model_copy(update={"text": text, "reward": 1.0}) for i, beam in enumerate(population.beams)}
        event = Event(operator="select", cycle=0, step=0, delta={})
        committed.after(event, population.with_beams(beams))
        safe.append(committed.fresh())
    assert safe == ["abc", " ENER", ""]


def test_nothing_is_safe_before_the_last_cycle() -> None:
    """The first cycle agrees on every word, and the second one, on others."""

    def later_others(request: Request, instruction: str, n: int, seed: int) -> list[str]:
        asked.append(instruction)
        return [request.instruction if len(asked) == 1 else "Version 2."] * n

    class OneVoice(Babbler):
        def generate(self, rows: Any) -> Any:
            return super().generate([replace(row, seed=1) for row in rows])

    for scale in (1.0, -1.0):
        asked: list[str] = []
        score = ScriptedScorer(reward=lambda text, scale=scale: scale * sum(map(ord, text)))
        search = search_of(policy=OneVoice(0.0), mutator=later_others, scorer=score)
        model, cycles = DarwinChatModel(search=search, streaming_mode="committed"), []
        settings = {**COMMITTING, "cycles": 2, "on_event": lambda event, _, cycles=cycles: cycles.append(event.cycle)}
        seen = [cycles[-1] for _ in model.stream(ASKED, **settings)]
        assert set(seen) == {1}
    settings = {**COMMITTING, "cycles": 1}
    search = search_of(policy=OneVoice(0.0), mutator=lambda r, i, n, s: [r.instruction] * n)
    assert len(list(DarwinChatModel(search=search, streaming_mode="committed").stream(ASKED, **settings))) > 4


def test_words_that_a_failure_throws_away_are_not_told() -> None:
    scored: list[int] = []

    def score(request: Request, responses: Sequence[Response]) -> list[float]:
        scored.append(1)
        if len(scored) > 3:
            raise EndpointConnectionError("refused")
        return [1.0] * len(responses)

    search = search_of(policy=Parrot(0.0, 0), scorer=score, config=SearchConfig(**COMMITTING))
    chunks = list(DarwinChatModel(search=search, streaming_mode="committed").stream(ASKED))
    assert len("".join(chunk.text for chunk in chunks)) == 15


def test_equal_leaders_must_all_agree() -> None:
    """An open beam may take the state of either, and then stand before the other."""
    committed = Committed(Request.of(ASKED), SearchConfig(cycles=1, seed=5))
    population = Population.start(Request.of(ASKED), mutations=4)
    states: list[dict[str, Any]] = [
        {"text": "one way on", "reward": 1.0},
        {"text": "one or other", "reward": 5.0, "finish_reason": "stop"},
        {"text": "one way", "reward": 5.0, "finish_reason": "stop"},
        {"text": "no", "reward": 4.0, "finish_reason": "stop"},
    ]
    beams = {i: population.beams[i].model_copy(update=state) for i, state in enumerate(states)}
    committed.after(Event(operator="select", cycle=0, step=0, delta={}), population.with_beams(beams))
    assert committed.fresh() == "one"


def test_a_policy_that_takes_its_words_back_is_found_out() -> None:
    class Fickle(Parrot):
        def generate(self, rows: Any) -> Any:
            found = super().generate(rows)
            return [replace(c, text=c.text.upper()) if len(c.tokens) > 20 else c for c in found]

    model = DarwinChatModel(search=search_of(policy=Fickle(0.0, 0)), streaming_mode="committed")
    with pytest.raises(OperatorError, match=r"the policy changed what it had written"):
        list(model.stream(ASKED, **COMMITTING))


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
