# ruff: noqa: ARG001 - keywords have the signature that jsonschema calls
"""A value against its JSON schema: ``jsonschema``, with bounded work and one plain sentence.

Draft 2020-12. References stay within the schema. Of formats, ``date``, ``email``, ``ipv4``, ``ipv6`` and ``uuid`` are
checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry

from darwin_align.core.json_types import Json
from darwin_align.formats.safe_patterns import PatternBudget
from darwin_align.formats.schemas import JSON_TYPES, check_schema

__all__ = ["json_type", "schema_violation"]

_STEPS = 400_000
"""Keywords that are applied to one value and its parts: about a second. References can multiply them without end."""
_REFERENCE_STEPS = 30
"""Following a reference costs as much as so many other keywords."""
_SHOWN = 80
_FORMATS = FormatChecker(formats=("date", "email", "ipv4", "ipv6", "uuid"))

_Keyword = Callable[[Validator, Json, Json, Mapping[str, Any]], Iterable[ValidationError] | None]
_KEYWORDS: dict[str, _Keyword] = dict(Draft202012Validator.VALIDATORS)


def json_type(value: Json) -> str:
    """The JSON type of a value, "integer" for a whole number; else the name of its Python type."""
    fits = (kind for kind in JSON_TYPES if Draft202012Validator.TYPE_CHECKER.is_type(value, kind))
    return next(fits, type(value).__name__)


def schema_violation(value: Json, schema: Json, *, root: Json = None) -> str:
    """What in a value breaks a schema, or "" if it keeps it: the outermost fault, with its path.

    ``pattern`` and ``patternProperties`` are left unchecked where a regular expression could take for ever: those with
    lookarounds or backreferences, and very large ones (:class:`~darwin_align.formats.safe_patterns.PatternBudget`). So
    is ``unevaluatedProperties`` in a schema that also has ``patternProperties``.

    Args:
        value: JSON.
        schema: a JSON schema of Draft 2020-12.
        root: the schema that references are relative to, if it is another one.

    Raises:
        RequestError: the schema is not valid, or refers to another document.

    >>> schema = {"type": "object", "properties": {"to": {"type": "integer", "maximum": 100}}}
    >>> schema_violation({"to": "hot"}, schema), schema_violation({"to": 120}, schema)
    ('to is string and not integer', 'to is 120 and not at most 100')
    """
    root = schema if root is None else root
    check_schema(root)
    registry: Registry[Json] = Registry()
    validator = _Validator(root, registry=registry, format_checker=_FORMATS).evolve(schema=schema)
    token = _check.set(_Check("patternProperties" in json.dumps(root)))
    try:
        fault = min(validator.iter_errors(value), key=_order, default=None)
    except _TooMuchWorkError:
        return "the value takes too long to be checked against its schema"
    except RecursionError:
        return "the value is nested too deeply to be checked against its schema"
    finally:
        _check.reset(token)
    return "" if fault is None else _sentence(fault)


# -- bounded work


class _TooMuchWorkError(Exception):
    """The steps of one check are used up."""


@dataclass
class _Check:
    """What one call of :func:`schema_violation` has used up."""

    has_patterns: bool
    """Whether the schema has ``patternProperties``."""
    steps: int = _STEPS
    patterns: PatternBudget = field(default_factory=PatternBudget)
    references: set[tuple[int, int]] = field(default_factory=set)
    """Schemas with a reference that is being followed, and for which values: both by identity."""


_check: ContextVar[_Check] = ContextVar("_check")


def _counted(keyword: _Keyword) -> _Keyword:
    def apply(
        validator: Validator, value: Json, instance: Json, schema: Mapping[str, Any]
    ) -> Iterable[ValidationError] | None:
        check = _check.get()
        check.steps -= 1
        if check.steps < 0:
            raise _TooMuchWorkError
        return keyword(validator, value, instance, schema)

    return apply


def _reference(
    keyword: str, validator: Validator, value: Json, instance: Json, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Follow a reference, once for each value: a definition that leads back to itself adds nothing."""
    check = _check.get()
    key, followed = (id(schema), id(instance)), check.references
    if key in followed:
        return
    check.steps -= _REFERENCE_STEPS
    followed.add(key)
    try:
        yield from _KEYWORDS[keyword](validator, value, instance, schema) or ()
    finally:
        followed.discard(key)


# -- keywords that are not left to jsonschema


def _pattern(
    validator: Validator, pattern: str, instance: Json, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, str) and _check.get().patterns.matches(pattern, instance) is False:
        yield ValidationError("pattern")


