"""Structured output: three methods, four kinds of schema, and what becomes of answers that do not keep it."""

import json
from typing import Any, Literal, get_args

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ProviderStrategy, StructuredOutputValidationError, ToolStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from darwin_align import Budget, DarwinChatModel, Request
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.formats.verdicts import format_violation
from darwin_align.langchain.structured import Method, Structure, as_response_format
from darwin_align.operators import ToolCallScorer
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
    assert format_violation(request, '{"name": "a", "kids": [{"name": "b", "kids": []}]}') == ""
    assert format_violation(request, '{"name": "a", "kids": [1]}') == "kids[0] is integer and not object"
    assert format_violation(request, '{"name": "a", "kids": [{"name": "b", "kids": [{}]}]}') == (
        "kids[0].kids[0].name is missing"
    )
    loop = {"type": "json_schema", "json_schema": {"name": "loop", "schema": {"anyOf": [{"$ref": "#"}]}}}
    assert format_violation(Request.of("Hi", response_format=loop), "1") == ""


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
        ({"schema": {"a": 1}}, r"is no JSON schema: it describes no answer"),
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


class Report(BaseModel):
    """What was done."""

    outcome: Literal["done", "not done"]


class EachToolOnce(AgentMiddleware[Any, Any]):
    """Takes away the tools that were called already."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        called = {message.name for message in request.messages if isinstance(message, ToolMessage)}
        return handler(request.override(tools=[tool for tool in request.tools if tool.name not in called]))


def final_state(seed: int, strategy: Any, *middleware: Any, **settings: Any) -> Any:
    model = DarwinChatModel(seed=seed, max_tokens=96, **settings)
    agent: Any = create_agent(model, [set_lamp], response_format=strategy, middleware=middleware)
    state = agent.invoke({"messages": [("user", "Make the kitchen lamp red.")]}, {"recursion_limit": 12})
    assert isinstance(state["structured_response"], Report)
    return [message.type for message in state["messages"]]


@pytest.mark.parametrize(
    "strategy", [pytest.param(ProviderStrategy(Report), marks=pytest.mark.slow), Report], ids=["provider", "auto"]
)
def test_agents_with_a_tool_and_a_format_end(strategy: Any) -> None:
    """A model that is done with its tools answers in the format, though it would not begin JSON by itself."""
    ends = [final_state(seed, strategy, cycles=0) for seed in range(10)]
    assert sum(types == ["human", "ai", "tool", "ai"] for types in ends) >= 8
    assert final_state(3, strategy, cycles=1, mutations=2)[-1] == "ai"


@pytest.mark.slow
def test_agents_with_a_schema_as_a_tool_end_if_no_tool_is_offered_twice() -> None:
    """The embedded pair was trained to choose a tool by the request's words: it never prefers the schema's."""
    for seed in range(10):
        types = final_state(seed, ToolStrategy(Report), EachToolOnce(), cycles=0)
        assert types == ["human", "ai", "tool", "ai", "tool"]


def test_what_breaks_a_format() -> None:
    asked = Request.of("Hi", response_format=as_response_format(SCHEMA))
    assert format_violation(asked, GOOD) == ""
    assert format_violation(asked, "no") == "it is no JSON: Expecting value: line 1 column 1 (char 0)"
    assert format_violation(asked, '{"minutes": 1.5}') == "minutes is number and not integer"
    assert format_violation(Request.of("Hi", response_format={"type": "text"}), "no") == ""
    nested = {"type": "object", "properties": {"leaf": {"$ref": "#/$defs/Leaf"}}, "$defs": SCHEMA["$defs"]}
    deep = Request.of("Hi", response_format=as_response_format(nested))
    assert format_violation(deep, '{"leaf": {"name": 1}}') == "leaf.name is integer and not string"


# -- answers that are not complete


CUT = '{"minutes": 21'
DEFAULTS = '{"name": "sencha", "minutes'


class Brew(BaseModel):
    """A brew, with a default that a cut answer could hide behind."""

    name: str
    minutes: int = 3


def cut_model(schema: Any, method: Method, text: str) -> DarwinChatModel:
    """A model whose answer ends at its token limit, in the middle of ``text``."""
    whole = text + "4}"
    if method == "function_calling":
        title = "Cup" if schema is Cup else "Tea"
        whole = f'<call>{{"name": "{title}", "arguments": {whole}}}</call>'
    return model_of(whole, max_new_tokens=whole.index(text) + len(text), replacement_period=40)


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("schema", [Tea, Cup, SCHEMA])
async def test_a_cut_answer_is_a_parsing_error(method: Method, schema: Any) -> None:
    model = cut_model(schema, method, CUT)
    message = model.with_structured_output(schema, method=method, include_raw=True).invoke("How long?")["raw"]
    assert message.response_metadata["finish_reason"] == "length"
    chain = model.with_structured_output(schema, method=method)
    limit = model.search.config.max_new_tokens
    expected = rf"the answer was cut at max_tokens={limit}, so it is incomplete: raise max_tokens; it ends .*21"
    for fail in (lambda: chain.invoke("How long?"), lambda: chain.batch(["How long?"])):
        with pytest.raises(OutputParserException, match=expected):
            fail()
    with pytest.raises(OutputParserException, match=expected):
        await chain.ainvoke("How long?")
    seen: list[Any] = []
    with pytest.raises(OutputParserException, match=expected):
        seen.extend(chain.stream("How long?"))
    with pytest.raises(OutputParserException, match=expected):
        seen.extend([part async for part in chain.astream("How long?")])
    assert seen == []


@pytest.mark.parametrize("method", get_args(Method))
async def test_a_cut_answer_is_told_beside_its_raw_message(method: Method) -> None:
    chain = cut_model(Tea, method, CUT).with_structured_output(Tea, method=method, include_raw=True)
    parts = list(chain.stream("How long?"))
    streamed = parts[0]
    for part in parts[1:]:
        streamed = streamed + part
    for found in (chain.invoke("How long?"), await chain.ainvoke("How long?"), *chain.batch(["How long?"]), streamed):
        assert isinstance(found["raw"], AIMessage)
        assert found["parsed"] is None
        assert isinstance(found["parsing_error"], OutputParserException)
        assert "raise max_tokens" in str(found["parsing_error"])


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_defaults_hide_no_field_that_was_cut(method: Method) -> None:
    chain = cut_model(Brew, method, DEFAULTS).with_structured_output(Brew, method=method)
    with pytest.raises(OutputParserException, match="raise max_tokens"):
        chain.invoke("Which tea?")


def test_a_cut_number_is_refused_though_it_is_json() -> None:
    chain = model_of("214", max_new_tokens=2).with_structured_output({"title": "Age", "type": "integer"})
    with pytest.raises(OutputParserException, match="cut at max_tokens=2"):
        chain.invoke("How old?")


def test_an_answer_that_a_budget_cut_names_the_budget() -> None:
    model = model_of(GOOD * 9, budget=Budget(tokens=8), replacement_period=4)
    with pytest.raises(OutputParserException, match=r"ended early \(budget: tokens\).*raise the budget"):
        model.with_structured_output(Tea).invoke("How long?")


@pytest.mark.parametrize("schema", [Cup, SCHEMA])
@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_a_whole_answer_that_breaks_a_dicts_schema_is_a_parsing_error(method: Method, schema: Any) -> None:
    with pytest.raises(OutputParserException, match="does not match the schema: minutes is string and not integer"):
        model_of(BAD).with_structured_output(schema, method=method).invoke("How long?")


def test_calls_that_cannot_be_made_are_parsing_errors() -> None:
    def chain(text: str, schema: Any = Cup, **options: Any) -> Any:
        return model_of(text).with_structured_output(schema, method="function_calling", **options)

    with pytest.raises(OutputParserException, match=r"the answer makes no call of 'Cup': 'Three minutes'"):
        chain("Three minutes").invoke("How long?")
    with pytest.raises(OutputParserException, match=r"does not match the schema: minutes is missing"):
        chain(call("Cup", time=3)).invoke("How long?")
    with pytest.raises(OutputParserException, match=r"the call of 'Tea' is invalid: .*leaf is missing"):
        chain(call("Tea", minutes=3), Tea, strict=True).invoke("How long?")


def test_a_whole_answer_within_a_code_block_is_read() -> None:
    fenced = f"```json\n{GOOD}\n```"
    assert model_of(fenced).with_structured_output(Tea, method="json_mode").invoke("How long?") == Tea(minutes=3)
    with pytest.raises(OutputParserException, match="is not valid JSON"):
        model_of(f"Here: {GOOD}, as you wished").with_structured_output(Tea).invoke("How long?")


def test_a_stream_yields_the_complete_object_alone() -> None:
    text = '{"name": "sencha of the first flush", "minutes": 12}'
    chain = model_of(text, mutations=1).with_structured_output(Brew)
    assert list(chain.stream("Which tea?")) == [Brew(name="sencha of the first flush", minutes=12)]


def test_a_stream_of_a_cut_answer_is_an_error() -> None:
    text = '{"name": "sencha of the first flush", "minutes": 12}'
    chain = model_of(text, mutations=1, max_new_tokens=len(text) - 2).with_structured_output(Brew)
    with pytest.raises(OutputParserException, match="raise max_tokens"):
        list(chain.stream("Which tea?"))


def test_an_agents_cut_answer_is_no_object() -> None:
    model = cut_model(Tea, "json_schema", CUT)
    agent: Any = create_agent(model, [heat], response_format=ProviderStrategy(Tea))
    with pytest.raises(StructuredOutputValidationError, match="valid JSON"):
        agent.invoke({"messages": [("user", "How long?")]})


@pytest.mark.parametrize("method", get_args(Method))
def test_a_cut_answer_of_the_embedded_pair_is_no_object(method: Method) -> None:
    model = DarwinChatModel(cycles=0, seed=1, max_tokens=6)
    with pytest.raises(OutputParserException, match="the answer was cut at max_tokens=6"):
        model.with_structured_output(Brew, method=method).invoke("How long does tea steep?")


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
