"""Servers that fail for good, under any operator, at any question: what a search does, and what a chat model raises."""

import asyncio
import logging
import pickle
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core import exceptions as langchain
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from pydantic import Field

from darwin_align import (
    DarwinChatModel,
    DarwinError,
    DarwinSearch,
    Population,
    Request,
    Response,
    SearchConfig,
    SearchResult,
)
from darwin_align.core import Event, errors
from darwin_align.core.errors import (
    ConfigError,
    ContextLengthError,
    EndpointConnectionError,
    EndpointError,
    EndpointRateLimitError,
    EndpointRequestError,
    EndpointServerError,
    EndpointTimeoutError,
    ModelLoadError,
    OperatorError,
    ReplayError,
    RequestError,
    RewardError,
)
from darwin_align.langchain import model_errors
from darwin_align.langchain.model_errors import (
    DarwinModelContextOverflowError,
    as_model_error,
    error_message,
    is_remote_fault,
)
from darwin_align.operators import TopKReplacement
from tests.core.kit import ASKED, Babbler, Case, Letters, cases, reword, timeless

SMALL: dict[str, Any] = {"max_new_tokens": 20, "replacement_period": 6, "cycles": 2, "seed": 11}
OPERATORS = ["mutate", "decode", "score", "select"]


@dataclass
class Outage:
    """All four operators ask here first: from so many questions on, each raises the error."""

    after: int | None = None
    error: Exception = field(default_factory=lambda: EndpointServerError("the server answers 503", status=503))
    asked: list[str] = field(default_factory=list)

    def ask(self, operator: str) -> None:
        self.asked.append(operator)
        if self.after is not None and len(self.asked) > self.after:
            raise self.error

    def search(self, *, ends: float = 0.1, asynchronous: bool = False, **parts: Any) -> DarwinSearch:
        outage = self

        class Policy(Babbler):
            def generate(self, rows: Any) -> Any:
                outage.ask("decode")
                return super().generate(rows)

        class AsyncPolicy(Babbler):
            async def generate(self, rows: Any) -> Any:
                await asyncio.sleep(0)
                outage.ask("decode")
                return super().generate(rows)

        class Selector(TopKReplacement):
            def select(self, *args: Any, **kwargs: Any) -> Any:
                outage.ask("select")
                return super().select(*args, **kwargs)

        def mutate(*args: Any) -> list[str]:
            outage.ask("mutate")
            return reword(*args)

        def score(request: Request, responses: Sequence[Response]) -> list[float]:
            outage.ask("score")
            return [Letters()(response.text) for response in responses]

        async def ascore(request: Request, responses: Sequence[Response]) -> list[float]:
            await asyncio.sleep(0)
            return score(request, responses)

        own = {
            "policy": (AsyncPolicy if asynchronous else Policy)(ends),
            "scorer": ascore if asynchronous else score,
            "mutator": mutate,
            "selector": Selector(),
        }
        return DarwinSearch(**{**own, "guard": None, **parts})


def drive(search: DarwinSearch, how: str, **settings: Any) -> SearchResult:
    if how == "invoke":
        return search.invoke(ASKED, **{**SMALL, **settings})
    return asyncio.run(search.ainvoke(ASKED, **{**SMALL, **settings}))


WHOLE = drive(Outage().search(), "invoke")
ASKS = [event.operator for event in WHOLE.events]
FIRST = ASKS.index("score") + 1
"""The question after the first rewards."""


def test_the_search_of_these_tests_asks_every_operator_early_and_late() -> None:
    assert len(ASKS) > 12
    assert set(ASKS[FIRST:]) == set(OPERATORS)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize("after", range(len(ASKS)))