def _properties(
    validator: Validator, named: Mapping[str, Any], instance: Json, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    for name, inner in named.items() if isinstance(instance, dict) else ():
        if name in instance:
            yield from _property(validator, name, instance[name], inner)


def _property(validator: Validator, name: str, value: Json, schema: Json) -> Iterator[ValidationError]:
    if schema is False:  # jsonschema leaves the name out of that error's path
        yield ValidationError(name, validator="additionalProperties")
    else:
        yield from validator.descend(value, schema, path=name)


def _pattern_properties(
    validator: Validator, named: Mapping[str, Any], instance: Json, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    for name, value in instance.items() if isinstance(instance, dict) else ():
        for pattern, inner in named.items():
            if _check.get().patterns.matches(pattern, name):
                yield from _property(validator, name, value, inner)


def _additional_properties(
    validator: Validator, others: Json, instance: Json, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    matches = _check.get().patterns.matches
    for name, value in instance.items() if isinstance(instance, dict) else ():
        # An undecided pattern may match: then the name is not checked.
        if name in properties or any(matches(pattern, name) is not False for pattern in patterns):
            continue
        yield from _property(validator, name, value, others)


def _property_names(
    validator: Validator, names: Json, instance: Json, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    for name in instance if isinstance(instance, dict) else ():
        if (fault := next(iter(validator.descend(name, names)), None)) is not None:
            yield ValidationError(name, context=[fault])


def _unevaluated_properties(
    validator: Validator, others: Json, instance: Json, schema: Mapping[str, Any]
) -> Iterable[ValidationError] | None:
    if _check.get().has_patterns:  # jsonschema would match them with Python's re
        return ()
    return _KEYWORDS["unevaluatedProperties"](validator, others, instance, schema)


def _items(
    validator: Validator, items: Json, instance: Json, schema: Mapping[str, Any]
) -> Iterable[ValidationError] | None:
    keyword = "prefixItems" if isinstance(items, list) else "items"  # a list is the prefixItems of older drafts
    return _KEYWORDS[keyword](validator, items, instance, schema)


def _multiple_of(
    validator: Validator, divisor: Json, instance: Json, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Exact in decimals, as JSON spells the number: 0.3 is a multiple of 0.1."""
    if not validator.is_type(instance, "number"):
        return
    if not math.isfinite(instance) or Fraction(str(instance)) % Fraction(str(divisor)):
        yield ValidationError("multipleOf")


def _unique_items(
    validator: Validator, unique: bool, instance: Json, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """In linear time."""
    if unique and isinstance(instance, list) and len({_hashable(one) for one in instance}) < len(instance):
        yield ValidationError("uniqueItems")


def _hashable(value: Json) -> Json:
    if isinstance(value, dict):
        return "object", frozenset((name, _hashable(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_hashable, value))
    return isinstance(value, bool), value  # in JSON, true is not 1


_OWN: dict[str, _Keyword] = {
    "$ref": partial(_reference, "$ref"),
    "$dynamicRef": partial(_reference, "$dynamicRef"),
    "pattern": _pattern,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "propertyNames": _property_names,
    "unevaluatedProperties": _unevaluated_properties,
    "items": _items,
    "multipleOf": _multiple_of,
    "uniqueItems": _unique_items,
}
_Validator = extend(
    Draft202012Validator, {keyword: _counted(apply) for keyword, apply in {**_KEYWORDS, **_OWN}.items()}
)


# -- sentences


def _order(error: ValidationError) -> tuple[int, bool]:
    return len(error.absolute_path), error.validator != "type"


def _sentence(error: ValidationError) -> str:
    """Where a fault is, and what it is."""
    path, value = _path(error.absolute_path), error.instance
    if error.validator in ("required", "additionalProperties"):
        missing = (name for name in error.validator_value or () if name not in value)
        name, how = (next(missing), "missing") if error.validator == "required" else (error.message, "not expected")
        return f"{path}.{name} is {how}" if path else f"{name} is {how}"
    if error.validator == "propertyNames":
        return f"the name {_shown(error.message)}{f' in {path}' if path else ''} {_fault(error.context[0])}"
    return f"{path or 'the value'} {_fault(error)}"


def _fault(error: ValidationError) -> str:
    keyword, limit, value = str(error.validator), error.validator_value, error.instance
    if keyword in _COUNTED:
        return f"has {len(value)} {_COUNTED[keyword]} {limit}"
    if keyword in _BOUNDS:
        return f"is {_shown(value)} and not {_BOUNDS[keyword]} {limit}"
    if keyword == "type":
        return f"is {json_type(value)} and not {' or '.join([limit] if isinstance(limit, str) else limit)}"
    if keyword == "oneOf" and not error.context:
        return "fits more than one of its alternatives"
    # An enumeration is shown whole: a model that reads the sentence needs its values.
    shown = json.dumps(limit, ensure_ascii=False) if keyword == "enum" else _shown(limit)
    return _FAULTS.get(keyword, "does not keep {keyword}: {limit}").format(keyword=keyword, limit=shown)


def _path(parts: Iterable[str | int]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _shown(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_COUNTED = {
    "minLength": "characters and not at least",
    "maxLength": "characters and not at most",
    "minItems": "items and not at least",
    "maxItems": "items and not at most",
    "minProperties": "properties and not at least",
    "maxProperties": "properties and not at most",
}
_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
}
_FAULTS = {
    "None": "is not expected",  # the schema is ``false``
    "items": "has more items than are expected",  # the schema of the others is ``false``
    "anyOf": "fits none of its alternatives",
    "oneOf": "fits none of its alternatives",
    "enum": "is none of {limit}",
    "const": "is not {limit}",
    "pattern": "does not match the pattern {limit}",
    "format": "is not of the format {limit}",
    "uniqueItems": "holds the same item twice",
    "not": "fits what the schema excludes",
}
