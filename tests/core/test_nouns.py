"""Nouns: frozen, without unknown fields, to JSON and back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from darwin_align import Budget, Clause, Population, Request, Response, Sampling, SearchConfig, SearchResult
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.core import Ancestor, Archive, Beam, Entry, Event, Message, Step, ToolCall, Usage
from darwin_align.core.record import Record
from tests.core.kit import Case, cases, reword, search_of

TEXT = st.text(max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SMALL = st.integers(0, 2**40)
TOKENS = st.lists(st.integers(0, 200_000), max_size=5).map(tuple)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), SMALL, FLOATS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
CALLS = st.builds(ToolCall, name=TEXT, arguments=OBJECTS, id=st.none() | TEXT)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=TEXT | st.lists(OBJECTS, max_size=2).map(tuple),
    name=st.none() | TEXT,
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
    tool_call_id=st.none() | TEXT,
)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.just(0.0) | st.floats(0.01, 5),
    top_k=st.none() | st.integers(1, 100),
    top_p=st.none() | st.floats(0.01, 1),
    repetition_penalty=st.none() | st.floats(0.5, 2),
)
REQUESTS = st.builds(
    Request,
    conversation=st.lists(MESSAGES, max_size=3).map(tuple),
    tools=st.lists(OBJECTS, max_size=2).map(tuple),
    tool_choice=st.none() | TEXT | OBJECTS,
    response_format=st.none() | OBJECTS,
    stop=st.lists(TEXT, max_size=2).map(tuple),
    sampling=SAMPLINGS,
)
USAGES = st.builds(Usage, decoded_tokens=SMALL, prefilled_tokens=SMALL, reward_calls=SMALL, seconds=st.floats(0, 1e9))
BEAMS = st.builds(
    Beam,
    instruction=TEXT,
    first_response=st.booleans(),
    tokens=TOKENS,
    text=TEXT,
    length=SMALL,
    reward=st.none() | FLOATS,
    logprob=st.none() | FLOATS,
    log_weight=FLOATS,
    wins=SMALL,
    valid=st.booleans(),
    finish_reason=st.sampled_from([None, "stop", "length", "tool_calls"]),
    alive=st.booleans(),
    ancestor=st.none() | st.builds(Ancestor, beam=SMALL, step=SMALL),
)
STEPS = st.builds(Step, operator=st.sampled_from(["mutate", "decode", "score", "select"]), cycle=SMALL, seed=SMALL)
POPULATIONS = st.builds(
    Population,
    request=REQUESTS,
    parent=TEXT,
    beams=st.lists(BEAMS, max_size=3).map(tuple),
    step=STEPS,
    usage=USAGES,
    notes=st.lists(TEXT, max_size=2).map(tuple),
)
BUDGETS = st.builds(Budget, tokens=st.none() | st.integers(1, 9**9), seconds=st.none() | st.floats(0.1, 1e6))
CLAUSES = st.builds(Clause, text=TEXT.map(str.strip).filter(bool), worth=FLOATS)
ENTRIES = st.builds(Entry, instruction=TEXT, reward=FLOATS)
NOUNS = st.one_of(
    MESSAGES,
    REQUESTS,
    BEAMS,
    STEPS,
    POPULATIONS,
    USAGES,
    BUDGETS,
    ENTRIES,
    CLAUSES,
    st.builds(Archive, entries=st.lists(ENTRIES, max_size=3).map(tuple)),
    st.builds(Response, text=TEXT, tokens=TOKENS, finished=st.booleans()),
    cases().map(lambda case: case.config),
    st.builds(SearchConfig, mutations=st.integers(1, 6), beams_per_mutation=st.integers(1, 3), budget=BUDGETS),
    st.builds(SearchConfig, mutator=st.just("clauses"), clauses=st.lists(CLAUSES, max_size=3).map(tuple)),
)


@given(NOUNS)
def test_every_noun_survives_json(noun: Record) -> None:
    again = type(noun).from_json(noun.to_json())
    assert again == noun
    assert type(noun).from_json(noun.to_json().encode()) == noun
    assert again.to_json() == noun.to_json()


@given(cases())
def test_a_result_and_each_of_its_events_survive_json(case: Case) -> None:
    result = case.trace(seconds=0.25).result
    assert SearchResult.from_json(result.to_json()) == result
    for event in result.events:
        assert Event.from_json(event.to_json()) == event


@given(NOUNS, st.data())
def test_nouns_are_frozen(noun: Record, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(type(noun).model_fields)))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(noun, name, getattr(noun, name))


@given(NOUNS)
def test_another_schema_is_refused_by_number(noun: Record) -> None:
    data = json.loads(noun.to_json())
    with pytest.raises(ValueError, match=r"of schema 99; this version of darwin_align reads schema 1"):
        type(noun).from_json(json.dumps({**data, "schema": 99}))
    del data["schema"]
    with pytest.raises(ValueError, match=r"this is no .*: expected a JSON object with a 'schema' number"):
        type(noun).from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null", "{}", "no json"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"this is no Usage|Expecting value"):
        Usage.from_json(text)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Usage, {}),
        (Beam, {"instruction": "x"}),
        (Request, {"conversation": ()}),
        (Step, {}),
        (Archive, {"entries": ()}),
    ],
)
def test_unknown_fields_are_refused(kind: type[Record], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        kind(**fields, surprise=1)
    with pytest.raises(ValueError, match="surprise"):
        kind.from_json(json.dumps({"schema": 1, **fields, "surprise": 1}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_noun_holds_a_number_that_json_cannot(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Beam(instruction="x", reward=value)


def test_a_small_searchs_defaults_adapt_again_after_json() -> None:
    small = SearchConfig(mutations=1)
    again = SearchConfig.from_json(small.to_json())
    assert (again, again.survivors, again.champions) == (small, 1, 1)
    assert again.replace(mutations=8).survivors == small.replace(mutations=8).survivors == 3
    by_hand = SearchConfig.from_json(SearchConfig(survivors=2, champions=1).to_json())
    assert (by_hand.survivors, by_hand.replace(mutations=9).champions) == (2, 1)


def test_the_events_of_a_large_search_are_small() -> None:
    """15 beams, 3 cycles, 50 steps."""
    words = [f"{a}{b}" for a in ("bre", "wa", "cup", "stee", "lea") for b in ("w", "ter", "ful", "p", "ves")]
    search = search_of(policy=ScriptedPolicy(words, length=2000), mutator=reword)
    config = SearchConfig(mutations=5, beams_per_mutation=3, cycles=3, max_new_tokens=2001, seed=1)
    result = search.invoke("Hi", **{name: getattr(config, name) for name in config.model_fields_set})
    steps = [event for event in result.events if event.operator == "select"]
    assert len(steps) >= 3 * 50
    assert sum(len(event.to_json().encode()) for event in result.events) < 2_000_000
    assert len(result.to_json().encode()) < 2_000_000
