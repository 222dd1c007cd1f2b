"""Grounded values: what tool calls and structured answers hold is copied from the conversation."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel, Field

from darwin_align import DarwinChatModel, DarwinSearch, SearchConfig
from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.core.types import Message, Request, Sampling
from darwin_align.formats.grounding import Sources, ungrounded
from darwin_align.formats.verdicts import read_calls
from darwin_align.operators.policy import Row
from darwin_align.pocket import policy_path

HOT, GREEDY = Sampling(temperature=1.3, top_k=None), Sampling(temperature=0)
TEXT, NUMBER, WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}


@pytest.fixture(scope="module")
def policy():
    return LocalPolicy.from_pretrained(policy_path(), device="cpu", threads=1)


def formed(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def closed(*needed, **properties):
    return {"type": "object", "properties": properties, "required": list(needed or properties)}


def tool(name, *needed, **properties):
    about = {"name": name, "description": "Do it.", "parameters": closed(*needed, **properties)}
    return {"type": "function", "function": about}


def request_of(text, schema, **settings):
    return Request.of(text, response_format=formed(schema), **{"grounded": True, **settings})


def accepts(policy, request, text):
    """Whether the grammar lets this answer be written to its end."""
    compiled = policy._constraints.find(request)
    matcher, tokens = compiled.matcher(), compiled._tokenizer.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def allowed(policy, text, schema, *values, **settings):
    """Those of the values that may be written."""
    request = request_of(text, schema, **settings)
    return [value for value in values if accepts(policy, request, json.dumps(value, ensure_ascii=False))]


def stands(value, texts):
    """Whether a text or number stands in one of the texts, by another method than the library's."""
    if isinstance(value, str):
        bounded = rf"(?<![a-zA-Z0-9])(?=[^\s]){re.escape(value)}(?<=[^\s])(?![a-zA-Z0-9])"
        loose = rf"(?=[^\s]){re.escape(value)}(?<=[^\s])"
        whole = value[0].isascii() and value[0].isalnum() and value[-1].isascii() and value[-1].isalnum()
        return any(re.search(bounded if whole else loose, text) for text in texts)
    return any(float(found) == value for text in texts for found in re.findall(r"(?<![\d.])\d+(?:\.\d+)?|-\d+", text))


