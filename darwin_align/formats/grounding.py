"""What a conversation holds that a grounded answer may copy: spans of its texts, and its numbers.

A span begins and ends where a word does. Words are runs of letters, digits, underscores and their marks; in scripts
that put no blanks between words, and in Korean, whose words carry endings, every letter counts as one.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

from darwin_align.core.json_types import Json
from darwin_align.core.types import Request
from darwin_align.formats.schemas import JSON_TYPES, resolved
from darwin_align.formats.validation import schema_violation

__all__ = ["Sources", "is_free_text", "kinds_of", "lengths", "ungrounded"]

_WITHOUT_BLANKS = (
    "CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "HANGUL", "HALFWIDTH HANGUL", "YI ",
    "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "TAI ", "NEW TAI", "JAVANESE", "BALINESE",
)  # fmt: skip
"""How the names of their letters begin."""
_JOINERS = "\u200c\u200d"
_SKINS = range(0x1F3FB, 0x1F400)
_RUN = re.compile(
    r"(?P<sign>(?<![\w.,])[-\u2212])?(?P<run>(?:(?<![\w.,])\.)?\d+(?:[.,]\d+)*(?:[eE][+-]?\d{1,3}(?!\w))?)"
)
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(\.\d+)?|\d{1,3}(?:\.\d{3})+(,\d+)?")
_PLAIN = re.compile(r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_TEXT_FORMS = frozenset({"pattern", "format", "enum", "const"})


class Sources:
    """Texts that values are copied from.

    >>> sources = Sources(["Heat 1,500 ml to -3.50 degrees, says Zoë."])
    >>> sources.holds_text("says Zoë"), sources.holds_text("degree"), sources.holds_text("degrees, ")
    (True, False, False)
    >>> [sources.holds_number(number) for number in (1500, -3.5, 3, 50)]
    [True, True, False, False]

    Args:
        texts: no span reaches from one into the next.
        required: whether a value for which they hold nothing that fits is none at all, or any that its schema takes.
    """

    def __init__(self, texts: Sequence[str], *, required: bool = True) -> None:
        self.texts, self.required = tuple(texts), required

    @staticmethod
    def of(request: Request) -> Sources:
        """The sources of a grounded request."""
        return _kept(request.sources, required=request.grounded is True)

    @cached_property
    def chunks(self) -> tuple[tuple[str, ...], ...]:
        """Words and what stands between them, in order, for each text."""
        return tuple(tuple(_chunks(text)) for text in self.texts)

    @cached_property
    def numbers(self) -> frozenset[Decimal]:
        """The numbers that stand in the texts, in digits of any script.

        ``1,500`` is read as 1500, as 1.5, and as 1 and 500: readers differ in what a comma means. Likewise ``1.500``.
        """
        return frozenset(Decimal(number) for text in self.texts for number in _numbers(text))

    def has_text(self, shortest: int = 0, longest: int | None = None) -> bool:
        """Whether there is a span of so many letters."""
        for chunks, edges in zip(self.chunks, self._edges, strict=True):
            starts = sorted(edges)
            ends = [end for end, chunk in zip(starts[1:], chunks, strict=True) if _edge(chunk[-1])]
            for start, chunk in zip(starts, chunks, strict=False):
                at = bisect_left(ends, start + max(shortest, 1))
                if _edge(chunk[0]) and at < len(ends) and (longest is None or ends[at] <= start + longest):
                    return True
        return False

    def fitting(self, schema: Mapping[str, Any], *, whole: bool) -> list[Decimal]:
        """The numbers that keep a schema's bounds, smallest first."""
        return sorted(number for number in self.numbers if in_bounds(number, schema, whole=whole))

    def holds_text(self, value: str) -> bool:
        """Whether a value is a span."""
        if not value or not (_edge(value[0]) and _edge(value[-1])):
            return False
        return any(value in text and self._is_bounded(value, i) for i, text in enumerate(self.texts))

    def holds_number(self, value: float) -> bool:
        """Whether a value is one of the numbers."""
        if isinstance(value, float) and not value.is_integer():
            return value in self._floats
        return Decimal(value) in self.numbers

    def _is_bounded(self, value: str, i: int) -> bool:
        text, edges, at = self.texts[i], self._edges[i], -1
        while (at := text.find(value, at + 1)) >= 0:
            if at in edges and at + len(value) in edges:
                return True
        return False

    @cached_property
    def _edges(self) -> list[set[int]]:
        return [{0, *accumulate(map(len, chunks))} for chunks in self.chunks]

    @cached_property
    def _floats(self) -> frozenset[float]:
        return frozenset(map(float, self.numbers))


@lru_cache(maxsize=16)
def _kept(texts: tuple[str, ...], *, required: bool) -> Sources:
    return Sources(texts, required=required)  # cached: every call of every beam is checked against them


def _chunks(text: str) -> Iterator[str]:
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not _belong(text[at - 1], text[at]):
            yield text[start:at]
            start = at


def _belong(one: str, other: str) -> bool:
    """Whether two neighbours are never taken apart."""
    if _binds(other):
        return not one.isspace()
    if one == "\u200d":  # joins what is around it into one sign
        return True
    return _in_word(one) and _in_word(other)