def test_every_question_may_fail_for_good(how: str, asynchronous: bool, after: int) -> None:
    outage = Outage(after)
    search = outage.search(asynchronous=asynchronous)
    if after < FIRST:
        with pytest.raises(EndpointServerError) as caught:
            drive(search, how)
        assert caught.value is outage.error
        return
    result = drive(search, how)
    assert outage.asked == ASKS[: after + 1]  # and nobody after that
    assert result.stop_reason == f"failure: {ASKS[after]}"
    assert result.failure == result.events[-1].failure == "EndpointServerError: the server answers 503"
    assert result.reward is not None
    assert result.best.finished
    assert [event.delta for event in result.events[:-1]] == [event.delta for event in WHOLE.events[:after]]
    assert result.usage.seconds == pytest.approx(sum(event.seconds for event in result.events))

    stored = [Event.from_json(event.to_json()) for event in result.events]
    asleep = Outage(0)
    assert drive(asleep.search(), how, replay=stored) == result
    assert asleep.asked == []

    back = Outage()
    resumed = drive(back.search(), how, replay=[event for event in stored if event.failure is None])
    assert timeless(resumed) == timeless(WHOLE)
    assert back.asked == ASKS[after:]


@given(cases(selectors=["top_k"]), st.data())
def test_whatever_the_search_it_breaks_off_replays_and_resumes(case: Case, data: st.DataObject) -> None:
    settings: dict[str, Any] = {name: getattr(case.config, name) for name in case.config.model_fields_set}
    settings = {name: value for name, value in settings.items() if name not in ("selector", "survivors")}
    how = data.draw(st.sampled_from(["invoke", "ainvoke"]))
    whole = drive(Outage().search(ends=case.ends), how, **settings)
    after = data.draw(st.integers(0, len(whole.events) - 1))
    outage = Outage(after)
    if not any(event.operator == "score" for event in whole.events[:after]):
        with pytest.raises(EndpointServerError):
            drive(outage.search(ends=case.ends), how, **settings)
        return
    result = drive(outage.search(ends=case.ends), how, **settings)
    assert result.stop_reason == f"failure: {whole.events[after].operator}"
    assert result.reward is not None
    assert drive(Outage(0).search(ends=case.ends), how, replay=result.events, **settings) == result
    resumed = drive(Outage().search(ends=case.ends), how, replay=result.events[:-1], **settings)
    assert timeless(resumed) == timeless(whole)


ENDPOINT = [getattr(errors, name) for name in errors.__all__ if name.startswith("Endpoint")]
MODEL = [
    kind
    for kind in vars(langchain).values()
    if isinstance(kind, type) and issubclass(kind, langchain.ModelError) and kind is not langchain.ContextOverflowError
]
TRANSPORT = [
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadTimeout,
    httpx.RemoteProtocolError,
    httpx.ReadError,
    httpx.TransportError,
]
REMOTE = [kind("no use") for kind in (*ENDPOINT, *MODEL, *TRANSPORT, model_errors.DarwinModelTimeoutError)]
OTHERS = [
    kind("no use")
    for kind in (
        ConfigError,
        RequestError,
        ContextLengthError,
        DarwinModelContextOverflowError,
        langchain.ContextOverflowError,
        langchain.LangChainException,
        OperatorError,
        RewardError,
        ReplayError,
        ModelLoadError,
        DarwinError,
        httpx.InvalidURL,
        TypeError,
        ValueError,
        RuntimeError,
        ConnectionError,
        TimeoutError,
    )
]