def leaves(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [leaf for one in inner for leaf in leaves(one)]


# -- every value is in the conversation

words = st.sampled_from(
    [
        "kettle",
        "Zoë",
        "3",
        "-7",
        "0.25",
        "80 degrees",
        '"quoted"',
        "a\\b",
        "line\nbreak",
        "🍵",
        "👩‍🚒",
        "你好啊集团",
        "ten",
    ]
)
texts = st.lists(words, min_size=1, max_size=6).map(" ".join).map("Heat the tea, Ann! {} 5".format)
inner = st.sampled_from(
    [TEXT, NUMBER, WHOLE, {"type": ["string", "null"]}, {"enum": ["low", "high"]}, {"type": "boolean"},
     {"type": "string", "maxLength": 12}, {"type": "integer", "minimum": 4}]
)  # fmt: skip
schemas = st.recursive(
    inner,
    lambda some: (
        st.builds(lambda one: {"type": "array", "items": one, "minItems": 1, "maxItems": 2}, some)
        | st.builds(lambda one, other: {"anyOf": [one, other]}, some, some)
        | st.builds(
            lambda named, optional: closed(*(name for name in named if name not in optional), **named),
            st.dictionaries(st.sampled_from(["a", "b", "茶", 'q"']), some, min_size=1, max_size=3),
            st.sets(st.sampled_from(["a", "b"])),
        )
    ),
    max_leaves=4,
)


@given(text=texts, schema=schemas, seed=st.integers(0, 2**40), sampling=st.sampled_from([HOT, Sampling(), GREEDY]))
def test_every_value_stands_in_the_conversation(policy, text, schema, seed, sampling):
    [found] = policy.generate([Row(request_of(text, schema, sampling=sampling), 150, seed)])
    if found.finish_reason != "stop":
        return
    value = json.loads(found.text)
    for leaf in leaves(value):
        if isinstance(leaf, bool) or leaf in (None, "low", "high"):
            continue
        assert stands(leaf, [text]), (leaf, text)
    assert ungrounded(value, schema, Sources([text])) == ""


@given(text=texts, seed=st.integers(0, 2**40), choice=st.sampled_from(["any", "auto"]))
def test_every_argument_stands_in_the_conversation(policy, text, seed, choice):
    tools = [tool("heat", what=TEXT, to=NUMBER), tool("call", who=TEXT)]
    request = Request.of(text, tools=tools, tool_choice=choice, grounded=True, sampling=HOT)
    [found] = policy.generate([Row(request, 150, seed)])
    parsed = policy.tool_syntax.parse(found.text, tools)
    assert choice == "auto" or parsed.open or len(parsed.calls) == 1
    assert not parsed.invalid
    assert all(stands(value, [text]) for call in parsed.calls for value in call.arguments.values())


@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from(' \n"\\\t\x00你é'), min_size=1), data=st.data())
@example(text='say "hi"\n\\n 你好!', data=None)
def test_the_grammar_agrees_with_the_check(policy, text, data):
    """Every slice of a text, however it has to be escaped: the grammar and the plain search find the same."""
    sources = Sources([text])
    if data is None:
        slices = [text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
    else:
        start = data.draw(st.integers(0, len(text) - 1))
        slices = [text[start : start + data.draw(st.integers(1, len(text)))] for _ in range(3)]
    for value in slices if sources.has_text() else ():
        assert accepts(policy, request_of(text, TEXT), json.dumps(value, ensure_ascii=False)) == sources.holds_text(
            value
        )


# -- what counts as a span, and as a number


@pytest.mark.parametrize(
    ("text", "present", "absent"),
    [
        ("Ask Zoë, please.", ["Zoë", "Ask Zoë", "Zoë, please", "please."], ["Zo", "Zoë, ", " Zoë", "ask", "", "Zoe"]),
        ("use C++ on #ch @ann's", ["C++", "C", "#ch", "@ann's"], ["us", "ann'"[:2]]),
        ("叫 '你好啊集团' 吧", ["你好啊集团", "好啊", "'你好啊集团'"], ["你集", "好 "]),
        ("서울에서 만나요", ["서울", "서울에서"], ["서에"]),
        ("हिन्दी भाषा", ["हिन्दी", "हिन्दी भाषा"], ["हिन", "ह"]),
        ("ไปเที่ยว", ["ไป", "เที่ยว"], ["\u0e35่ยว"]),
        ("👩‍🚒 and 👍🏽", ["👩‍🚒", "👍🏽"], ["👩", "👍"]),
        ("snake_case x2", ["snake_case", "x2"], ["snake", "2"]),
        ("two\n\nlines\there", ["two\n\nlines", "lines\there"], ["two\n", "two lines"]),
    ],
)
def test_spans(policy, text, present, absent):
    sources = Sources([text])
    assert [value for value in present if not sources.holds_text(value)] == []
    assert [value for value in absent if sources.holds_text(value)] == []
    assert allowed(policy, text, TEXT, *present, *absent) == present


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("magic_function(3)? 33", [3, 33]),
        ("-5 to +7, 3-4", [-5, 7, 3, 4]),
        ("\u22128°C, 20kg, Q3, 007", [-8, 20, 3, 7]),
        ("pi is 3.14159. Then 2.", [3.14159, 2]),
        ("1,500 or 1.500", [1500, 1.5, 1, 500]),
        ("1,234.5 and 1.234,5", [1234.5, 1, 234.5, 1.234, 5]),
        ("3,5", [3.5, 3, 5]),
        ("1.2.3 at 12:05", [1, 2, 3, 12, 5]),
        (".5 and 6e2 and 1e", [0.5, 600, 1]),
        ("٣ 나이 ４２", [3, 42]),
        ("none at all: ten, ½", []),
    ],
)
def test_numbers(policy, text, numbers):
    sources = Sources([text])
    assert set(map(float, sources.numbers)) == set(numbers)
    assert all(map(sources.holds_number, numbers))
    others = [0, 9, 15, 34, 99, -3, 2.5]
    assert not any(map(sources.holds_number, set(others) - set(numbers)))
    if numbers:
        assert allowed(policy, text, NUMBER, *numbers, *(n for n in others if n not in numbers)) == numbers
        whole = [number for number in numbers if number == int(number)]
        assert allowed(policy, text, WHOLE, *(int(number) for number in whole), 9999) == whole


