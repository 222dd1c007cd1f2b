"""Judges and rewording models made of LangChain parts: they fail, are tried again, and their tokens count."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import PrivateAttr

from darwin_align import DarwinChatModel, DarwinSearch, Request, Response, SearchResult
from darwin_align.backends.endpoint import JudgeScorer
from darwin_align.core import Usage
from darwin_align.core.errors import RewardError, ScoreReplyError
from darwin_align.operators import JudgeIntent
from darwin_align.operators.prompts import parse_list
from tests.core.kit import ASKED, WORDS, Babbler, reword

SMALL: dict[str, Any] = {"max_new_tokens": 18, "replacement_period": 6, "cycles": 2, "seed": 11}
PROMPT = ChatPromptTemplate.from_template("Rate {response} as an answer to {instruction}.")
URL = httpx.Request("POST", "http://judge.test/v1")


class Speaker(BaseChatModel):
    """Says what a function says of the prompt, and that it read 90 tokens and wrote 11."""

    say: Callable[[str], str]
    streams: bool = False
    _prompts: list[str] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "speaker"

    @property
    def prompts(self) -> list[str]:
        return self._prompts

    def _message(self, messages: list[BaseMessage], kind: Any) -> Any:
        self._prompts.append(messages[-1].text)
        usage = {"input_tokens": 90, "output_tokens": 11, "total_tokens": 101}
        return kind(content=self.say(messages[-1].text), usage_metadata=usage)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._message(messages, AIMessage))])


class StreamingSpeaker(Speaker):
    """Its replies come in chunks, whoever asks."""

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=self._message(messages, AIMessageChunk))

    async def _astream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for chunk in self._stream(messages):
            yield chunk

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        message = self._message(messages, AIMessage)
        return ChatResult(generations=[ChatGeneration(message=message)])


def search(scorer: Any, **parts: Any) -> DarwinSearch:
    given = {"policy": Babbler(0.1), "scorer": scorer, "mutator": reword, "guard": None, **parts}
    return DarwinSearch(**given)


def drive(made: DarwinSearch, how: str, **settings: Any) -> SearchResult:
    if how == "invoke":
        return made.invoke(ASKED, **{**SMALL, **settings})
    return asyncio.run(made.ainvoke(ASKED, **{**SMALL, **settings}))


def rating(text: str) -> str:
    return str(len(text) % 7)


def failing(error: Exception, good: int) -> Callable[[str], str]:
    """Answers so many calls, then fails for ever."""
    calls = [0]

    def say(text: str) -> str:
        calls[0] += 1
        if calls[0] > good:
            raise error
        return rating(text)

    return say


FAULTS = [
    openai.RateLimitError("slow down", response=httpx.Response(429, request=URL), body=None),
    openai.APIConnectionError(request=URL),
    TimeoutError("60 s"),
    ConnectionError("reset"),
    OutputParserException("no score in it"),
    ValueError("a value"),
]


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_judge_chain_that_fails_for_good_ends_a_search_with_the_best_so_far(error: Exception, how: str) -> None:
    def chain(good: int) -> Runnable[Any, Any]:
        return PROMPT | Speaker(say=failing(error, good)) | StrOutputParser()

    result = drive(search(chain(12)), how)
    assert result.stop_reason == "failure: score"
    assert (result.failure or "").startswith(type(error).__name__)
    assert result.reward is not None
    with pytest.raises(type(error)):
        drive(search(chain(0)), how)
    with pytest.raises(type(error)):
        drive(search(chain(12)), how, on_failure="raise")


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_one_failing_call_of_a_chain_is_made_again_by_itself(error: Exception, how: str) -> None:
    failed: set[str] = set()

    def say(text: str) -> str:
        if len(text) % 3 == 0 and text not in failed:
            failed.add(text)
            raise error
        return rating(text)

    whole = Speaker(say=rating)
    undisturbed = drive(search(PROMPT | whole | StrOutputParser()), how)
    model = Speaker(say=say)
    result = drive(search(PROMPT | model | StrOutputParser()), how)
    assert failed
    assert result.failure is None
    assert (result.text, result.reward) == (undisturbed.text, undisturbed.reward)
    assert len(model.prompts) == len(whole.prompts) + len(failed)  # what succeeded was not called again
    start = f"the scoring chain failed and was called once more: {type(error).__name__}"
    assert result.notes
    assert all(note.startswith(start) for note in result.notes)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_a_reply_without_a_number_is_requested_again_and_then_ends_the_search(how: str) -> None:
    calls = [0]

    def once(text: str) -> str:
        calls[0] += 1
        return "Seven, I think" if calls[0] == 13 else rating(text)

    assert drive(search(PROMPT | Speaker(say=once)), how).failure is None
    calls[0] = -10_000
    talks = PROMPT | Speaker(say=lambda text: rating(text) if (calls.append(1) or len(calls)) < 14 else "Seven")
    result = drive(search(talks), how)
    assert result.failure == (
        "ScoreReplyError: the scoring chain answered 'Seven', which is no number: end it with a parser that returns one"
    )
    with pytest.raises(ScoreReplyError):
        drive(search(PROMPT | Speaker(say=lambda text: "Seven")), how)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_function_is_called_once_more_and_a_bug_in_it_is_logged(
    asynchronous: bool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    def make(error: Exception, fails: Callable[[int], bool]) -> tuple[Any, list[int]]:
        calls: list[int] = []

        def score(request: Request, responses: Sequence[Response]) -> list[float]:
            calls.append(len(responses))
            if fails(len(calls)):
                raise error
            return [float(len(r.text) % 7) for r in responses]

        async def ascore(request: Request, responses: Sequence[Response]) -> list[float]:
            await asyncio.sleep(0)
            return score(request, responses)

        return (ascore if asynchronous else score), calls

    function, calls = make(TimeoutError("60 s"), lambda call: call == 3)
    result = drive(search(function), how)
    assert result.failure is None
    assert result.notes == ("the scorer's function failed and was called once more: TimeoutError: 60 s",)
    assert calls[2] == calls[3]
    function, calls = make(TypeError("a bug"), lambda call: call >= 3)
    caplog.set_level(logging.WARNING)
    result = drive(search(function), how)
    assert (result.failure, len(calls)) == ("TypeError: a bug", 3)
    [record] = [record for record in caplog.records if record.name == "darwin_align.search"]
    assert record.exc_info
    assert "in score" in caplog.text


def listed(text: str) -> str:
    return "\n".join(f"{i}. {text} {word}." for i, word in enumerate(WORDS, 1))


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_a_mutator_chain_that_fails_ends_a_search_with_the_best_so_far(how: str) -> None:
    rewrite = ChatPromptTemplate.from_template("Reword {instruction} {n} times.")
    say = failing(FAULTS[0], 1)
    model = Speaker(say=lambda text: say(text) and listed("Explain how to brew green tea"))
    result = drive(search(lambda q, r: [1.0 * len(x.text) for x in r], mutator=rewrite | model), how)
    assert result.stop_reason == "failure: mutate"
    assert result.reward is not None


def test_rewards_that_break_the_contract_are_still_raised() -> None:
    calls: list[int] = []

    def score(request: Request, responses: Sequence[Response]) -> Any:
        calls.append(1)
        return [1.0] * len(responses) if len(calls) < 3 else [float("nan")] * len(responses)

    with pytest.raises(RewardError, match="is nan"):
        drive(search(score), "invoke")


# -- tokens


@pytest.mark.parametrize("kind", [Speaker, StreamingSpeaker])
@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_tokens_of_judges_count(how: str, kind: Any) -> None:
    def scorer_of(name: str, model: Speaker) -> Any:
        chain = PROMPT | model | StrOutputParser()
        scorers: dict[str, Any] = {
            "chain": chain,
            "judge": JudgeScorer(model=model),
            "judge of a chain": JudgeScorer(model=model | StrOutputParser()),
            "lambda in a chain": PROMPT | RunnableLambda(lambda prompt: model.invoke(prompt).text),
            "function": lambda q, responses: [
                float(chain.invoke({"response": r.text, "instruction": ""})) for r in responses
            ],
        }
        return scorers[name]

    for name in ("chain", "judge", "judge of a chain", "lambda in a chain", "function"):
        model = kind(say=(lambda text: f"Score: {rating(text)}") if "judge" in name else rating)
        result = drive(search(scorer_of(name, model)), how)
        assert len(model.prompts) > 5
        assert result.usage.reward_tokens == 101 * len(model.prompts), name
        assert SearchResult.from_json(result.to_json()).usage == result.usage


def mutation_usage(result: SearchResult) -> Usage:
    return sum((event.delta.usage for event in result.events if event.operator == "mutate"), Usage())


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("form", ["chat model", "chain", "function"])
def test_tokens_of_rewording_models_count_as_the_policys(form: str, how: str) -> None:
    model = Speaker(say=lambda text: listed("Explain how to brew green tea"))
    rewrite = ChatPromptTemplate.from_template("Reword {instruction} {n} times.")
    mutators: dict[str, Any] = {
        "chat model": model,
        "chain": rewrite | model,
        "function": lambda q, text, n, seed: parse_list(model.invoke(text).text)[:n],
    }
    result = drive(search(lambda q, r: [1.0] * len(r), mutator=mutators[form]), how)
    calls = len(model.prompts)
    assert calls
    assert mutation_usage(result) == Usage(prefilled_tokens=90 * calls, decoded_tokens=11 * calls, policy_calls=calls)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_tokens_of_a_judging_guard_count_as_the_policys(how: str) -> None:
    guard = Speaker(say=lambda text: "Yes.")
    result = drive(search(lambda q, r: [1.0] * len(r), guard=JudgeIntent(judge=guard)), how)
    calls = len(guard.prompts)
    assert calls
    assert mutation_usage(result) == Usage(prefilled_tokens=90 * calls, decoded_tokens=11 * calls, policy_calls=calls)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_tokens_of_a_judge_that_is_a_search_itself_count_once(how: str) -> None:
    inner = Speaker(say=rating)
    seen: list[int] = []

    class Watch(BaseCallbackHandler):
        def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
            [[generation]] = response.generations
            if generation.message.response_metadata.get("darwin"):
                seen.append(generation.message.usage_metadata["total_tokens"])

    nested = (
        DarwinChatModel(search=search(PROMPT | inner)).bind(**{**SMALL, "cycles": 1}).with_config(callbacks=[Watch()])
    )
    judge = PROMPT | nested | RunnableLambda(lambda message: float(len(message.text)))
    result = drive(search(judge), how, cycles=1)
    assert inner.prompts
    assert result.usage.reward_tokens == sum(seen) > 0
