"""Formats and forced calls on llama.cpp's own server: what the local policy writes under them, and whole searches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, convert_to_messages
from langchain_core.tools import tool
from pydantic import BaseModel

from benchmarks.servers.launch import Server, llama_server
from benchmarks.servers.proxy import FaultProxy
from darwin_align import DarwinChatModel, DarwinSearch, SearchConfig, SearchResult
from darwin_align.backends.endpoint import EndpointPolicy, Limits
from darwin_align.backends.endpoint.constrained import most_requests
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.types import Request, Sampling
from darwin_align.formats.verdicts import format_violation
from darwin_align.operators import ToolCallScorer, WeightedSum
from darwin_align.operators.messages import from_langchain
from darwin_align.operators.policy import Continuation, Row
from darwin_align.operators.portal import call
from darwin_align.pocket import policy_path
from darwin_align.pocket.pair import pocket_search
from tests.backends.endpoint.fixtures.policy.documented import QUICK
from tests.backends.local.kit import lineage
from tests.backends.local.test_constraints import FORCE_HEAT, SCHEMAS, TOOLS, formed

GREEDY = Sampling(temperature=0.0, top_k=None)
HOT = Sampling(temperature=1.0, top_k=None)
QUESTION = "Heat the kettle to 80 degrees."
ASKED: dict[str, dict[str, Any]] = {
    **{name: {"response_format": formed(schema)} for name, schema in SCHEMAS.items()},
    "object": {"response_format": {"type": "json_object"}},
    "some call": {"tools": TOOLS, "tool_choice": "required"},
    "this call": {"tools": TOOLS, "tool_choice": FORCE_HEAT},
    "free calls": {"tools": TOOLS},
    "a call or a format": {"tools": TOOLS, "response_format": formed(SCHEMAS["nested"])},
}
CONFIG = SearchConfig(cycles=1, mutations=3, replacement_period=5, max_new_tokens=60, mutator="identity")


class Leaf(BaseModel):
    name: Literal["green", "black", "white"]
    minutes: int


class Tea(BaseModel):
    """How to make a tea."""

    leaf: Leaf
    hot: bool


@tool
def set_lamp(room: str, color: Literal["red", "green", "blue"]) -> str:
    """Set the color of the lamp in a room."""
    return f"{room}: {color}"


@pytest.fixture(scope="module")
def local() -> LocalPolicy:
    return LocalPolicy.from_pretrained(policy_path(), dtype="float32", device="cpu", threads=1)


@pytest.fixture(scope="module")
def policy(llama: Server) -> EndpointPolicy:
    return EndpointPolicy(llama.url, tokenizer=policy_path(), continuation="ids", limits=QUICK)


@pytest.fixture(scope="module")
def alone(embedded_gguf) -> Iterator[Server]:
    """One slot: under a seed it repeats itself."""
    with llama_server(embedded_gguf, slots=1, context=1024) as server:
        yield server


def asking(sampling: Sampling = GREEDY, *, max_tokens: int = 60, seed: int = 1, **fields: Any) -> Row:
    return Row(Request.of(QUESTION, sampling=sampling, **fields), max_tokens, seed)


def generated(policy: Any, *rows: Row) -> list[Continuation]:
    reply = call(policy.generate, rows)
    return list(getattr(reply, "answer", reply))


def facts(found: Continuation) -> tuple[Any, ...]:
    return found.text, found.tokens, found.new_tokens, found.finish_reason


def whole(policy: Any, start: Row, chunk: int) -> Continuation:
    found, most = Continuation(""), start.max_tokens
    while not found.finish_reason and len(found.tokens) < most:
        step = min(chunk, most - len(found.tokens))
        [found] = generated(policy, replace(start, tokens=found.tokens, max_tokens=step))
    return found


def search_of(policy: Any, temperature: float = 0.7, **settings: Any) -> DarwinSearch:
    """The embedded reward model, which knows nothing of calls, and points for calls that can be made."""
    pocket = pocket_search(CONFIG)
    scorer = WeightedSum(scorers=(pocket.scorer, ToolCallScorer(policy=policy)), weights=(1.0, 10.0))
    config = CONFIG.model_copy(update=settings)
    sampling = Sampling(temperature=temperature)
    return DarwinSearch(
        policy=policy, scorer=scorer, config=config, sampling=sampling, mutation_prompt=pocket.mutation_prompt
    )


# -- rows


def test_greedy_rows_are_the_local_ones_whole_and_in_chunks(policy, local):
    rows = {name: asking(**fields) for name, fields in ASKED.items()}
    expected = dict(zip(rows, generated(local, *rows.values()), strict=True))
    for name, found in zip(rows, generated(policy, *rows.values()), strict=True):
        assert facts(found) == facts(expected[name]), name
    for name in ("nested", "refs", "date", "some call", "free calls", "a call or a format"):
        for chunk in (3, 11):
            parts, best = whole(policy, rows[name], chunk), expected[name]
            assert (parts.text, parts.tokens, parts.finish_reason) == (best.text, best.tokens, best.finish_reason), name


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
def test_a_model_that_would_generate_text_keeps_the_format_and_calls_nothing(policy, local, sampling):
    fields = ASKED["a call or a format"]
    done = {"role": "tool", "content": "The kettle is at 80 degrees.", "tool_call_id": "abcdefgh1"}
    begun = {"name": "heat_kettle", "args": {"degrees": 80}, "id": "abcdefgh1", "type": "tool_call"}
    turns = from_langchain(convert_to_messages([("user", QUESTION), AIMessage("", tool_calls=[begun]), done]))
    rows = [Row(Request(conversation=turns, sampling=sampling, **fields), 4, seed) for seed in range(6)]
    for found in (*generated(local, *rows), *generated(policy, *rows)):
        assert found.text.startswith("{"), found.text


GROUNDED: dict[str, dict[str, Any]] = {
    "this call": {"tools": TOOLS, "tool_choice": "heat_kettle"},
    "free calls": {"tools": TOOLS},
    "nested": {"response_format": formed(SCHEMAS["nested"])},
}


@pytest.mark.parametrize("name", GROUNDED)
def test_grounded_rows_are_the_local_ones_whole_and_in_chunks(policy, local, name):
    row = asking(**GROUNDED[name], grounded="where_possible", grounded_in=(QUESTION, "Ada and Bo, 7 and 12."))
    [expected] = generated(local, row)
    [found] = generated(policy, row)
    assert facts(found) == facts(expected)
    parts = whole(policy, row, 4)
    assert (parts.text, parts.tokens, parts.finish_reason) == (expected.text, expected.tokens, expected.finish_reason)


def test_a_grounded_call_contains_what_was_given(policy):
    for seed in range(4):
        [found] = generated(policy, asking(HOT, seed=seed, grounded=True, **GROUNDED["this call"]))
        assert '"degrees": 80' in found.text


@pytest.mark.parametrize("penalty", [2.5, 0.7])
def test_a_repetition_penalty_is_that_of_the_local_policy_under_a_format_too(policy, local, penalty):
    penalised = GREEDY.model_copy(update={"repetition_penalty": penalty})
    rows = [asking(penalised, max_tokens=30, **ASKED[name]) for name in ("nested", "enum", "date", "refs", "this call")]
    assert [facts(found) for found in generated(policy, *rows)] == [facts(found) for found in generated(local, *rows)]


def test_stop_strings_are_those_of_the_local_policy_under_a_format_too(policy, local):
    rows = [asking(stop=stop, **ASKED["nested"]) for stop in (('"name"',), ("o",), ('": ', "x"))]
    assert [facts(found) for found in generated(policy, *rows)] == [facts(found) for found in generated(local, *rows)]


@pytest.mark.parametrize("temperature", [*(pytest.param(t, marks=pytest.mark.slow) for t in (0.7, 3.0)), 6.0])
def test_hot_rows_keep_their_formats(policy, temperature):
    """Tokens that nobody would guess: many of them are refused. At 6 by lists of all that may not come."""
    hot = Sampling(temperature=temperature, top_k=None)
    names = (
        ("array", "enum", "number") if temperature > 4 else ("nested", "array", "enum", "refs", "tuple", "some call")
    )
    rows = [asking(hot, seed=seed, max_tokens=160, **ASKED[name]) for name in names for seed in range(3)]
    sent = policy.endpoint.counts["requests"]
    found = generated(policy, *rows)
    assert policy.endpoint.counts["requests"] - sent <= len(rows) * most_requests(160)
    ended = [(row, one) for row, one in zip(rows, found, strict=True) if one.finish_reason == "stop"]
    assert len(ended) > 0.7 * len(rows)
    for row, one in ended:
        if row.request.tools:
            assert policy.tool_syntax.parse(one.text, TOOLS, finished=True).calls
        else:
            assert format_violation(row.request, one.text) == ""
    assert len({one.text for one in found}) > 0.5 * len(rows)


def test_a_trained_model_needs_no_second_request_for_a_call(policy):
    generated(policy, asking())
    sent = policy.endpoint.counts["requests"]
    [found] = generated(policy, asking(**ASKED["some call"]))
    assert json.loads(found.text[len("<tool_call>") : -len("</tool_call>")])["arguments"] == {"degrees": 80}
    assert policy.endpoint.counts["requests"] == sent + 1


# -- searches


@pytest.mark.parametrize("name", ["nested", "some call", "free calls", "object"])
def test_a_greedy_search_is_the_local_one_token_for_token(policy, local, name):
    settings = {"seed": 1, "temperature": 0.0, **ASKED[name]}
    found = search_of(policy).invoke(QUESTION, **settings)
    expected = search_of(local).invoke(QUESTION, **settings)
    assert [lineage(beam) for beam in found.ranking] == [lineage(beam) for beam in expected.ranking]
    assert found.reward == pytest.approx(expected.reward, abs=1e-4)
    assert found.usage.decoded_tokens >= expected.usage.decoded_tokens
    assert found.best.valid


@pytest.mark.slow
def test_structured_output_in_chunks_of_a_few_tokens(policy):
    """Beams replace each other within the JSON."""
    model = DarwinChatModel(search=search_of(policy, mutator="policy", max_new_tokens=90))
    assert model.profile is not None
    assert model.profile["structured_output"]
    for method in ("json_schema", "function_calling"):
        chain = model.with_structured_output(Tea, method=method)
        for seed in range(3):
            found = chain.invoke("How do I brew green tea?", seed=seed, temperature=1.0)
            assert isinstance(found, Tea)
    result = model.search.invoke("How do I brew green tea?", seed=1, response_format=formed(Tea.model_json_schema()))
    assert any(beam.ancestor for beam in result.ranking)
    assert {beam.valid for beam in result.ranking if beam.finish_reason == "stop"} == {True}
    assert any(event.operator == "mutate" and event.delta.beams for event in result.events)


def test_forced_and_free_calls(policy):
    model = DarwinChatModel(search=search_of(policy, temperature=0.0))
    forced = model.bind_tools([set_lamp], tool_choice="set_lamp").invoke("What a fine day.", seed=3)
    assert [made["name"] for made in forced.tool_calls] == ["set_lamp"]
    assert set_lamp.invoke(forced.tool_calls[0]["args"])
    assert not forced.invalid_tool_calls
    agent: Any = create_agent(model, [set_lamp])
    messages = agent.invoke({"messages": [("user", "Make the kitchen lamp red.")]})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[1].tool_calls[0]["args"] == {"room": "kitchen", "color": "red"}
    assert messages[3].content


def test_an_agent_answers_with_an_object(policy):
    model = DarwinChatModel(search=search_of(policy, temperature=0.0))
    agent: Any = create_agent(model, [], response_format=Tea)
    state = agent.invoke({"messages": [("user", "How do I brew green tea?")]})
    assert isinstance(state["structured_response"], Tea)


def outcome(result: SearchResult) -> list[Any]:
    return [result.text, [lineage(beam) for beam in result.ranking]]


def test_a_search_repeats_itself_and_faults_change_nothing(alone):
    settings = {"seed": 5, "temperature": 1.0, "response_format": formed(SCHEMAS["nested"])}
    options: dict[str, Any] = {"tokenizer": policy_path(), "extra_body": {"cache_prompt": False}}
    patient = Limits(attempts=12, read_timeout=2.0, attempt_timeout=3.0, connect_timeout=2.0, backoff=0.02)
    expected = outcome(search_of(EndpointPolicy(alone.url, limits=patient, **options)).invoke(QUESTION, **settings))
    with FaultProxy(alone.url, share=0.2, seed=2, faults=("reset", "cut", "unavailable", "half_json")) as proxy:
        remote = EndpointPolicy(proxy.url, limits=patient, **options)
        assert outcome(search_of(remote).invoke(QUESTION, **settings)) == expected
        counts = remote.endpoint.counts
        assert counts["requests"] > counts["answers"] > 50
    other = search_of(EndpointPolicy(alone.url, limits=patient, **options)).invoke(QUESTION, **{**settings, "seed": 6})
    assert outcome(other) != expected