def test_long_numbers_are_kept(policy):
    big = 123456789012345678901234567890
    assert allowed(policy, f"It is {big} or 1e999.", WHOLE, big, big + 1, 1) == [big]


def test_spans_end_with_their_message(policy):
    turns = [Message(role="system", content="Ann"), Message(role="user", content="Lee")]
    request = Request(conversation=tuple(turns), response_format=formed(TEXT), grounded=True)
    assert [accepts(policy, request, json.dumps(text)) for text in ("Ann", "Lee", "AnnLee", "Ann\0Lee")] == [
        True,
        True,
        False,
        False,
    ]


def test_torn_letters_are_no_text(policy):
    assert allowed(policy, "ab \ud83d cd", TEXT, "ab", "cd") == ["ab", "cd"]


# -- kinds of schemas


def test_the_schemas_own_values_stay(policy):
    schema = closed(
        speed={"enum": ["fast", 2, None]},
        on={"type": "string", "format": "date"},
        code={"type": "string", "pattern": "^[A-Z]{2}$"},
        so={"const": "yes"},
        ok={"type": "boolean"},
        none={"type": "null"},
    )
    right = {"speed": 2, "on": "2024-02-03", "code": "QZ", "so": "yes", "ok": True, "none": None}
    wrong = [{**right, "speed": "slow"}, {**right, "on": "today"}, {**right, "code": "Q"}, {**right, "ok": 1}]
    assert allowed(policy, "Hi 5", schema, right, *wrong) == [right]


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"anyOf": [WHOLE, {"type": "null"}]}, [3, None], [4, "Ann"]),
        ({"oneOf": [WHOLE, TEXT]}, [3, "Ann"], [4, "Bob", None]),
        ({"type": ["string", "integer"]}, ["Ann", 3], ["Bob", 4]),
        ({"type": "array", "items": TEXT, "maxItems": 2}, [[], ["Ann"], ["Ann", "me"]], [["Bob"], ["me", "me", "me"]]),
        ({"type": "array", "items": WHOLE, "minItems": 2}, [[3, 20], [3, 3, 3]], [[], [3]]),
        ({"type": "array", "items": TEXT, "maxItems": 1}, [[], ["me"]], [["me", "Ann"]]),
        ({"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1}, [["me"]], [[], ["me", "Ann"]]),
        ({"type": "array", "maxItems": 0}, [[]], [["me"]]),
        ({"type": "array", "items": False}, [[]], [["me"]]),
        (
            {"type": "array", "prefixItems": [TEXT, WHOLE], "minItems": 2, "maxItems": 2},
            [["Ann", 3]],
            [["Ann"], ["Bob", 3]],
        ),
        ({"type": "object", "additionalProperties": WHOLE}, [{}, {"Ann": 3, "me": 20}], [{"Bob": 3}, {"Ann": 4}]),
        (
            {**closed("a", a=TEXT, b=WHOLE), "additionalProperties": True},
            [{"a": "me"}, {"a": "me", "b": 3}, {"a": "me", "Ann": [3, {"me": None}]}],
            [{"b": 3}, {"a": "me", "Bob": 3}, {"a": "me", "b": 4}],
        ),
        (closed("b", a=TEXT, b=WHOLE, c=TEXT), [{"b": 3}, {"a": "me", "b": 3, "c": "Ann"}], [{"a": "me"}, {"c": "me"}]),
        ({"type": "integer", "minimum": 4, "multipleOf": 5}, [20], [3, 25]),
        ({"type": "string", "minLength": 4, "maxLength": 6}, ["call", "ask me"], ["Ann", "call Ann"]),
        ({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": WHOLE}}, [3], [4]),
        (
            {"$ref": "#/$defs/node", "$defs": {"node": closed("v", v=WHOLE, next={"$ref": "#/$defs/node"})}},
            [{"v": 3}, {"v": 3, "next": {"v": 20}}],
            [{"v": 4}, {"v": 3, "next": {"v": 4}}],
        ),
        ({}, [3, "Ann", None, True, ["me", 20], {"Ann": {"me": 3}}], [4, "Bob", {"Bob": 3}]),
        (True, [3], [4]),
        (closed(q=closed(**{'a"': TEXT, "茶": TEXT})), [{"q": {'a"': "Ann", "茶": "me"}}], [{"q": {'a"': "茶"}}]),
    ],
)
def test_kinds_of_schemas(policy, schema, right, wrong):
    text = "Please call Ann 3 times, or ask me: 20."
    assert allowed(policy, text, schema, *right, *wrong) == right


def test_any_object_takes_its_names_from_the_conversation(policy):
    request = Request.of("Give name and age: Ann, 30.", response_format={"type": "json_object"}, grounded=True)
    assert accepts(policy, request, '{"name": "Ann", "age": 30}')
    assert not accepts(policy, request, '{"surname": "Ann"}')


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"type": "object", "patternProperties": {"^a": TEXT}}, "patternProperties"),
        (closed(a={"allOf": [{"type": "string"}, {"maxLength": 3}]}), "allOf of several at a"),
        ({"anyOf": [TEXT, WHOLE], "type": "string"}, "anyOf beside type"),
        ({**TEXT, "x-guidance": {"lenient": True}}, "x-guidance"),
        ({"type": "array", "prefixItems": [TEXT]}, "prefixItems without as many items"),
    ],
)
def test_parts_that_cannot_be_grounded_are_refused(policy, schema, part):
    with pytest.raises(
        RequestError, match=rf"response_format cannot be grounded: {re.escape(part)}.*leave grounded out"
    ):
        policy.prompt_length(request_of("Hi 5", schema))
    odd = {"type": "function", "function": {"name": "odd", "parameters": closed(a=schema)}}
    with pytest.raises(RequestError, match=r"the tool 'odd' cannot be grounded|cannot be enforced"):
        policy.generate([Row(Request.of("Hi 5", tools=[odd], grounded=True), 9, 1)])


