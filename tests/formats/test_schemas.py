"""JSON schemas: closed objects, references, well-formedness."""

from __future__ import annotations

import time
from typing import Any

import pytest

from darwin_align.core.errors import RequestError
from darwin_align.formats.schemas import check_schema, closed, resolved


def test_objects_are_closed_where_that_is_safe() -> None:
    inner: dict[str, Any] = {"type": "object", "properties": {"a": {}}}
    shut = {**inner, "additionalProperties": False}
    assert closed({"anyOf": [inner, {"type": "null"}]}) == {"anyOf": [shut, {"type": "null"}]}
    assert closed({"$defs": {"x": inner}, "items": {"$ref": "#/$defs/x"}})["$defs"]["x"] == shut
    assert closed({"enum": [inner]}) == {"enum": [inner]}
    for left in (
        {"allOf": [inner, inner]},
        {**inner, "$ref": "#/$defs/x"},
        {"type": "object", "additionalProperties": inner | {"additionalProperties": True}},
        {"type": "object"},
        True,
    ):
        assert closed(left) == left


def test_references_are_json_pointers() -> None:
    root = {"$defs": {"a/b": {"anyOf": [1, {"x": 2}]}}}
    assert resolved("#", root) is root
    assert resolved("#/$defs/a~1b/anyOf/1", root) == {"x": 2}
    for reference in ("#/$defs/c", "https://example.com/#/$defs/a~1b", "other.json"):
        with pytest.raises(LookupError):
            resolved(reference, root)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": ["string", "null"], "title": 3, "unknown": {"type": "any"}, "examples": "x"},
        {"$ref": "#/definitions/a", "definitions": {"a": {"$anchor": "here"}}, "properties": {"b": {"$ref": "#here"}}},
        {"$id": "https://example.com/one", "$defs": {"a": {"$id": "two", "type": "null"}}, "items": {"$ref": "two"}},
        {"items": [{"type": "string"}, {"type": "number"}]},
        {"$dynamicRef": "#node", "$defs": {"a": {"$dynamicAnchor": "node"}}},
        {"default": {"$ref": "https://example.com/"}, "enum": [{"$ref": 5}]},
    ],
)
def test_well_formed_schemas_pass(schema: Any) -> None:
    check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ([], r"it is \[\], which is no schema"),
        ({"type": "any"}, r'type is "any" and not one of null, boolean'),
        ({"type": []}, "type is"),
        ({"properties": {"a": {"required": True}}}, r"properties\.a\.required is true and not a list of names"),
        ({"anyOf": [{}, {"minimum": "1"}]}, r'anyOf\[1\]\.minimum is "1" and not a number'),
        ({"exclusiveMinimum": True}, "exclusiveMinimum is true and not a number"),
        ({"multipleOf": 0}, "multipleOf is 0 and not a number above 0"),
        ({"maxLength": -1}, "maxLength is -1 and not a whole number"),
        ({"items": [{"enum": "a"}]}, r'items\[0\]\.enum is "a" and not a list'),
        ({"dependentSchemas": {"a": {"pattern": 1}}}, r"dependentSchemas\.a\.pattern is 1 and not a string"),
        ({"unevaluatedProperties": {"not": 5}}, r"unevaluatedProperties\.not is 5, which is no schema"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, r"a\.\$ref is \"#/\$defs/b\", which points to nothing"),
        ({"$ref": "#/type/0", "type": "null"}, r"\$ref is \"n\", which is no schema"),
        ({"$ref": "#/default", "default": {"type": "any"}}, r"\$ref\.type is \"any\" and not one of"),
        ({"$ref": "other.json"}, r"\$ref is \"other.json\", which is not part of it, and nothing is fetched"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
    ],
)
def test_others_are_refused_with_the_place(schema: Any, fault: str) -> None:
    with pytest.raises(RequestError, match=f"the JSON schema is not valid: .*{fault}"):
        check_schema(schema)


def test_large_schemas_are_checked_in_no_time() -> None:
    schema = {"properties": {f"p{i}": {"type": "string", "maxLength": i} for i in range(5000)}}
    start = time.process_time()
    check_schema(schema)
    assert time.process_time() - start < 2  # against the metaschema it takes five times as long and more