def name_of(given: Any) -> str | None:
    return type(given).__name__ if isinstance(given, Exception) else None


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("error", REMOTE, ids=name_of)
def test_remote_faults_end_a_search_or_raise_as_the_setting_says(error: Exception, how: str) -> None:
    assert is_remote_fault(error)
    result = drive(Outage(FIRST, error).search(), how)
    assert result.failure == f"{type(error).__name__}: no use"
    outage = Outage(FIRST, error)
    with pytest.raises(type(error)) as caught:
        drive(outage.search(), how, on_failure="raise")
    assert caught.value is error
    configured = outage.search(config=SearchConfig(on_failure="raise"))
    with pytest.raises(type(error)):
        drive(configured, how)
    assert drive(configured, how, replay=result.events[:-1], on_failure="best_so_far").failure == result.failure


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("error", OTHERS, ids=name_of)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_other_error_is_raised_or_ends_a_search_if_it_is_a_scorers_or_mutators(
    error: Exception, how: str, operator: str
) -> None:
    assert not is_remote_fault(error)
    outage = Outage(FIRST + ASKS[FIRST:].index(operator), error)
    breaks = isinstance(error, (OperatorError, ConfigError, ReplayError))
    if operator in ("score", "mutate") and not breaks:
        result = drive(outage.search(), how)
        assert (result.stop_reason, result.failure) == (f"failure: {operator}", f"{type(error).__name__}: no use")
        assert result.reward is not None
        return
    with pytest.raises(type(error)) as caught:
        drive(outage.search(), how)
    assert caught.value is error or type(error) is TimeoutError  # asyncio makes a new one of it


def test_an_answer_that_breaks_the_algorithm_is_no_remote_fault() -> None:
    calls: list[int] = []

    def score(request: Request, responses: Sequence[Response]) -> list[float]:
        calls.append(1)
        return [0.0] * (len(responses) - (len(calls) > 2))

    with pytest.raises(RewardError):
        drive(Outage().search(scorer=score), "invoke")


def test_a_watcher_that_fails_is_no_operator() -> None:
    def watch(event: Event, population: Population) -> None:
        if event.cycle == 1:
            raise httpx.ConnectError("the dashboard is gone")

    for how in ("invoke", "ainvoke"):
        with pytest.raises(httpx.ConnectError, match="dashboard"):
            drive(Outage().search(), how, on_event=watch)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_watchers_are_told_of_the_failure_last(how: str) -> None:
    told: list[tuple[Event, Population]] = []
    search = Outage(len(ASKS) - 2).search()
    result = drive(search, how, on_event=lambda event, population: told.append((event, population)))
    assert tuple(event for event, _ in told) == result.events
    assert told[-1][0].failure == result.failure
    assert told[-1][0].seconds > 0
    assert told[-1][1].beams == told[-2][1].beams
    assert told[-1][1].usage == result.usage
    again: list[Event] = []
    drive(search, how, replay=result.events, on_event=lambda event, _: again.append(event))
    assert tuple(again) == result.events


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_one_warning_says_what_to_do(how: str, caplog: pytest.LogCaptureFixture) -> None:
    def warnings() -> list[str]:
        found = [r.getMessage() for r in caplog.records if r.name == "darwin_align.search"]
        assert all(r.levelno == logging.WARNING for r in caplog.records if r.name == "darwin_align.search")
        caplog.clear()
        return found

    caplog.set_level(logging.DEBUG)
    result = drive(Outage(len(ASKS) - 1).search(), how)
    [text] = warnings()
    event = result.events[-1]
    assert text.startswith(
        f"{event.operator} failed for good in cycle {event.cycle}, step {event.step} "
        "(EndpointServerError: the server answers 503): the search ends with the best scored answer so far"
    )
    assert "replay the events before this one" in text
    drive(Outage(0).search(), how, replay=result.events)
    drive(Outage().search(), how)
    for failing in ({"on_failure": "raise"}, {"cycles": 0}):
        with pytest.raises(EndpointServerError):
            drive(Outage(1).search(), how, **failing)
    assert warnings() == []


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_what_a_policy_keeps_is_released_when_a_search_breaks_off(how: str) -> None:
    released: list[str] = []

    class Holding(Babbler):
        def release(self, search_id: str) -> None:
            released.append(search_id)

    drive(Outage(2).search(policy=Holding()), how)
    assert len(released) == 1


def test_a_recorded_failure_is_refused_where_nothing_was_scored() -> None:
    events = WHOLE.events[:1]
    forged = Event(**{**dict(WHOLE.events[1]), "delta": {}, "failure": "gone"})
    with pytest.raises(ReplayError, match="nothing was scored that the search could end with: leave the event out"):
        drive(Outage().search(), "invoke", replay=[*events, forged])
    result = drive(Outage(FIRST).search(), "invoke")
    with pytest.raises(ReplayError, match="more events were recorded than this search has questions"):
        drive(Outage().search(), "invoke", replay=[*result.events, WHOLE.events[FIRST]])