def test_what_cannot_be_enforced_at_all_is_said_as_without(policy):
    with pytest.raises(RequestError, match="uniqueItems"):
        policy.prompt_length(request_of("Hi", {"type": "array", "uniqueItems": True}))
    odd = [{"type": "function", "function": {"name": "odd", "parameters": {"not": {"type": "string"}}}}]
    with pytest.raises(RequestError, match="not"):  # without grounded values, such calls are left free
        policy.generate([Row(Request.of("Hi", tools=odd, grounded=True), 9, 1)])


# -- where nothing fits


def test_a_value_that_is_not_there_is_refused(policy):
    with pytest.raises(RequestError, match=r"grounded=True cannot be kept: n requires a whole number.*contains none"):
        policy.prompt_length(request_of("No digits, Ann.", closed(n=WHOLE, who=TEXT)))
    with pytest.raises(RequestError, match=r"set\(to\) requires a number that fits"):
        policy.prompt_length(Request.of("Hi.", tools=[tool("set", to=NUMBER)], tool_choice="any", grounded=True))
    with pytest.raises(RequestError, match="a text that fits"):
        policy.prompt_length(request_of("Hi.", {"type": "string", "minLength": 9}))


def test_or_left_out_or_null_where_the_schema_allows_it(policy):
    nullable = {"anyOf": [WHOLE, {"type": "null"}]}
    schema = closed("who", "n", who=TEXT, n=nullable, m=WHOLE, many={"type": "array", "items": WHOLE})
    right = {"who": "Ann", "n": None, "many": []}
    assert allowed(policy, "Ann!", schema, right, {**right, "m": 1}, {**right, "n": 1}) == [right]
    node = {"$ref": "#/$defs/node", "$defs": {"node": closed("w", w=TEXT, next={"$ref": "#/$defs/more"})}}
    node["$defs"]["more"] = closed("back", "n", back={"$ref": "#/$defs/more"}, n=WHOLE)
    assert allowed(policy, "Ann!", node, {"w": "Ann"}, {"w": "Ann", "next": {"n": 1}}) == [{"w": "Ann"}]


