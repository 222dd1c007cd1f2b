"""Structured output: three methods, four kinds of schema, and what becomes of answers that do not keep it."""

import json
from typing import Any, get_args

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from darwin_align import DarwinChatModel, Request
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.langchain.structured import Method, Structure, as_response_format
from darwin_align.operators import ToolCallScorer
from darwin_align.operators.verdicts import format_breach
from darwin_align.pocket import policy_path
from tests.test_tools import Says, call, heat, model_of, set_lamp


class Leaf(BaseModel):
    name: str


class Tea(BaseModel):
    """A tea."""

    minutes: int = Field(gt=0)
    leaf: Leaf | None = None


class Cup(TypedDict):
    """A cup of tea."""

    minutes: int


SCHEMA = Tea.model_json_schema()
FUNCTION = {"name": "tea", "description": "A tea.", "parameters": {"type": "object", "properties": {"minutes": {}}}}
GOOD, BAD = '{"minutes": 3}', '{"minutes": "three minutes, or so they say"}'


# -- what is asked for


@pytest.mark.parametrize("schema", [Tea, Cup, SCHEMA, FUNCTION, {"type": "object", "properties": {}}])
def test_every_kind_of_schema_becomes_a_format(schema: Any) -> None:
    form = as_response_format(schema)
    assert form["type"] == "json_schema"
    assert form["json_schema"]["name"] in ("Tea", "Cup", "tea", "answer")
    assert form["json_schema"]["schema"]["type"] == "object"
    assert as_response_format(form) == form