def test_several_searches_at_once_break_off_each_for_itself() -> None:
    outage = Outage()

    def score(request: Request, responses: Sequence[Response]) -> list[float]:
        if "bread" in request.instruction and any(len(response.text) > 8 for response in responses):
            raise EndpointTimeoutError("no answer in 60 s")
        return [Letters()(response.text) for response in responses]

    search = outage.search(scorer=score, ends=0.0)
    one, two, three = search.batch([ASKED, "How do I bake bread?", ASKED], **SMALL)
    assert (one.failure, three.failure) == (None, None)
    assert two.failure == "EndpointTimeoutError: no answer in 60 s"
    assert timeless(one) == timeless(three) == timeless(search.invoke(ASKED, **SMALL))


class Judge(BaseChatModel):
    """A user's chat model that judges by the letters of what it is shown, until its server is gone."""

    answers: int
    error: Exception
    calls: list[int] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "judge"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        self.calls.append(1)
        if len(self.calls) > self.answers:
            raise self.error
        return ChatResult(generations=[ChatGeneration(message=AIMessage(str(Letters()(messages[-1].text))))])


def judged_by(answers: int, error: Exception) -> DarwinSearch:
    chain = ChatPromptTemplate.from_template("{response}") | Judge(answers=answers, error=error)
    return Outage().search(scorer=chain | StrOutputParser())


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_a_users_chat_model_may_be_the_judge_whose_server_is_gone(how: str) -> None:
    error = langchain.ModelRateLimitError("slow down")
    result = drive(judged_by(WHOLE.usage.reward_calls - 1, error), how)
    assert (result.stop_reason, result.failure) == ("failure: score", "ModelRateLimitError: slow down")
    assert result.best.reward == Letters()(result.text)
    with pytest.raises(langchain.ModelRateLimitError) as caught:
        drive(judged_by(3, error), how)
    assert caught.value is error


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_a_users_chat_model_may_be_the_mutator_whose_server_is_gone(how: str) -> None:
    mutator = Judge(answers=2, error=langchain.ModelAPIError("down"))  # it is asked twice a cycle
    result = drive(Outage().search(mutator=mutator), how)
    assert (result.stop_reason, result.failure) == ("failure: mutate", "ModelAPIError: down")
    assert result.best.finished
    with pytest.raises(langchain.ModelAPIError):
        drive(Outage().search(mutator=Judge(answers=0, error=langchain.ModelAPIError("down"))), how)