def test_where_possible_leaves_it_to_the_schema(policy, caplog):
    schema = closed(n={"type": "integer", "minimum": 5}, who=TEXT)
    values = [{"n": 7, "who": "Ann"}, {"n": 4, "who": "Ann"}, {"n": 7, "who": "Bob"}]
    assert allowed(policy, "Ann: 3", schema, *values, grounded="where_possible") == values[:1]
    assert (
        "n requires a whole number that fits, and the conversation contains none, so it is not constrained"
        in caplog.text
    )
    assert allowed(policy, "Ann: 6", schema, {"n": 6, "who": "Ann"}, values[0], grounded="where_possible") == [
        {"n": 6, "who": "Ann"}
    ]
    lenient = Sources(["Ann: 3"], required=False)
    assert ungrounded(values[0], schema, lenient) == ""
    assert "who" in ungrounded(values[2], schema, lenient)


def test_calls_that_are_not_forced_are_not_made(policy):
    tools = [tool("heat", to=NUMBER), tool("call", who=TEXT)]
    request = Request.of("Call Ann.", tools=tools, grounded=True, sampling=HOT)
    call = '<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'
    assert accepts(policy, request, call.format("call", '{"who": "Ann"}'))
    assert not accepts(policy, request, call.format("heat", '{"to": 5}'))
    only = Request.of("Call Ann.", tools=tools[:1], grounded=True)
    assert accepts(policy, only, "I have no number.")
    assert not accepts(policy, only, "<tool_call>")


# -- the request, and the policies that take it


def test_all_messages_count(policy):
    turns = [
        SystemMessage("The kettle holds 17 cups."),
        HumanMessage("How warm?"),
        AIMessage("", tool_calls=[{"name": "read", "args": {"n": 5}, "id": "a"}]),
        ToolMessage("23 degrees", tool_call_id="a"),
    ]
    search = DarwinSearch(policy=policy, scorer=ScriptedScorer())
    request, _ = search.request(turns, {"grounded": True, "response_format": formed(WHOLE)})
    assert [n for n in (5, 17, 23) if accepts(policy, request, str(n))] == [17, 23]
    named, _ = search.request(turns, {"grounded": True, "grounded_in": ["9"], "response_format": formed(WHOLE)})
    assert [n for n in (5, 17, 23, 9) if accepts(policy, named, str(n))] == [9]


def test_rewordings_bring_in_no_values(policy):
    request = request_of("Heat it to 80.", WHOLE)
    reworded = request.with_instruction("Heat it to 80, not to 95.").with_instruction("Heat to 60")
    assert reworded.sources == ("Heat it to 80.",)
    assert [n for n in (80, 95, 60) if accepts(policy, reworded, str(n))] == [80]
    free = Request.of("Heat it.").with_instruction("Heat it to 95.")
    assert (free.grounded, free.grounded_in) == (False, ())


