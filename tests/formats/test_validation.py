"""Values against their schemas: every keyword, references, and work that is bounded whatever the schema says."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from darwin_align.core.errors import RequestError
from darwin_align.formats import validation
from darwin_align.formats.safe_patterns import PatternBudget
from darwin_align.formats.validation import json_type, schema_violation

NODE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["name"],
        }
    },
}


@pytest.mark.parametrize(
    ("value", "schema", "wrong"),
    [
        (
            {"a": {"b": [1, "x"]}},
            {"properties": {"a": {"properties": {"b": {"items": {"type": "integer"}}}}}},
            "a.b[1] is string and not integer",
        ),
        ({}, {"type": "object", "required": ["a"]}, "a is missing"),
        ({"b": {}}, {"properties": {"b": {"required": ["c"]}}}, "b.c is missing"),
        ({"z": 1}, {"properties": {"a": {}}, "additionalProperties": False}, "z is not expected"),
        ({"z": 1}, {"additionalProperties": {"type": "string"}}, "z is integer and not string"),
        ("x", {"enum": ["茶", 1]}, 'the value is none of ["茶", 1]'),
        (True, {"type": ["integer", "null"]}, "the value is boolean and not integer or null"),
        (1, {"const": 2}, "the value is not 2"),
        (
            {"a": 1},
            {"properties": {"a": {"anyOf": [{"type": "null"}, {"const": 2}]}}},
            "a fits none of its alternatives",
        ),
        (2.0, {"type": "integer"}, ""),
        (None, {"type": ["integer", "null"]}, ""),
        ({"z": 1}, {"patternProperties": {"z": {}}, "additionalProperties": False}, ""),
        ("x", True, ""),
        ("x", {}, ""),
    ],
)
def test_types_names_and_alternatives(value: Any, schema: Any, wrong: str) -> None:
    assert schema_violation(value, schema) == wrong


@pytest.mark.parametrize(
    ("good", "bad", "schema", "wrong"),
    [
        (3, 2, {"minimum": 3}, "is 2 and not at least 3"),
        (3, 3.5, {"maximum": 3}, "is 3.5 and not at most 3"),
        (4, 3, {"exclusiveMinimum": 3}, "is 3 and not more than 3"),
        (2, 3, {"exclusiveMaximum": 3}, "is 3 and not less than 3"),
        (0.3, 0.35, {"multipleOf": 0.1}, "is 0.35 and not a multiple of 0.1"),
        (14, 15, {"multipleOf": 7}, "is 15 and not a multiple of 7"),
        ("茶茶", "茶", {"minLength": 2}, "has 1 characters and not at least 2"),
        ("茶", "茶茶", {"maxLength": 1}, "has 2 characters and not at most 1"),
        ([1], [], {"minItems": 1}, "has 0 items and not at least 1"),
        ([1], [1, 2], {"maxItems": 1}, "has 2 items and not at most 1"),
        ({"a": 1}, {}, {"minProperties": 1}, "has 0 properties and not at least 1"),
        ({}, {"a": 1}, {"maxProperties": 0}, "has 1 properties and not at most 0"),
        ([1, True, "1", [1]], [1, 1.0], {"uniqueItems": True}, "holds the same item twice"),
        ([{"a": [1]}, {"a": [2]}], [{"a": 1, "b": 2}, {"b": 2, "a": 1}], {"uniqueItems": True}, "holds the same item"),
        ("2024-02-29", "2023-02-29", {"format": "date"}, 'is not of the format "date"'),
        ("a@b.c", "a.b.c", {"format": "email"}, 'is not of the format "email"'),
        ("10.0.0.1", "10.0.0.256", {"format": "ipv4"}, "is not of the format"),
        ("::1", "::g", {"format": "ipv6"}, "is not of the format"),
        ("12345678-1234-5678-1234-567812345678", "1234", {"format": "uuid"}, "is not of the format"),
        ("ab-12", "ab-1", {"pattern": r"^\w+-\d{2}$"}, r'does not match the pattern "^\\w+-\\d{2}$"'),
        ("xaby", "xay", {"pattern": "ab"}, "does not match the pattern"),
        ("a", "a\n", {"pattern": "^a$"}, "does not match the pattern"),
        ({"a1": 1}, {"b1": 1}, {"patternProperties": {"^a": {}}, "additionalProperties": False}, "b1 is not expected"),
        ({"a1": 1}, {"a1": "x"}, {"patternProperties": {"^a": {"type": "integer"}}}, "a1 is string and not integer"),
        (
            {"ab": 1},
            {"abc": 1},
            {"propertyNames": {"maxLength": 2}},
            'the name "abc" has 3 characters and not at most 2',
        ),
        (1, 1.5, {"not": {"type": "number", "minimum": 1.2}}, "fits what the schema excludes"),
        (1, "1", {"allOf": [{}, {"type": "integer"}]}, "is string and not integer"),
        (7, 3, {"oneOf": [{"minimum": 1}, {"maximum": 5}]}, "fits more than one of its alternatives"),
        ([1, "x"], ["x", 1], {"prefixItems": [{"type": "integer"}]}, "[0] is string and not integer"),
        ([1], [1, 2], {"prefixItems": [{}], "items": False}, "has more items than are expected"),
        ([1, "x"], [1, 2], {"items": [{"type": "integer"}, {"type": "string"}]}, "[1] is integer and not string"),
        (["x", 1], [1], {"contains": {"type": "string"}}, 'does not keep contains: {"type": "string"}'),
        ({"a": 1, "b": 1}, {"a": 1}, {"dependentRequired": {"a": ["b"]}}, "does not keep dependentRequired"),
        ({}, {"a": 1}, {"properties": {"a": False}}, "a is not expected"),
        (1, -1, {"if": {"maximum": 0}, "then": {"maximum": -5}}, "is -1 and not at most -5"),
        ({"a": 1}, {"b": 1}, {"properties": {"a": {}}, "unevaluatedProperties": False}, "does not keep unevaluated"),
    ],
)
def test_bounds_and_the_other_keywords(good: Any, bad: Any, schema: Any, wrong: str) -> None:
    assert schema_violation(good, schema) == ""
    assert wrong in schema_violation(bad, schema)
    within = {"type": "object", "properties": {"x": schema}}
    assert schema_violation({"x": good}, within) == ""
    assert schema_violation({"x": bad}, within).startswith(("x", "the name"))


def test_the_outermost_fault_is_named_and_a_type_before_what_follows_from_it() -> None:
    schema = {
        "properties": {"a": {"properties": {"b": {"type": "null"}}}, "c": {"enum": ["x"], "type": "string"}},
        "required": ["d"],
    }
    assert schema_violation({"a": {"b": 1}, "c": 2}, schema) == "d is missing"
    assert schema_violation({"a": {"b": 1}, "c": 2, "d": 0}, schema) == "c is integer and not string"
    assert schema_violation({"a": {"b": 1}, "d": 0}, schema) == "a.b is integer and not null"


def test_long_values_are_cut_and_enumerations_are_not() -> None:
    assert len(schema_violation(["x" * 500], {"const": "y" * 500})) < 120
    assert schema_violation(1, {"enum": ["a" * 300]}) == f'the value is none of ["{"a" * 300}"]'


def test_numbers_without_an_end_are_multiples_of_nothing() -> None:
    assert "not a multiple" in schema_violation(json.loads("1e999"), {"multipleOf": 2})
    assert schema_violation(1e300, {"multipleOf": 0.5}) == ""


def test_json_types() -> None:
    values = [None, True, 1, 2.0, 1.5, "x", [], {}]
    types = ["null", "boolean", "integer", "integer", "number", "string", "array", "object"]
    assert [json_type(value) for value in values] == types


# -- references


def test_references_within_a_schema() -> None:
    good = {"name": "a", "kids": [{"name": "b", "kids": []}, {"name": "c"}]}
    assert schema_violation(good, NODE) == ""
    assert (
        schema_violation({"name": "a", "kids": [{"name": "b", "kids": [{}]}]}, NODE)
        == "kids[0].kids[0].name is missing"
    )
    assert schema_violation(5, NODE) == "the value is integer and not object"
    beside = {**NODE, "maxProperties": 1}
    assert schema_violation({"name": "a", "kids": []}, beside) == "the value has 2 properties and not at most 1"


def test_a_part_of_a_schema_refers_to_the_whole() -> None:
    part = {"type": "array", "items": {"$ref": "#/$defs/node"}}
    assert schema_violation([{"name": "a"}], part, root=NODE) == ""
    assert schema_violation([{}], part, root=NODE) == "[0].name is missing"
    with pytest.raises(RequestError, match="points to nothing"):
        schema_violation([{}], part)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr("socket.socket.connect", never)
    monkeypatch.setattr("urllib.request.urlopen", never)
    with pytest.raises(RequestError, match="nothing is fetched"):
        schema_violation({}, {"$ref": "http://127.0.0.1:9/schema.json"})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}]},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ],
)
def test_a_definition_that_leads_to_itself_adds_nothing(schema: Any) -> None:
    assert schema_violation(1, schema) == ""


# -- bounded work


@pytest.fixture
def usual_recursion_limit() -> Iterator[None]:
    """Python's own: libraries raise it for the whole process."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("usual_recursion_limit")