def test_a_real_server_that_is_gone() -> None:
    """What httpx raises where nobody listens, from a scorer that a user wrote."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    calls: list[int] = []

    async def score(request: Request, responses: Sequence[Response]) -> list[float]:
        calls.append(1)
        if len(calls) > 2:
            async with httpx.AsyncClient() as client:
                await client.get(url)
        return [Letters()(response.text) for response in responses]

    search = Outage().search(scorer=score)
    result = drive(search, "invoke")
    assert (result.stop_reason, (result.failure or "").split(":")[0]) == ("failure: score", "ConnectError")
    with pytest.raises(httpx.ConnectError):
        drive(search, "invoke")
    with pytest.raises(langchain.ModelConnectionError, match="ConnectError: ") as caught:
        DarwinChatModel(search=search).invoke(ASKED, **SMALL)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


FACES: dict[type[Exception], type[Exception]] = {
    errors.EndpointAuthenticationError: langchain.ModelAuthenticationError,
    errors.EndpointPermissionError: langchain.ModelPermissionDeniedError,
    errors.EndpointNotFoundError: langchain.ModelNotFoundError,
    errors.EndpointRequestError: langchain.ModelInvalidRequestError,
    errors.EndpointRateLimitError: langchain.ModelRateLimitError,
    errors.EndpointServerError: langchain.ModelAPIError,
    errors.EndpointConnectionError: langchain.ModelConnectionError,
    errors.EndpointTimeoutError: langchain.ModelTimeoutError,
    errors.EndpointError: langchain.ModelAPIError,
}
RETRYABLE = {"EndpointRateLimitError", "EndpointServerError", "EndpointConnectionError", "EndpointTimeoutError"}


def chat_of(error: Exception) -> DarwinChatModel:
    return DarwinChatModel(search=Outage(0, error).search())


async def stream_all(model: Any) -> Any:
    return [chunk async for chunk in model.astream(ASKED, **SMALL)]


CALLS = {
    "invoke": lambda model: model.invoke(ASKED, **SMALL),
    "ainvoke": lambda model: asyncio.run(model.ainvoke(ASKED, **SMALL)),
    "stream": lambda model: list(model.stream(ASKED, **SMALL)),
    "astream": lambda model: asyncio.run(stream_all(model)),
    "batch": lambda model: model.batch([ASKED, ASKED], **SMALL),
    "abatch": lambda model: asyncio.run(model.abatch([ASKED, ASKED], **SMALL)),
    "generate": lambda model: model.generate([[HumanMessage(ASKED)]], **SMALL),
    "chain": lambda model: (ChatPromptTemplate.from_template("{q}") | model.bind(**SMALL)).invoke({"q": ASKED}),
}


def test_every_endpoint_error_has_its_face() -> None:
    assert FACES.keys() == set(ENDPOINT)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", FACES, ids=lambda kind: kind.__name__)
def test_the_chat_model_raises_what_is_ours_and_langchains(kind: type[EndpointError], call: str) -> None:
    error = kind("the server says no", status=418)
    with pytest.raises(FACES[kind]) as caught:
        CALLS[call](chat_of(error))
    found: Any = caught.value
    assert isinstance(found, kind)
    assert isinstance(found, DarwinError)
    assert found.__cause__ is error
    assert (str(found), found.status) == ("the server says no", 418)
    assert found.is_retryable == FACES[kind].is_retryable == (kind.__name__ in RETRYABLE or kind is EndpointError)
    assert not issubclass(type(found), tuple(other for other in set(FACES) - {kind} if not issubclass(kind, other)))
    with pytest.raises(kind) as plain:
        drive(chat_of(error).search, "invoke")
    assert plain.value is error


@pytest.mark.parametrize("call", CALLS)
def test_a_context_too_small_is_langchains_overflow_too(call: str) -> None:
    error = ContextLengthError("the prompt has 9000 tokens, the model reads 8192: shorten it")
    with pytest.raises(langchain.ContextOverflowError) as caught:
        CALLS[call](chat_of(error))
    assert isinstance(caught.value, ContextLengthError)
    assert isinstance(caught.value, RequestError)
    assert (str(caught.value), caught.value.__cause__) == (str(error), error)
    assert not caught.value.is_retryable


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (httpx.ReadTimeout(""), langchain.ModelTimeoutError, "ReadTimeout"),
        (httpx.ConnectTimeout("slow"), langchain.ModelTimeoutError, "ConnectTimeout: slow"),
        (httpx.ConnectError("refused"), langchain.ModelConnectionError, "ConnectError: refused"),
        (httpx.RemoteProtocolError("cut"), langchain.ModelConnectionError, "RemoteProtocolError: cut"),
    ],
    ids=name_of,
)
def test_what_users_own_clients_raise_has_a_face_too(
    error: Exception, kind: type[Exception], message: str, call: str
) -> None:
    with pytest.raises(kind) as caught:
        CALLS[call](chat_of(error))
    assert (str(caught.value), caught.value.__cause__) == (message, error)
    assert isinstance(caught.value, EndpointError)
    assert caught.value.status is None


@pytest.mark.parametrize("call", ["invoke", "ainvoke", "stream"])
@pytest.mark.parametrize(
    "error",
    [error for error in OTHERS if not isinstance(error, ContextLengthError)] + [kind("no") for kind in MODEL],
    ids=name_of,
)
def test_every_other_error_passes_the_chat_model_as_it_is(error: Exception, call: str) -> None:
    with pytest.raises(type(error)) as caught:
        CALLS[call](chat_of(error))
    assert caught.value is error or type(error) is TimeoutError
    assert as_model_error(error) is error


def faces() -> list[Any]:
    found = [getattr(model_errors, name) for name in model_errors.__all__ if name.startswith("DarwinModel")]
    assert len(found) == len(FACES) + 1
    return found


@pytest.mark.parametrize("kind", faces(), ids=lambda kind: kind.__name__)
def test_both_kinds_of_errors_survive_pickle(kind: type[Exception]) -> None:
    first = next(base for base in kind.__mro__[1:] if base.__module__ == "darwin_align.core.errors")
    for found in (as_model_error(_with_status(first("no"))), as_model_error(first("no")), first("no"), kind("no")):
        again = pickle.loads(pickle.dumps(found))  # noqa: S301 - our own
        assert type(again) is type(found)
        assert (str(again), again.args, vars(again)) == (str(found), found.args, vars(found))
    assert type(as_model_error(first("no"))) is kind
    nested = kind("no")  # of a chat model of ours that judges or rewords
    assert as_model_error(nested) is nested


def _with_status(error: Exception) -> Exception:
    if isinstance(error, EndpointError):
        error.status = 429
        assert as_model_error(error).status == 429  # type: ignore[attr-defined]
    return error


def test_a_kind_of_someone_elses_is_taken_for_the_nearest() -> None:
    class OverloadedError(EndpointServerError):
        def __init__(self, load: float) -> None:
            super().__init__(f"the load is {load}", status=529)
            self.load = load

    found: Any = as_model_error(OverloadedError(0.9))
    assert type(found) is model_errors.DarwinModelServerError
    assert (str(found), found.status, found.load) == ("the load is 0.9", 529, 0.9)


def test_messages_name_the_kind() -> None:
    assert error_message(EndpointRequestError("no such sampler")) == "EndpointRequestError: no such sampler"
    assert error_message(httpx.ReadTimeout("")) == "ReadTimeout"


def test_langchains_retries_and_fallbacks_know_what_is_raised() -> None:
    flaky = Outage(0, EndpointConnectionError("refused"))
    spare = DarwinChatModel(search=Outage().search())
    broken = DarwinChatModel(search=flaky.search())
    expected = spare.invoke(ASKED, **SMALL).text
    assert broken.with_fallbacks([spare], exceptions_to_handle=(langchain.ModelError,)).invoke(ASKED, **SMALL).text == (
        expected
    )
    retried = broken.with_retry(
        retry_if_exception_type=(langchain.ModelConnectionError,), stop_after_attempt=3, wait_exponential_jitter=False
    )
    flaky.asked.clear()
    with pytest.raises(EndpointConnectionError):
        retried.invoke(ASKED, **SMALL)
    assert flaky.asked == ["mutate"] * 3


@pytest.mark.parametrize("call", ["invoke", "ainvoke", "stream"])
def test_the_chat_models_metadata_shows_a_search_that_broke_off(call: str) -> None:
    def model() -> DarwinChatModel:
        outage = Outage(FIRST, EndpointRateLimitError("slow down", status=429))
        return DarwinChatModel(search=outage.search(ends=0.0))

    result = drive(model().search, "invoke")
    answer: Any = CALLS[call](model())
    answer = answer[0] if call == "stream" else answer
    darwin = answer.response_metadata["darwin"]
    assert answer.text == result.text
    assert darwin["stop_reason"] == f"failure: {ASKS[FIRST]}"
    assert darwin["failure"] == result.failure == "EndpointRateLimitError: slow down"
    assert answer.response_metadata["finish_reason"] == result.best.finish_reason == "length"
    with pytest.raises(langchain.ModelRateLimitError, match="slow down"):
        model().invoke(ASKED, **SMALL, on_failure="raise")