def test_a_search_finds_only_what_stands_there(policy):
    def mutate(request, instruction, n, seed):
        return [f"{instruction} Use {40 + i} for Bob." for i in range(n)]

    search = DarwinSearch(
        policy=policy,
        scorer=lambda request, responses: [float("4" in r.text) for r in responses],
        mutator=mutate,
        guard=None,
        sampling=HOT,
        grounded=True,
        config=SearchConfig(mutations=3, survivors=1, replacement_period=5, max_new_tokens=90, cycles=2, seed=5),
    )
    result = search.invoke("Ann wants 7 or 8 eggs.", response_format=formed(closed(who=TEXT, n=WHOLE)))
    value = json.loads(result.text)
    assert value["n"] in (7, 8)
    assert stands(value["who"], ["Ann wants 7 or 8 eggs."])
    assert json.loads(result.first_response.text)["n"] in (7, 8)


def test_a_call_that_is_spelled_past_the_grammar_is_invalid(policy):
    tools = [tool("call", who=TEXT, how={"enum": ["now", "later"]})]
    call = '<tool_call>{"name": "call", "arguments": {"who": "%s", "how": "now"}}</tool_call>'
    request = Request.of("Call Ann.", tools=tools, grounded=True)
    found = [read_calls(policy.tool_syntax, request, call % who, finished=True) for who in ("Ann", "Bob")]
    assert [len(one.calls) for one in found] == [1, 0]
    assert found[1].invalid[0].reason == 'who is "Bob", which does not stand in the conversation'
    reworded = request.with_instruction("Call Bob.")
    assert read_calls(policy.tool_syntax, reworded, call % "Bob", finished=True).invalid


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "100"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, '"Bob"'),
        ({"enum": ["red"]}, '"purple"'),
    ],
)
def test_a_value_that_also_breaks_its_schema_does_not_slip_through(policy, schema, value):
    tools = [tool("call", x=schema)]
    text = f'<tool_call>{{"name": "call", "arguments": {{"x": {value}}}}}</tool_call>'
    found = read_calls(
        policy.tool_syntax, Request.of("Call Ann at 5.", tools=tools, grounded=True), text, finished=True
    )
    assert [len(found.calls), len(found.invalid)] == [0, 1]


def test_a_state_that_was_decoded_without_constraint_is_refused(policy):
    tools = [tool("call", who=TEXT)]
    text = '<tool_call>{"name": "call", "arguments": {"who": "Bob"}}</tool_call>'
    tokens = tuple(policy._loaded.tokenizer.encode(text, add_special_tokens=False))
    row = Row(Request.of("Call Ann.", tools=tools), 9, 1, tokens)
    assert policy._sequence(row).constraint is not None
    with pytest.raises(RequestError, match="does not keep the request's response_format, tool_choice or grounded"):
        policy._sequence(Row(Request.of("Call Ann.", tools=tools, grounded=True), 9, 1, tokens))


def test_who_cannot_enforce_it_refuses():
    search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), config=SearchConfig(mutator="identity"))
    with pytest.raises(RequestError, match=r"grounded=True is not enforced by ScriptedPolicy.*LocalPolicy"):
        search.invoke("Hi.", grounded=True)
    assert search.invoke("Hi.", grounded=False, seed=1).text


def test_calls_without_a_mark_of_their_own_are_refused(policy, monkeypatch):
    grammars = policy._constraints
    monkeypatch.setattr(type(grammars), "_grammar", lambda self, request: _without_tokens(request))
    grammars._compiled.clear()
    request = Request.of("Call Ann.", tools=[tool("call", who=TEXT)], grounded=True)
    with pytest.raises(RequestError, match=r"no token of this model's own marks.*tool_choice='any'"):
        policy.generate([Row(request, 9, 1)])
    grammars._compiled.clear()