@lru_cache(maxsize=4096)
def _binds(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "M" or letter in _JOINERS or ord(letter) in _SKINS


@lru_cache(maxsize=4096)
def _in_word(letter: str) -> bool:
    if not (letter.isalnum() or letter == "_" or _binds(letter)):
        return False
    return not unicodedata.name(letter, "").startswith(_WITHOUT_BLANKS)


def _edge(letter: str) -> bool:
    """Whether a span may begin or end with it."""
    return not (letter.isspace() or letter < " " or "\ud800" <= letter <= "\udfff")


def _numbers(text: str) -> Iterator[str]:
    for found in _RUN.finditer(text):
        run, sign = found["run"], "-" if found["sign"] else ""
        for i, reading in enumerate(_readings(run)):
            yield sign + reading
            if i and sign:  # a list: the sign is the first one's
                yield reading


def _readings(run: str) -> Iterator[str]:
    """What a run of digits, points and commas may mean."""
    if _PLAIN.fullmatch(run):
        yield run
    if _GROUPED.fullmatch(run):
        last = max(run.rfind("."), run.rfind(","))
        point = "." if "." in run and "," in run else ""
        yield re.sub("[.,]", "", run[:last]) + point + run[last + 1 :]
    if not _PLAIN.fullmatch(run):
        parts = [part for part in run.split(",") if _PLAIN.fullmatch(part)]
        if len(parts) == 2 and "." not in run:
            yield run.replace(",", ".")
        yield from parts or re.findall(r"\d+", run)


# -- answers against them


def kinds_of(schema: Mapping[str, Any]) -> list[str]:
    """The JSON types that a schema names, or all."""
    given = schema.get("type")
    named = [given] if isinstance(given, str) else list(given or [])
    kinds = [kind for kind in JSON_TYPES if kind in named] if named else list(JSON_TYPES)
    return [kind for kind in kinds if kind != "integer" or "number" not in kinds]  # a number may be whole


def is_free_text(schema: Mapping[str, Any]) -> bool:
    """Whether a schema allows any text.

    >>> is_free_text({"type": "string", "maxLength": 9}), is_free_text({"type": "string", "format": "date"})
    (True, False)
    """
    return not schema.keys() & _TEXT_FORMS


def lengths(schema: Mapping[str, Any]) -> tuple[int, int | None]:
    """The least and the largest number of letters of a text."""
    return schema.get("minLength", 0), schema.get("maxLength")


def in_bounds(number: Decimal, schema: Mapping[str, Any], *, whole: bool) -> bool:
    """Whether a number keeps a schema's bounds."""
    value = Fraction(number)
    bounds = {name: Fraction(str(given)) for name, given in schema.items() if name in _BOUNDS and _is_number(given)}
    return (not whole or value.denominator == 1) and all(_BOUNDS[name](value, bound) for name, bound in bounds.items())


_BOUNDS: dict[str, Any] = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
    "multipleOf": lambda value, bound: value % bound == 0,
}


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def ungrounded(value: Json, schema: Json, sources: Sources) -> str:
    """Which value of an answer that keeps its schema does not stand in the sources, or "" if all do.

    >>> schema = {"type": "object", "properties": {"who": {"type": "string"}, "how": {"enum": ["fast", "slow"]}}}
    >>> ungrounded({"who": "Ann", "how": "fast"}, schema, Sources(["Call Ann."]))
    ''
    >>> ungrounded({"who": "Bob", "how": "fast"}, schema, Sources(["Call Ann."]))
    'who is "Bob", which does not stand in the conversation'
    """
    return _ungrounded(value, schema, schema, sources, "")


def _ungrounded(value: Json, schema: Json, root: Json, sources: Sources, path: str) -> str:
    schema = schema if isinstance(schema, Mapping) else {}
    if schema.keys() & {"enum", "const"}:
        return ""
    if isinstance(reference := schema.get("$ref"), str):
        return _ungrounded(value, resolved(reference, root), root, sources, path)
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(name), Sequence) and options:
            found = [_ungrounded(value, one, root, sources, path) for one in options if _fits(value, one, root)]
            return min(found, key=len, default="")
    if isinstance(value, Mapping):
        return _in_object(value, schema, root, sources, path)
    if isinstance(value, list):
        first, items = schema.get("prefixItems") or [], schema.get("items")
        faults = (
            _ungrounded(one, first[i] if i < len(first) else items, root, sources, f"{path}[{i}]")
            for i, one in enumerate(value)
        )
        return next(filter(None, faults), "")
    copied = True
    if isinstance(value, str) and is_free_text(schema):
        copied = sources.holds_text(value) or not (sources.required or sources.has_text(*lengths(schema)))
    elif _is_number(value):
        whole = "number" not in kinds_of(schema)
        copied = sources.holds_number(value) or not (sources.required or sources.fitting(schema, whole=whole))
    return "" if copied else f"{path or 'the value'} is {_shown(value)}, which does not stand in the conversation"


def _in_object(value: Mapping[str, Any], schema: Mapping[str, Any], root: Json, sources: Sources, path: str) -> str:
    properties, others = schema.get("properties") or {}, schema.get("additionalProperties")
    for name, one in value.items():
        where = f"{path}.{name}" if path else name
        if name not in properties and not sources.holds_text(name):
            return f"{where} is a name that does not stand in the conversation"
        if found := _ungrounded(one, properties.get(name, others), root, sources, where):
            return found
    return ""


def _fits(value: Json, schema: Json, root: Json) -> bool:
    """Whether a value keeps an alternative of its schema."""
    if isinstance(schema, Mapping) and isinstance(reference := schema.get("$ref"), str):
        schema = resolved(reference, root)
    return not schema_violation(value, schema, root=root)


def _shown(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
