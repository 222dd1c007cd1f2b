"""Whole searches over real servers: the embedded policy far away, its reward model here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from statistics import mean
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError, ModelConnectionError, ModelNotFoundError
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from benchmarks.servers.launch import Server, free_port
from darwin_align import DarwinChatModel, DarwinSearch, SearchConfig, SearchResult
from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.core.errors import ConfigError, EndpointConnectionError, ReplayError, RequestError
from darwin_align.core.types import Sampling
from darwin_align.pocket import held_out, policy_path
from darwin_align.pocket.pair import pocket_search
from tests.backends.endpoint.fixtures.policy.chain import chain_servers
from tests.backends.endpoint.fixtures.policy.documented import QUICK
from tests.backends.local.kit import lineage

QUESTION = "How do I brew green tea?"
STRATEGIES = {
    "ids": "by token ids",
    "text": "by text behind the chat template",
    "prefill": "by the beginning of the assistant's turn",
}
IDENTITY = SearchConfig(mutator="identity", cycles=1, mutations=4, replacement_period=6, max_new_tokens=24)


@pytest.fixture(scope="module")
def pocket() -> DarwinSearch:
    return pocket_search(SearchConfig(cycles=1))


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DarwinSearch]:
    """A search whose noise is the seed's and no rounding's: it repeats itself exactly."""
    with chain_servers(tmp_path_factory.mktemp("chain")) as chain:
        policy = EndpointPolicy(chain.url, tokenizer=chain.folder, limits=QUICK)
        hot = Sampling(temperature=4.0, top_k=None)
        scorer = ScriptedScorer(reward=lambda text: float(sum(text.encode()) % 101))
        yield DarwinSearch(policy=policy, scorer=scorer, sampling=hot, config=IDENTITY)


def remote(pocket: DarwinSearch, url: str, strategy: str = "auto", **options: Any) -> DarwinSearch:
    options = {"tokenizer": policy_path(), "limits": QUICK, **options}
    policy = EndpointPolicy(url, continuation=strategy, **options)  # type: ignore[arg-type]
    return over(pocket, policy)


def over(pocket: DarwinSearch, policy: Any) -> DarwinSearch:
    parts = {name: getattr(pocket, name) for name in ("scorer", "mutation_prompt", "guard", "config")}
    return DarwinSearch(policy=policy, **parts)


def check_whole(result: SearchResult) -> None:
    """It went to its end, and nothing in it is empty or open."""
    assert result.stop_reason == "cycles"
    assert result.failure is None
    assert result.text.strip()
    assert all(beam.finished and beam.reward is not None for beam in result.ranking)
    assert len(result.ranking) > 1
    assert "�" not in result.text
    assert result.reward is not None
    assert result.first_response.reward is not None
    assert result.reward >= result.first_response.reward


def gains(results: list[SearchResult]) -> list[float]:
    return [(result.reward or 0.0) - (result.first_response.reward or 0.0) for result in results]


def exactly(result: SearchResult) -> list[Any]:
    return [result.text, result.reward, [lineage(beam) for beam in result.ranking]]


# -- whole searches


@pytest.mark.parametrize(
    "strategy", [name if i < 1 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(STRATEGIES)]
)
def test_searches_over_llama(pocket, llama: Server, strategy):
    search = remote(pocket, llama.url, strategy)
    results = [search.invoke(QUESTION, seed=seed) for seed in range(4)]
    for result in results:
        check_whole(result)
        notes = [event.delta.notes for event in result.events if event.operator in ("mutate", "decode")]
        assert STRATEGIES[strategy] in notes[0][0]
        assert [len(some) for some in notes[2:]] == [0] * (len(notes) - 2)
        assert result.usage.decoded_tokens > 300
        assert result.usage.prefilled_tokens > 0
        assert bool(result.best.tokens) == (strategy == "ids")
        assert any(beam.instruction != QUESTION for beam in result.ranking)  # the remote policy reworded it
    assert mean(gains(results)) > 1.0
    assert len({result.text for result in results}) > 1


@pytest.mark.slow
def test_searches_over_transformers_serve(pocket, serve: Server):
    search = remote(pocket, serve.url, tokenizer=None, model=str(policy_path()))
    results = [search.invoke(question, seed=1, mutations=3) for question in (QUESTION, "How do I bake bread?")]
    for result in results:
        check_whole(result)
        assert "(transformers) continues" in result.events[0].delta.notes[0]
        assert "by text behind the chat template; not by token ids" in result.events[0].delta.notes[0]
    assert mean(gains(results)) > 0.5


@pytest.mark.slow
def test_many_searches_at_once(pocket, llama: Server):
    questions = list(held_out(8))
    results = remote(pocket, llama.url).batch(questions, seed=3)
    assert [result.request.instruction for result in results] == questions
    for result in results:
        check_whole(result)
    assert mean(gains(results)) > 1.0


def test_a_greedy_search_is_the_local_one_token_for_token(pocket, llama: Server):
    local = over(pocket, LocalPolicy.from_pretrained(policy_path(), dtype="float32", device="cpu", threads=1))
    settings = {"mutator": "identity", "temperature": 0.0, "seed": 1}
    for question in (QUESTION, *held_out(3)):
        found = remote(pocket, llama.url, "ids").invoke(question, **settings)
        expected = local.invoke(question, **settings)
        assert [lineage(beam) for beam in found.ranking] == [lineage(beam) for beam in expected.ranking]
        assert found.reward == pytest.approx(expected.reward, abs=1e-4)
        assert found.usage.decoded_tokens == expected.usage.decoded_tokens
        assert len(found.best.tokens) > 20


# -- the same again


def test_sync_async_and_in_a_batch(chained):
    expected = [chained.invoke(QUESTION, seed=seed) for seed in range(4)]
    assert len({result.text for result in expected}) > 1

    async def asynchronously() -> list[SearchResult]:
        return list(await asyncio.gather(*(chained.ainvoke(QUESTION, seed=seed) for seed in range(4))))

    again = asyncio.run(asynchronously())
    assert [exactly(result) for result in again] == [exactly(result) for result in expected]
    batch = chained.batch([QUESTION] * 8, seed=2)
    assert [exactly(result) for result in batch] == [exactly(expected[2])] * 8


def test_recorded_events_are_replayed_without_a_server_and_resumed_with_one(chained):
    result = chained.invoke(QUESTION, seed=5)
    gone = EndpointPolicy(f"http://127.0.0.1:{free_port()}", tokenizer=chained.policy._options.tokenizer, limits=QUICK)
    parts = {name: getattr(chained, name) for name in ("scorer", "sampling", "config")}
    elsewhere = DarwinSearch(policy=gone, **parts)
    assert exactly(elsewhere.invoke(QUESTION, replay=result.events, seed=5)) == exactly(result)
    assert gone.endpoint.counts["requests"] == 0
    for done in (1, len(result.events) // 2):
        sent = chained.policy.endpoint.counts["requests"]
        assert exactly(chained.invoke(QUESTION, replay=result.events[:done], seed=5)) == exactly(result)
        assert chained.policy.endpoint.counts["requests"] > sent
    with pytest.raises(ReplayError):
        chained.invoke(QUESTION, replay=result.events, seed=6)


def test_a_search_goes_on_by_ids_alone(chained, llama: Server, pocket):
    """Events of a search by ids are no states of a server that is continued by text."""
    result = chained.invoke(QUESTION, seed=5)
    by_text = EndpointPolicy(llama.url, continuation="text", tokenizer=policy_path(), limits=QUICK)
    parts = {name: getattr(chained, name) for name in ("scorer", "sampling", "config")}
    with pytest.raises(RequestError, match="has token ids, which a server that is continued by text would lose"):
        DarwinSearch(policy=by_text, **parts).invoke(QUESTION, replay=result.events[:4], seed=5)


# -- settings that a server lacks


def test_a_default_is_left_out_where_a_server_lacks_it_and_a_setting_by_hand_does_not(pocket, llama: Server):
    search = remote(pocket, llama.url, dialect="openai")
    result = search.invoke(QUESTION, seed=1, cycles=0)
    assert result.text
    notes = [note for event in result.events for note in event.delta.notes]
    assert notes.count("openai servers take no top_k: left out") == 1
    with pytest.raises(ConfigError, match="top_k is no parameter of openai servers: set top_k=None"):
        search.invoke(QUESTION, seed=1, cycles=0, top_k=40)


# -- the face that LangChain sees


@pytest.mark.slow
def test_the_chat_model_over_a_remote_policy(pocket, llama: Server):
    model = DarwinChatModel(search=remote(pocket, llama.url))
    prompt = ChatPromptTemplate([("human", "How do I {task}?")])
    chain = prompt | model.bind(seed=1) | StrOutputParser()
    assert chain.invoke({"task": "brew green tea"}).strip()
    answers = chain.batch([{"task": "brew green tea"}, {"task": "bake bread"}] * 4)
    assert len(answers) == 8
    assert all(answer.strip() for answer in answers)

    async def asynchronously() -> Any:
        streamed = "".join([part async for part in chain.astream({"task": "bake bread"})])
        return streamed, await model.ainvoke("How do I bake bread?", seed=2)

    streamed, answer = asyncio.run(asynchronously())
    assert streamed.strip()
    metadata = answer.response_metadata["darwin"]
    assert metadata["reward"] >= metadata["first_reward"]
    assert metadata["failure"] is None
    assert answer.usage_metadata["output_tokens"] == metadata["usage"]["decoded_tokens"] > 300
    short = model.invoke(QUESTION, stop=["."], seed=3)
    assert short.content
    assert "." not in short.content


def test_what_cannot_be_used_is_langchains_error_too(pocket, llama: Server):
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ModelConnectionError, match="Is base_url right, and does the server run") as raised:
        DarwinChatModel(search=remote(pocket, nobody)).invoke(QUESTION)
    assert isinstance(raised.value, EndpointConnectionError)
    with pytest.raises(ModelNotFoundError, match="has no model 'nope'"):
        DarwinChatModel(search=remote(pocket, llama.url, model="nope")).invoke(QUESTION)
    scorerless = {"scorer": ScriptedScorer(), "config": SearchConfig(mutator="identity", cycles=1)}
    policy = EndpointPolicy(llama.url, tokenizer=policy_path(), limits=QUICK)
    with pytest.raises(ContextOverflowError, match="no room for an answer in the model's context of 1024 tokens"):
        DarwinChatModel(policy=policy, **scorerless).invoke("Explain every step in order. " * 300)


def test_tokens_are_counted_here_where_the_tokenizer_is_known(pocket, llama: Server):
    counted = DarwinChatModel(search=remote(pocket, llama.url, "ids")).get_token_ids("Brew it for two minutes.")
    assert counted == DarwinChatModel(search=pocket).get_token_ids("Brew it for two minutes.")
    assert len(counted) > 3
    unknown = over(pocket, EndpointPolicy(llama.url, continuation="prefill", limits=QUICK))
    with pytest.raises(ConfigError, match=r"EndpointPolicy has no tokenizer here .*tokenizer=…"):
        DarwinChatModel(search=unknown).get_num_tokens("Hello")