WHOLE: list[dict[str, Any]] = [
    {"title": "L", "type": "array", "items": {"type": "string"}},
    {"title": "E", "enum": ["red", "green"]},
    {"title": "S", "type": "string"},
    {"title": "A", "anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"title": "M", "type": "object", "additionalProperties": {"type": "integer"}},
    {"title": "O", "type": "object", "properties": {"a": {"$ref": "#/$defs/B"}}, "$defs": {"B": {"type": "integer"}}},
    RootModel[list[Leaf]].model_json_schema(),
]


@pytest.mark.parametrize("schema", WHOLE, ids=lambda schema: str(schema["title"])[:8])
def test_a_schema_stays_whole(schema: dict[str, Any]) -> None:
    about = as_response_format(schema)["json_schema"]
    assert (about["name"], about["schema"]) == (schema["title"], schema)


def test_openais_inner_form_is_taken_as_it_is() -> None:
    inner = {"name": "tea", "strict": True, "schema": WHOLE[0]}
    assert as_response_format(inner) == {"type": "json_schema", "json_schema": inner}


class Node(BaseModel):
    """A class that holds itself."""

    name: str
    kids: list["Node"] = []


def test_a_class_that_holds_itself_is_kept_all_the_way_down() -> None:
    request = Request.of("Hi", response_format=as_response_format(Node))
    assert format_breach(request, '{"name": "a", "kids": [{"name": "b", "kids": []}]}') == ""
    assert format_breach(request, '{"name": "a", "kids": [1]}') == "kids[0] is integer and not object"
    assert format_breach(request, '{"name": "a", "kids": [{"name": "b", "kids": [{}]}]}') == (
        "kids[0].kids[0].name is missing"
    )
    loop = {"type": "json_schema", "json_schema": {"name": "loop", "schema": {"anyOf": [{"$ref": "#"}]}}}
    assert format_breach(Request.of("Hi", response_format=loop), "1") == ""


def test_an_array_is_written_and_read() -> None:
    model = DarwinChatModel(cycles=1, mutations=1, max_tokens=60, seed=3)
    schema = {"title": "L", "type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 2}
    answer = model.with_structured_output(schema).invoke("Name two colors.")
    assert isinstance(answer, list)
    assert 1 <= len(answer) <= 2
    assert set(answer) <= {"red", "green"}


def test_strict_closes_a_schema_without_a_title_too() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}
    for given in (schema, {**schema, "title": "T"}):
        made = as_response_format(given, strict=True)["json_schema"]["schema"]
        assert (sorted(made["required"]), made["additionalProperties"]) == (["a", "b"], False)


def test_strict_closes_the_schema() -> None:
    form = as_response_format(Tea, strict=True)["json_schema"]
    assert (form["strict"], form["schema"]["additionalProperties"]) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schema": Tea, "method": "json"}, r"method='json' is unknown: did you mean 'json_mode'\?"),
        ({"schema": None}, r"method='json_schema' needs a schema: give one, or use method='json_mode'"),
        ({"schema": Tea, "method": "json_mode", "strict": True}, r"strict has no meaning with method='json_mode'"),
        ({"schema": 5}, r"cannot make a schema of 5"),
        ({"schema": {"a": 1}}, r"is no JSON schema: it says nothing of an answer"),
        ({"schema": {"type": "object"}, "method": "function_calling"}, r"this schema has no properties"),
        ({"schema": {"type": "array"}, "strict": True}, r"strict=True is for schemas with properties"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(GOOD).with_structured_output(**arguments)


@pytest.mark.parametrize("form", [{"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}])
def test_formats_of_another_shape_are_refused(form: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"response_format=.* is not known: use"):
        model_of(GOOD).invoke("Tea?", response_format=form)


def test_langchains_own_parsers_read() -> None:
    assert isinstance(Structure(Tea).parser, PydanticOutputParser)
    assert isinstance(Structure(Cup).parser, JsonOutputParser)


# -- what comes out


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("schema", [Tea, Cup, SCHEMA])
async def test_three_methods_and_three_schemas(method: Method, schema: Any) -> None:
    title = "Cup" if schema is Cup else "Tea"
    text = call(title, minutes=3) if method == "function_calling" else GOOD
    chain = model_of(text).with_structured_output(schema, method=method)
    expected: Any = Tea(minutes=3) if schema is Tea else {"minutes": 3}
    assert chain.invoke("How long?") == expected
    assert await chain.ainvoke("How long?") == expected
    assert list(chain.stream("How long?"))[-1] == expected
    assert chain.batch(["How long?", "And now?"]) == [expected] * 2


@pytest.mark.parametrize("method", get_args(Method))
def test_raw_answers_come_along(method: Method) -> None:
    calling = method == "function_calling"
    texts = (call("Tea", minutes=3), call("Tea", minutes=-3)) if calling else (GOOD, '{"minutes": -3}')
    good, bad = (model_of(text).with_structured_output(Tea, method=method, include_raw=True) for text in texts)
    kept = good.invoke("How long?")
    assert isinstance(kept["raw"], AIMessage)
    assert (kept["parsed"], kept["parsing_error"]) == (Tea(minutes=3), None)
    broken = bad.invoke("How long?")
    assert broken["parsed"] is None
    assert "greater than 0" in str(broken["parsing_error"])


@pytest.mark.parametrize("bad", [BAD, "Three minutes, I should say.", '{"minutes": 3, "leaf": {}}', "[3]"])
@pytest.mark.parametrize("schema", [Tea, SCHEMA])
def test_answers_that_break_the_schema_lose(bad: str, schema: Any) -> None:
    model = model_of(bad, GOOD, mutations=8)
    found = model.with_structured_output(schema).invoke("How long?")
    assert found in (Tea(minutes=3), {"minutes": 3})
    result = model.search.invoke("How long?", response_format=as_response_format(schema))
    assert result.best.valid
    assert any("it breaks response_format" in note for note in result.notes)


def test_strict_function_calls_that_break_the_schema_lose() -> None:
    bad, good = call("Tea", minutes="three or four, I say", leaf=None), call("Tea", minutes=3, leaf=None)
    chain = model_of(bad, good, mutations=8).with_structured_output(Tea, method="function_calling", strict=True)
    assert chain.invoke("How long?") == Tea(minutes=3)


def test_a_format_beside_tools_lets_the_model_call() -> None:
    """What create_agent binds where a model's profile says that it enforces formats."""
    form = as_response_format(Tea)
    calling = model_of(call("heat", to=80, vessel="pot")).bind_tools([heat], response_format=form, strict=True)
    assert calling.invoke("Tea.").tool_calls
    answering = model_of(GOOD).bind_tools([heat], response_format=form)
    answer = answering.invoke("Tea.")
    assert (answer.content, answer.response_metadata["finish_reason"]) == (GOOD, "stop")
    assert model_of(GOOD).bind_tools([], response_format=form).invoke("Tea.").content == GOOD
    assert model_of(GOOD).invoke("Tea.", response_format=Tea).content == GOOD


@pytest.mark.parametrize("strategy", [ProviderStrategy, ToolStrategy, None])
def test_agents_answer_with_objects_in_either_way(strategy: Any) -> None:
    by_call = strategy is ToolStrategy
    model = model_of(call("Tea", minutes=3) if by_call else GOOD)
    assert isinstance(model.search.policy, Says)
    model.search.policy.enforces_formats = True
    # Without a strategy, create_agent goes by the profile.
    model = DarwinChatModel(search=model.search)
    assert model.profile is not None
    assert model.profile["structured_output"]
    agent: Any = create_agent(model, [heat], response_format=strategy(Tea) if strategy else Tea)
    state = agent.invoke({"messages": [("user", "How long?")]})
    assert state["structured_response"] == Tea(minutes=3)
    [asked, *_] = model.search.policy.asked
    assert (asked.response_format is None, asked.tool_choice) == (by_call, "required" if by_call else None)


def test_an_agent_on_the_embedded_pair_calls_a_tool_and_answers() -> None:
    policy = LocalPolicy.from_pretrained(policy_path(), threads=1)
    model = DarwinChatModel(scorer=ToolCallScorer(policy=policy), cycles=1, mutations=2, max_tokens=64, temperature=0.0)
    agent: Any = create_agent(model, [set_lamp])
    messages = agent.invoke({"messages": [("user", "Make the kitchen lamp red.")]})["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[1].tool_calls[0]["args"] == {"room": "kitchen", "color": "red"}
    assert messages[2].content == "kitchen: red"
    assert messages[3].content


def test_what_breaks_a_format() -> None:
    asked = Request.of("Hi", response_format=as_response_format(SCHEMA))
    assert format_breach(asked, GOOD) == ""
    assert format_breach(asked, "no") == "it is no JSON: Expecting value: line 1 column 1 (char 0)"
    assert format_breach(asked, '{"minutes": 1.5}') == "minutes is number and not integer"
    assert format_breach(Request.of("Hi", response_format={"type": "text"}), "no") == ""
    nested = {"type": "object", "properties": {"leaf": {"$ref": "#/$defs/Leaf"}}, "$defs": SCHEMA["$defs"]}
    deep = Request.of("Hi", response_format=as_response_format(nested))
    assert format_breach(deep, '{"leaf": {"name": 1}}') == "leaf.name is integer and not string"


# -- the embedded pair


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Tea, Cup])
def test_the_embedded_pair_cannot_break_a_schema(method: Method, schema: Any) -> None:
    model = DarwinChatModel(cycles=1, mutations=2, max_tokens=64, seed=2)
    found = model.with_structured_output(schema, method=method, temperature=1.0).invoke("How do I brew green tea?")
    assert isinstance(found, Tea) or isinstance(found["minutes"], int)


def test_json_mode_on_the_embedded_pair_is_some_object() -> None:
    model = DarwinChatModel(cycles=1, mutations=2, max_tokens=64, seed=2)
    answer = model.with_structured_output(method="json_mode", include_raw=True).invoke("How do I brew green tea?")
    assert answer["parsing_error"] or isinstance(json.loads(answer["raw"].content), dict)