def _without_tokens(request):
    from darwin_align.formats.grammar_writer import GrammarWriter

    return GrammarWriter({}, Sources.of(request) if request.grounded else None)


def test_a_conversation_is_compiled_once(policy):
    grammars = policy._constraints
    one, other = request_of("Heat it to 80.", WHOLE), request_of("Heat it to 90.", WHOLE)
    assert grammars.find(one) is grammars.find(one.with_instruction("Warm it up."))
    assert grammars.find(one) is not grammars.find(other)
    assert grammars.find(one) is not grammars.find(request_of("Heat it to 80.", WHOLE, grounded="where_possible"))


def test_old_records_are_read_and_new_ones_are_whole():
    old = Request.from_json('{"schema":1,"conversation":[{"role":"user","content":"Hi"}]}')
    assert old.grounded is False
    assert "grounded" not in old.to_json()
    new = Request.of("Hi", grounded=True).with_instruction("Ho")
    assert Request.from_json(new.to_json()) == new


# -- the chat model


class Booking(BaseModel):
    """A table."""

    guest: str
    seats: int = Field(ge=1)
    note: str | None = None


@pytest.mark.slow
def test_it_is_set_on_the_model_in_a_call_and_by_bind(policy):
    text, settings = "A table for Lena: 4 seats.", {"cycles": 1, "mutations": 2, "max_tokens": 96, "seed": 3}
    for temperature in (0, 1.2):
        settings_ = {**settings, "temperature": temperature}
        chains = (
            DarwinChatModel(grounded=True, **settings_).with_structured_output(Booking),
            DarwinChatModel(**settings_).with_structured_output(Booking, grounded=True),
            DarwinChatModel(**settings_).with_structured_output(Booking, method="function_calling", grounded=True),
            DarwinChatModel(**settings_).bind(grounded=True, response_format=Booking).with_config() | _booking,
            DarwinChatModel(**settings_).bind_tools([Booking], tool_choice="any", grounded=True) | _booking,
        )
        for chain in chains:
            found = chain.invoke(text)
            assert found.seats == 4
            assert stands(found.guest, [text])
            assert found.note is None or stands(found.note, [text])


def _booking(message):
    calls = message.tool_calls
    return Booking(**calls[0]["args"]) if calls else Booking.model_validate_json(message.text)


def test_a_call_overrules_the_model(policy):
    model = DarwinChatModel(grounded=True, cycles=1, mutations=2, max_tokens=60, seed=3)
    chain = model.with_structured_output({"title": "n", "type": "object", **closed(n=WHOLE)}, grounded=False)
    assert isinstance(chain.invoke("Any number, please.")["n"], int)
    with pytest.raises(RequestError, match="grounded=True cannot be kept"):
        model.with_structured_output({"title": "n", **closed(n=WHOLE)}).invoke("Any number, please.")


def test_it_is_part_of_the_identity():
    strings = {
        DarwinChatModel(grounded=grounded)._get_llm_string(**call)
        for grounded in (False, True, "where_possible")
        for call in ({}, {"grounded": True}, {"grounded": True, "grounded_in": ["Ann"]})
    }
    assert len(strings) == 3 + 2  # a call overrules whatever the model has


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grounded": "yes"}, "grounded.*'yes'.*where_possible"),
        ({"grounded_in": ["Ann"]}, "give grounded=True as well"),
        ({"grounded": True, "grounded_in": 5}, "grounded_in"),
        ({"ground": True}, "did you mean 'grounded'"),
    ],
)
def test_mistakes_are_answered_by_a_sentence(given, message):
    with pytest.raises(ConfigError, match=message):
        DarwinChatModel(cycles=1).invoke("Hi", **given)
    if "grounded_in" not in given:
        with pytest.raises(ConfigError, match=message):
            DarwinChatModel(**given)