def test_deep_values_are_checked_or_refused() -> None:
    tree: dict[str, Any] = {"name": "leaf"}
    for _ in range(50):
        tree = {"name": "x", "kids": [tree]}
    assert schema_violation(tree, NODE) == ""
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    schema = {"type": "array", "items": {"$ref": "#"}}
    assert schema_violation(deep, schema) == "the value is nested too deeply to be checked against its schema"


def test_references_that_multiply_are_cut_off() -> None:
    """Each definition refers to the next one twice: 2 to the power of 40 checks."""
    twice = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**twice, "d40": {"type": "integer"}}}
    start = time.process_time()
    assert schema_violation(1, schema) == "the value takes too long to be checked against its schema"
    assert time.process_time() - start < 20


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "a*a*a*a*a*a*b", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_patterns_that_take_for_ever_elsewhere_are_matched(pattern: str) -> None:
    text = "a" * 5000 + "!"
    start = time.process_time()
    assert "does not match the pattern" in schema_violation(text, {"pattern": pattern})
    names = {"patternProperties": {pattern: {}}, "additionalProperties": False}
    assert schema_violation({text: 1}, names).endswith("is not expected")
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "pattern", [r"(?=x)y", r"(?!x)x", r"(?<=a)b", r"(a)\1", "[", "a{70000}", r"((a{1,100}){1,100}){1,100}", r"\w{1000}"]
)
def test_patterns_that_cannot_be_bounded_are_left_unchecked(pattern: str) -> None:
    start = time.process_time()
    assert PatternBudget().matches(pattern, "zzz" * 3000) is None
    assert schema_violation("z" * 9000, {"pattern": pattern}) == ""
    assert schema_violation({"z": 1}, {"patternProperties": {pattern: False}, "additionalProperties": False}) == ""
    assert time.process_time() - start < 2


