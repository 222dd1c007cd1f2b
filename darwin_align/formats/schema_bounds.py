"""How large the JSON schemas and grounding texts of a request may be.

The bounds keep compiling a grammar short. They are checked in one linear pass before anything else.

Measured with llguidance 1.9.1 and the embedded tokenizer on one core (seconds to compile):

=====================================  =====================================================
part of a schema                       seconds by how many there are
=====================================  =====================================================
required string properties             1,000: 0.06    2,000: 0.18    4,000: 0.5    8,000: 34
optional string properties             1,000: 0.20    2,000: 0.56
objects in one ``anyOf``               1,000: 0.17    2,000: 0.42
patternProperties                        100: 0.08      150: 0.36      200: 1.0      500: 38
numbers with ``minimum``, ``maximum``    150: 0.17      200: 0.36    1,000: 3.2
``format``                               350: 0.35
``pattern``                              500: 0.06    1,000: 0.15
values of one ``enum``                 8,000: 0.11   20,000: 0.22
grounding texts of 100 kB: 0.1, of 400 kB: 0.7, of 1 MB: 2.9
=====================================  =====================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darwin_align.core.errors import RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.types import Request

__all__ = ["check_schemas", "check_size"]

_MOST = {
    "characters": 250_000,
    "properties": 1_000,
    "patternProperties": 100,
    "alternatives (anyOf, oneOf, allOf, prefixItems)": 1_000,
    "numbers with bounds": 150,
    "texts with a pattern or format": 250,
}
_DEEPEST = 64
_SOURCES = 400_000
"""Characters of the texts that grounded values are copied from."""
_ALTERNATIVES = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_FORMS = frozenset({"pattern", "format"})


def check_size(request: Request) -> None:
    """Refuse schemas and grounding texts that would take too long to compile.

    The bounds hold for ``response_format`` and ``tools`` together. Takes time linear in the size of what it accepts.

    Raises:
        RequestError: a bound is passed; the sentence names it.
    """
    check_schemas([request.response_format, list(request.tools)])
    length = sum(map(len, request.sources))
    if length > _SOURCES:
        raise RequestError(
            f"grounded={request.grounded!r}: the texts that values are copied from have {length} characters, more than "
            f"the {_SOURCES} that can be compiled into a grammar. Give fewer of them by grounded_in=…"
        )


def check_schemas(schemas: Json) -> None:
    """Refuse JSON schemas that would take too long to compile.

    Args:
        schemas: one, or lists and objects that contain any number of them; they are counted together.

    Raises:
        RequestError: a bound is passed; the sentence names it.
    """
    _Measure().add(schemas)


class _Measure:
    """Counts the parts of JSON schemas and stops at the first bound."""

    def __init__(self) -> None:
        self._found = dict.fromkeys(_MOST, 0)

    def add(self, value: Json) -> None:
        """Count a value and everything in it, without recursion."""
        open_values: list[tuple[Json, int]] = [(value, 0)]
        while open_values:
            inner, depth = open_values.pop()
            if depth > 2 * _DEEPEST:  # a schema in a schema is two levels of JSON: the keyword and the schema
                raise _too_large(f"is nested more than {_DEEPEST} deep")
            if isinstance(inner, Mapping):
                self._count("characters", sum(len(name) + 4 for name in inner))
                self._keywords(inner)
                open_values += [(one, depth + 1) for one in inner.values()]
            elif isinstance(inner, list | tuple):
                open_values += [(one, depth + 1) for one in inner]
            self._count("characters", len(inner) + 2 if isinstance(inner, str) else 4)

    def _keywords(self, schema: Mapping[str, Any]) -> None:
        for name in ("properties", "patternProperties"):
            if isinstance(named := schema.get(name), Mapping):
                self._count(name, len(named))
        for name in _ALTERNATIVES & schema.keys():
            if isinstance(listed := schema[name], list | tuple):
                self._count("alternatives (anyOf, oneOf, allOf, prefixItems)", len(listed))
        if any(isinstance(schema[name], int | float) for name in _BOUNDS & schema.keys()):
            self._count("numbers with bounds", 1)
        if any(isinstance(schema[name], str) for name in _FORMS & schema.keys()):
            self._count("texts with a pattern or format", 1)

    def _count(self, what: str, more: int) -> None:
        self._found[what] += more
        if self._found[what] > (most := _MOST[what]):
            raise _too_large(f"has more than {most} {what}")


def _too_large(how: str) -> RequestError:
    return RequestError(
        f"the JSON schema of response_format and tools together {how}, which takes too long to compile: ask for less "
        "in one request, or leave the constraint out and check the answer yourself"
    )
