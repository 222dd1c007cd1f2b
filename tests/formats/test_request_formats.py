"""What a request requires of an answer's form."""

from __future__ import annotations

from typing import Any

import pytest

from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.core.errors import RequestError
from darwin_align.core.types import Request
from darwin_align.formats.request_formats import (
    answer_schema,
    functions,
    is_constrained,
    required_tools,
    strict_tools,
    takes_calls,
)
from darwin_align.formats.verdicts import check_request, format_violation, judged

TOOLS = [{"type": "function", "function": {"name": name, "strict": name == "heat"}} for name in ("heat", "stop")]
FORCE_HEAT = {"type": "function", "function": {"name": "heat"}}


def ask(**settings: Any) -> Request:
    return Request.of("x", **settings)


def formed(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def test_functions_in_both_shapes() -> None:
    bare = {"name": "a", "parameters": {"type": "object"}}
    assert functions([{"type": "function", "function": bare}, bare, {"type": "web_search"}]) == {
        "a": {"type": "object"}
    }
    assert strict_tools(ask(tools=[*TOOLS, {"name": "bare", "strict": True}])) == {"heat", "bare"}


def test_shapes_of_requests() -> None:
    assert answer_schema(ask(response_format=formed({"type": "null"}))) == {"type": "null"}
    assert answer_schema(ask()) is None
    assert answer_schema(ask(response_format={"type": "text"})) is None
    assert list(required_tools(ask(tools=TOOLS, tool_choice=FORCE_HEAT)) or ()) == ["heat"]
    assert list(required_tools(ask(tools=TOOLS, tool_choice="stop")) or ()) == ["stop"]
    assert list(required_tools(ask(tools=TOOLS, tool_choice="any")) or ()) == ["heat", "stop"]
    assert required_tools(ask(tools=TOOLS, tool_choice="none")) is None


@pytest.mark.parametrize(
    ("settings", "constrained", "calls"),
    [
        ({}, False, False),
        ({"tools": TOOLS}, False, True),
        ({"tools": TOOLS, "tool_choice": "none"}, False, False),
        ({"tools": TOOLS, "tool_choice": "required"}, True, True),
        ({"response_format": {"type": "json_object"}}, True, False),
        ({"response_format": {"type": "text"}, "tools": TOOLS}, False, True),
    ],
)
def test_what_is_constrained_and_what_may_call(settings: Any, constrained: bool, calls: bool) -> None:
    assert (is_constrained(ask(**settings)), takes_calls(ask(**settings))) == (constrained, calls)


@pytest.mark.parametrize("choice", ["launch", {"type": "function"}, {"type": "tool", "function": {"name": "heat"}}])
def test_choices_that_are_not_known_are_refused(choice: Any) -> None:
    with pytest.raises(RequestError, match=r"cannot be kept: use 'auto'.*the request's tools are heat, stop"):
        required_tools(ask(tools=TOOLS, tool_choice=choice))


def test_a_choice_without_tools_is_refused() -> None:
    with pytest.raises(RequestError, match="the request's tools are none"):
        required_tools(ask(tool_choice="required"))


# -- before anything is generated


REMOTE = {"type": "object", "properties": {"a": {"$ref": "https://example.com/a.json"}}}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"response_format": formed(REMOTE)}, r"response_format: .*properties\.a\.\$ref is .*nothing is fetched"),
        (
            {"tools": [{"type": "function", "function": {"name": "heat", "parameters": REMOTE}}]},
            r"the tool 'heat': .*nothing is fetched",
        ),
        ({"response_format": formed({"type": "thing"})}, r"response_format: .*type is \"thing\" and not one of null"),
        ({"response_format": {"type": "xml"}}, r"response_format=.*is not known"),
    ],
)
def test_schemas_that_cannot_be_checked_are_refused(settings: Any, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        check_request(ask(**settings), ScriptedPolicy({"x": ["y"]}))


def test_numbers_that_json_does_not_have_are_no_json() -> None:
    request = ask(response_format=formed({"type": "number"}))
    assert format_violation(request, "1.5") == ""
    assert format_violation(request, "NaN") == "it is no JSON: NaN is not allowed"


def test_answers_that_pass_a_bound_are_invalid() -> None:
    from darwin_align.core.types import Beam

    request = ask(response_format=formed({"type": "integer", "minimum": 3}))
    beams = {i: Beam(instruction="x", text=text, finish_reason="stop") for i, text in enumerate(("2", "3"))}
    found, notes = judged(beams, request, None)
    assert [found[i].valid for i in (0, 1)] == [False, True]
    assert notes == ["beam 0 is invalid: it breaks response_format: the value is 2 and not at least 3"]