def test_many_patterns_share_one_bound() -> None:
    """Each of them is affordable, all together are not."""
    names = [f"^[a-z]{{1,{5000 + i}}}$" for i in range(200)]
    schema = {"properties": {f"p{i}": {"pattern": pattern} for i, pattern in enumerate(names)}}
    start = time.process_time()
    assert schema_violation({f"p{i}": "a" * 4000 for i in range(200)}, schema) == ""
    assert schema_violation({"p0": "A"}, schema).startswith("p0 does not match")
    assert time.process_time() - start < 10


def test_unevaluated_properties_are_left_unchecked_beside_patterns() -> None:
    evil = {"patternProperties": {"(a+)+$": {}}, "unevaluatedProperties": False}
    start = time.process_time()
    assert schema_violation({"a" * 5000 + "!": 1}, evil) == ""
    assert time.process_time() - start < 2


def test_many_unique_items_take_linear_time() -> None:
    start = time.process_time()
    assert schema_violation([{"n": i} for i in range(20_000)], {"uniqueItems": True}) == ""
    assert time.process_time() - start < 5


def test_calls_leave_nothing_behind() -> None:
    for _ in range(2):
        assert schema_violation("zzz", {"pattern": "a{9000}"}) == schema_violation("zzz", {"pattern": "a{9000}"})
    with pytest.raises(LookupError):
        validation._check.get()


# -- the library itself as the measure


leaves = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "integer", "minimum": 0, "maximum": 3},
        {"enum": ["a", 1, None]},
        {"type": "string", "maxLength": 2, "pattern": "^a"},
        {"type": "number", "multipleOf": 0.5},
        {"$ref": "#/$defs/leaf"},
    ]
)
schemas = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda one: {"type": "array", "items": one, "uniqueItems": True, "maxItems": 2}, inner)
        | st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner)
        | st.builds(lambda one, other: {"oneOf": [one, other]}, inner, inner)
        | st.builds(
            lambda a, b: {"properties": {"a": a}, "patternProperties": {"^b": b}, "required": ["a"]}, inner, inner
        )
        | st.builds(lambda a: {"properties": {"a": a}, "additionalProperties": False}, inner)
    ),
    max_leaves=4,
)
values = st.recursive(
    st.sampled_from([None, True, 0, 1, 2.0, 0.25, 4, "a", "b", "abc"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(schema=schemas, value=values)
def test_what_is_refused_is_what_jsonschema_refuses(schema: Any, value: Any) -> None:
    whole = {"allOf": [schema], "$defs": {"leaf": {"type": "null"}}}
    assert bool(schema_violation(value, whole)) != Draft202012Validator(whole).is_valid(value)
