"""JSON schemas as data: well-formedness, references within one schema, closed objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from darwin_align.core.errors import RequestError
from darwin_align.core.json_types import Json

__all__ = ["JSON_TYPES", "check_schema", "closed", "resolved"]

JSON_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
"""Keywords whose value is a schema."""
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
"""Keywords whose value is a list of schemas."""
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords whose value is an object of schemas."""
_MIXED = ("$ref", "anyOf", "oneOf", "allOf", "if")


# -- references


def resolved(reference: str, root: Json) -> Json:
    """The schema that a reference within a schema points to.

    Args:
        reference: a ``$ref``: "#", or "#/" and a JSON pointer.
        root: the schema that the reference is relative to.

    Raises:
        LookupError: there is none.
    """
    if not reference.startswith("#"):
        raise LookupError(reference)
    found = root
    for part in reference[1:].strip("/").split("/") if reference.strip("#/") else ():
        key = part.replace("~1", "/").replace("~0", "~")
        found = found[int(key)] if isinstance(found, Sequence) else found[key]
    return found


# -- objects without other properties


def closed(schema: Json) -> Json:
    """The schema, with objects that list their properties taking no others unless they allow them.

    A model that may make up more names does so, and no program reads them. A schema that puts one object together from
    several parts is left as it is: a part that is closed would forbid the others.

    >>> closed({"type": "object", "properties": {"a": {"type": "string"}}})["additionalProperties"]
    False
    """
    return schema if any(_mixed(part) for part in _parts(schema)) else _closed(schema)


def _mixed(schema: Mapping[str, Any]) -> bool:
    parts = [name for name in _MIXED if name in schema]
    alternatives = schema.get("allOf")
    return (isinstance(alternatives, list) and len(alternatives) > 1) or (
        bool(parts) and ("properties" in schema or len(parts) > 1)
    )


