"""JSON that keeps a schema and whose values are copied from a conversation: rules of llguidance's Lark for it.

``%json`` knows no such values, so objects, arrays and alternatives are spelled out as rules here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from darwin_align.core.errors import RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.log_once import log_once
from darwin_align.formats.grounding import Sources, is_free_text, kinds_of, lengths
from darwin_align.formats.schemas import resolved
from darwin_align.formats.validation import schema_violation

__all__ = ["GroundedJson", "NoSourceValue"]

logger = logging.getLogger(__name__)

_UNKNOWN = frozenset({
    "$dynamicRef", "additionalItems", "contains", "dependentRequired", "dependentSchemas", "else", "if", "maxContains",
    "maxProperties", "minContains", "minProperties", "not", "patternProperties", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties", "uniqueItems", "x-guidance",
})  # fmt: skip
_TEXT = ("minLength", "maxLength", "pattern", "format")
_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_KEYWORDS = _UNKNOWN.union(
    ("$ref", "additionalProperties", "allOf", "anyOf", "const", "enum", "items", "maxItems", "minItems", "oneOf"),
    ("prefixItems", "properties", "required", "type", *_TEXT, *_NUMBER),
)
"""All that constrain a value; other keywords annotate it."""
_LETTER = r'(?:[^"\\\x00-\x1f]|\\(?:["\\nrtfb]|u00[01][0-9a-f]))'
"""One of a JSON text, as :func:`json.dumps` encodes it."""
_AT_EDGE = r'(?:[^"\\\s\x00-\x1f]|\\["\\])'
"""The same, without white space."""
_BREAK = "\0"
"""Between two texts: no JSON text holds it, so no span reaches over it."""


class NoSourceValue(Exception):  # noqa: N818 - an outcome that callers handle
    """A value is wanted, and nothing in the sources will do.

    Args:
        kind: what is wanted.
        path: for which value.
    """

    def __init__(self, kind: str, path: str) -> None:
        self.kind, self.path = kind, path
        super().__init__(f"{path or 'the answer'} requires {kind}, and the conversation contains none")


class _RegenerateRules(Exception):  # noqa: N818
    """A definition that rules already refer to turned out to have no values: the rules are to be generated again."""


class GroundedJson:
    """Generates rules for grounded JSON.

    Args:
        sources: where values are copied from.
        rules: a grammar's, to which more are added.
        space: a regular expression: the white space that may stand between two tokens of JSON.
    """

    def __init__(self, sources: Sources, rules: list[str], space: str) -> None:
        self.sources, self._rules, self._names = sources, rules, 0
        self.add(f"/{space}/?", "ws")
        self.add(f"%regex {json.dumps({'substring_chunks': self._chunks()})}", "SPAN")
        self.add(rf'"\"" SPAN "\"" & /"(?:{_AT_EDGE}|{_AT_EDGE}{_LETTER}*{_AT_EDGE})"/', "STRING")

    def rule(self, schema: Json, owner: str) -> str:
        """Add the rules for a schema and name the first of them.

        Args:
            schema: a JSON schema that llguidance takes.
            owner: what the schema is of, as errors name it.

        Raises:
            RequestError: a part of the schema is of a form that cannot be grounded.
            NoSourceValue: it cannot be filled from the sources, and must be.
        """
        size = len(self._rules)
        empty: dict[str, NoSourceValue] = {}
        lenient = False
        while True:
            try:
                return self.add(_Writer(self, schema, owner, empty, lenient).value(schema, ""))
            except NoSourceValue as nothing:
                if self.sources.required or lenient:
                    raise
                lenient, empty = True, {}
                log_once(logger, f"{owner}: {nothing}, so it is not constrained (grounded='where_possible')")
            except _RegenerateRules:
                pass
            del self._rules[size:]

    def add(self, body: str, name: str = "") -> str:
        """Add a rule and return its name; a name in capitals makes it a terminal."""
        name = name or self.name()
        self._rules.append(f"{name}: {body}")
        return name

    def name(self, first: str = "grounded") -> str:
        """A name that no rule has."""
        self._names += 1
        return f"{first}_{self._names}"

    def _chunks(self) -> list[str]:
        chunks: list[str] = []
        for text in self.sources.chunks:
            # A lone surrogate cannot be encoded, so no model generates it.
            torn = (any("\ud800" <= letter <= "\udfff" for letter in chunk) for chunk in text)
            escaped = (json.dumps(chunk, ensure_ascii=False)[1:-1] for chunk in text)
            chunks += [_BREAK if cut else chunk for cut, chunk in zip(torn, escaped, strict=True)]
            chunks.append(_BREAK)
        return chunks


class _Writer:
    """Generates the rules of one schema."""

    def __init__(
        self, grammar: GroundedJson, root: Json, owner: str, empty: dict[str, NoSourceValue], lenient: bool
    ) -> None:
        self._grammar, self._sources, self._root, self._owner = grammar, grammar.sources, root, owner
        self._lenient = lenient
        self._empty, self._named, self._referred = empty, dict[str, str](), set[str]()

    def value(self, schema: Json, path: str) -> str:
        """What stands for a value in the body of a rule."""
        if schema is False:
            raise NoSourceValue("nothing at all", path)
        schema = {name: schema[name] for name in schema if name in _KEYWORDS} if isinstance(schema, Mapping) else {}
        if unknown := sorted(schema.keys() & _UNKNOWN):
            raise self._refused(unknown[0], path)
        if schema.keys() & {"enum", "const"}:
            return self._listed(schema, path)
        alone = {"$ref": self._reference, "allOf": self._all, "anyOf": self._any, "oneOf": self._any}
        for name, rule in alone.items():
            if name in schema:
                if beside := sorted(schema.keys() - {name}):
                    raise self._refused(f"{name} beside {beside[0]}", path)
                return rule(schema[name], path)
        writers: dict[str, Callable[[Mapping[str, Any], str], str]] = {
            "null": _null, "boolean": _boolean, "integer": self._number, "number": self._number,
            "string": self._string, "array": self._array, "object": self._object,
        }  # fmt: skip
        options = [partial(writers[kind], {**schema, "type": kind}, path) for kind in kinds_of(schema)]
        if not schema:  # anything at all, which may hold anything
            return self._shared("", lambda: self._first_of(options))
        return self._first_of(options)

    def _refused(self, what: str, path: str) -> RequestError:
        where = f" at {path}" if path else ""
        return RequestError(
            f"{self._owner} cannot be grounded: {what}{where} is not supported there. Write that part of the schema "
            "without it, or leave grounded out"
        )

    def _first_of(self, options: Sequence[Callable[[], str]]) -> str:
        """Alternatives, without those that nothing in the sources fits."""
        found, missing = [], []
        for option in options:
            try:
                found.append(option())
            except NoSourceValue as nothing:
                missing.append(nothing)
        if not found:
            raise missing[0]
        return found[0] if len(found) == 1 else f"({' | '.join(found)})"

    def _any(self, alternatives: Json, path: str) -> str:
        return self._first_of([partial(self.value, one, path) for one in alternatives])

    def _all(self, parts: Json, path: str) -> str:
        if len(parts) != 1:
            raise self._refused("allOf of several", path)
        return self.value(parts[0], path)

    def _reference(self, reference: str, path: str) -> str:
        try:
            schema = resolved(reference, self._root)
        except (LookupError, ValueError, TypeError):
            raise self._refused(f"$ref {reference!r}", path) from None
        return self._shared(reference, lambda: self.value(schema, path))

    def _shared(self, key: str, body: Callable[[], str]) -> str:
        """One rule for a schema that is used several times, or contains itself."""
        if key in self._empty:
            raise self._empty[key]
        if key in self._named:
            self._referred.add(key)
            return self._named[key]
        name = self._named[key] = self._grammar.name()  # known before its rule is
        try:
            return self._grammar.add(body(), name)
        except NoSourceValue as nothing:
            self._empty[key] = nothing
            del self._named[key]
            raise (_RegenerateRules if key in self._referred else nothing) from None

    # -- kinds of values

    def _listed(self, schema: Mapping[str, Any], path: str) -> str:
        """An enumeration or a constant: its values are the schema's."""
        if beside := sorted(schema.keys() - {"enum", "const", "type"}):
            raise self._refused(f"enum beside {beside[0]}", path)
        values = [one for one in schema.get("enum", [schema.get("const")]) if not schema_violation(one, schema)]
        if not values:
            raise NoSourceValue("a value of its enumeration", path)
        return "(" + " | ".join(_literal(json.dumps(one, ensure_ascii=False)) for one in values) + ")"

    def _number(self, schema: Mapping[str, Any], path: str) -> str:
        whole = schema["type"] == "integer"
        if not (fitting := self._sources.fitting(schema, whole=whole)):
            return self._free(schema, _NUMBER, "a whole number that fits" if whole else "a number that fits", path)
        numbers = dict.fromkeys(re.escape(_as_json(number)) for number in fitting)
        return self._grammar.add(f"/{'|'.join(numbers)}/", self._grammar.name("GROUNDED"))

    def _string(self, schema: Mapping[str, Any], path: str) -> str:
        if not is_free_text(schema):
            return self._left(schema, _TEXT)
        shortest, longest = lengths(schema)
        if not self._sources.has_text(shortest, longest):
            return self._free(schema, _TEXT, "a text that fits", path)
        if not shortest and longest is None:
            return "STRING"
        length = f"{{{shortest},{'' if longest is None else longest}}}"
        return self._grammar.add(rf'STRING & /"{_LETTER}{length}"/', self._grammar.name("GROUNDED"))

    def _free(self, schema: Mapping[str, Any], keywords: Iterable[str], kind: str, path: str) -> str:
        """What stands for a value that is not to be had."""
        if not self._lenient:
            raise NoSourceValue(kind, path)
        return self._left(schema, keywords)

    def _left(self, schema: Mapping[str, Any], keywords: Iterable[str]) -> str:
        """A value that is constrained by the schema only."""
        rest = {name: schema[name] for name in ("type", *keywords) if name in schema}
        # Without white space of its own it shares its tokens' borders with the rest of the grammar.
        return self._grammar.add(f"%json {json.dumps({**rest, 'x-guidance': {'whitespace_flexible': False}})}")

    def _array(self, schema: Mapping[str, Any], path: str) -> str:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if first := schema.get("prefixItems"):
            if not least == len(first) == (len(first) if schema.get("items") is False else most):
                raise self._refused("prefixItems without as many items", path)
            items = [self._grammar.add(self.value(one, f"{path}[{i}]")) for i, one in enumerate(first)]
            listed = ' "," ws '.join(items)
            return f'("[" ws {listed} ws "]")'
        nothing = '"[" ws "]"'
        try:
            if most == 0:
                return f"({nothing})"
            item = self._grammar.add(self.value(schema.get("items"), f"{path}[]"))
        except NoSourceValue:
            if least:
                raise
            return f"({nothing})"
        more = _repeated(f'("," ws {item})', max(least - 1, 0), most if most is None else most - 1)
        some = f'"[" ws {item} {more} ws "]"'
        return f"({some})" if least else f"({some} | {nothing})"

    def _object(self, schema: Mapping[str, Any], path: str) -> str:
        properties, needed = schema.get("properties") or {}, schema.get("required") or ()
        others = schema.get("additionalProperties", True)
        entries: list[tuple[str, bool]] = []
        for name in dict.fromkeys((*properties, *needed)):
            try:
                value = self.value(properties.get(name, others), f"{path}.{name}" if path else name)
            except NoSourceValue:
                if name in needed:
                    raise
                continue
            entries.append((self._grammar.add(f"{_literal(_quoted(name) + ':')} ws {value}"), name in needed))
        return f'("{{" ws {self._entries(entries, self._other(others, properties, path))} ws "}}")'

    def _entries(self, entries: Sequence[tuple[str, bool]], other: str) -> str:
        """The rule for an object's entries in their order; of those that are not needed, any may be left out."""
        add = self._grammar.add
        # Built from the last entry backwards: ``after`` is what may follow an entry, ``first`` what may follow the
        # opening brace, where no comma stands yet.
        after = add(f'("," ws {other})*' if other else '""')
        first = add(f"({other} {after})?" if other else '""')
        for entry, needed in reversed(entries):
            first = add(f"{entry} {after}" if needed else f"{entry} {after} | {first}")
            after = add(f'"," ws {entry} {after}' if needed else f'("," ws {entry})? {after}')
        return first

    def _other(self, schema: Json, taken: Mapping[str, Any], path: str) -> str:
        """The rule for an entry that the schema does not name, or "" if there is none: its name is copied as well."""
        if schema is False or not self._sources.has_text():
            return ""
        try:
            value = self.value(schema, f"{path}[…]")
        except NoSourceValue:
            return ""
        key = "STRING"
        if taken:
            names = " | ".join(_literal(_quoted(name)) for name in taken)
            key = self._grammar.add(f"STRING & ~({names})", self._grammar.name("GROUNDED"))
        return self._grammar.add(f'{key} ":" ws {value}')


def _repeated(part: str, least: int, most: int | None) -> str:
    """A part, repeated between ``least`` and ``most`` times. Lark has no repetition of zero times."""
    needed = f"{part}{{{least}}} " if least else ""
    if most is None:
        return f"{needed}{part}*"
    return f"{needed}{part}{{0,{most - least}}}" if most > least else needed


def _null(*_: object) -> str:
    return '"null"'


def _boolean(*_: object) -> str:
    return '("true" | "false")'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _literal(text: str) -> str:
    """Exactly this text, in Lark."""
    return json.dumps(text, ensure_ascii=False)


def _as_json(number: Decimal) -> str:
    """A number as JSON, without insignificant zeros."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