def _parts(schema: Json) -> Iterable[Mapping[str, Any]]:
    """The schema and all schemas in it."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for _, inner in _inner(schema, _ONE):
        yield from _parts(inner)


def _inner(schema: Mapping[str, Any], one: Iterable[str]) -> Iterator[tuple[str, Json]]:
    """Paths and schemas of the schemas directly in a schema; ``one`` are keywords whose value is a schema."""
    for name in one:
        if name in schema:
            yield name, schema[name]
    for name in _MANY:
        if isinstance(listed := schema.get(name), list | tuple):
            yield from ((f"{name}[{i}]", inner) for i, inner in enumerate(listed))
    for name in (*_NAMED, "dependentSchemas"):
        if isinstance(named := schema.get(name), Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in named.items())


def _closed(schema: Json) -> Json:
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for name, value in schema.items():
        if name in _ONE:
            made[name] = _closed(value)
        elif name in _MANY and isinstance(value, list | tuple):
            made[name] = [_closed(one) for one in value]
        elif name in _NAMED and isinstance(value, Mapping):
            made[name] = {key: _closed(one) for key, one in value.items()}
    if "properties" in made and not made.keys() & {
        "additionalProperties",
        "patternProperties",
        "unevaluatedProperties",
    }:
        made["additionalProperties"] = False
    return made


# -- well-formedness


def check_schema(schema: Json) -> None:
    """Refuse a schema that no value can be checked against.

    Takes time linear in its size; the result is cached. (``jsonschema``'s own check against the metaschema takes a
    second for a thousand properties.)

    Args:
        schema: of Draft 2020-12; ``items`` may be a list, as before that draft.

    Raises:
        RequestError: a keyword of a wrong type, or a ``$ref`` that points out of the schema or to nothing.
    """
    if fault := _fault(json.dumps(schema)):
        raise RequestError(f"the JSON schema is not valid: {fault}")


_OUTSIDE = "is not part of it, and nothing is fetched: put that schema under $defs and refer to it by '#/$defs/…'"


class _FaultError(Exception):
    """A schema is not valid; the message states why."""


@lru_cache(maxsize=64)
def _fault(text: str) -> str:
    try:
        _check(json.loads(text))
    except _FaultError as fault:
        return str(fault)
    return ""


def _check(schema: Json) -> None:
    registry: Registry[Json] = Registry()  # retrieves nothing
    root = DRAFT202012.create_resource(schema if isinstance(schema, dict) else True)
    waiting = [("", schema, registry.resolver_with_root(root))]
    seen: set[int] = set()
    while waiting:
        checked = []
        while waiting:
            path, part, resolver = waiting.pop()
            if isinstance(part, bool) or id(part) in seen:
                continue
            _check_keywords(path, part)
            seen.add(id(part))
            resolver = resolver.in_subresource(DRAFT202012.create_resource(part))
            checked.append((path, part, resolver))
            waiting += [(_join(path, name), below, resolver) for name, below in _all_inner(part)]
        # Only now: looking up an anchor reads the whole schema, which is known to be well-formed here. What a reference
        # leads to may lie where no schema is expected, and is checked as well.
        for path, part, resolver in checked:
            waiting += _targets(path, part, resolver)


def _all_inner(schema: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    items = schema.get("items")
    if isinstance(items, list):
        yield from ((f"items[{i}]", item) for i, item in enumerate(items))
    one = (*_ONE, "unevaluatedItems", "unevaluatedProperties")
    yield from _inner(schema, (name for name in one if name != "items" or not isinstance(items, list)))


def _check_keywords(path: str, schema: Json) -> None:
    if not isinstance(schema, dict):
        raise _FaultError(f"{path or 'it'} is {_shown(schema)}, which is no schema")
    for keyword, value in schema.items():
        if keyword in _TYPES and not _TYPES[keyword][0](value):
            raise _FaultError(f"{_join(path, keyword)} is {_shown(value)} and not {_TYPES[keyword][1]}")


def _targets(path: str, schema: Mapping[str, Any], resolver: Any) -> Iterator[tuple[str, Json, Any]]:
    """What the references of a schema lead to, each with its path and its own resolver."""
    for keyword in ("$ref", "$dynamicRef"):
        if keyword not in schema:
            continue
        reference, position = schema[keyword], _join(path, keyword)
        try:
            target = resolver.lookup(reference)
        except Unresolvable:
            why = "points to nothing in it" if reference.startswith("#") else _OUTSIDE
            raise _FaultError(f"{position} is {_shown(reference)}, which {why}") from None
        except (ValueError, TypeError, AttributeError, LookupError):
            raise _FaultError(f"{position} is {_shown(reference)}, which is no reference to a schema") from None
        yield position, target.contents, target.resolver


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Json) -> bool:
    return _is_number(value) and value >= 0 and value == value // 1


def _is_name(value: Json) -> bool:
    return isinstance(value, str)


def _are_names(value: Json) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _is_type(value: Json) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in JSON_TYPES for name in names)


_Check = tuple[Callable[[Json], bool], str]
_TYPES: dict[str, _Check] = {
    "type": (_is_type, f"one of {', '.join(JSON_TYPES)} or a list of them"),
    "enum": (lambda value: isinstance(value, list), "a list"),
    "required": (_are_names, "a list of names"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_are_names, value.values())),
        "an object of lists of names",
    ),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (_is_number, "a number")),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "a whole number of at least 0"),
    ),
    **dict.fromkeys(("minContains", "maxContains"), (_is_count, "a whole number of at least 0")),
    **dict.fromkeys(
        ("$ref", "$dynamicRef", "$id", "$anchor", "$dynamicAnchor", "pattern", "format"), (_is_name, "a string")
    ),
    **dict.fromkeys(_MANY, (lambda value: isinstance(value, list), "a list of schemas")),
    **dict.fromkeys((*_NAMED, "dependentSchemas"), (lambda value: isinstance(value, dict), "an object of schemas")),
}


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}…"
