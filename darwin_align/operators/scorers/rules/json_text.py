"""JSON in an answer: the rule, and how far the beginning of a text can still become JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.core.json_types import Json
from darwin_align.formats.schemas import check_schema
from darwin_align.formats.validation import schema_violation
from darwin_align.operators.scorers.rules.base import BROKEN, Decides, Rule, Verdict, still_open

__all__ = ["JsonSchema"]

_FENCES = ("```json", "```Json", "```JSON", "```")
_SPACE = " \t\n\r"
_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_BEGUN_NUMBER = re.compile(r"\.|[eE][-+]?")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+')
_BEGUN_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_CLOSED_BY = {"{": "}", "[": "]"}


@dataclass(frozen=True)
class JsonSchema(Rule):
    r"""The answer is JSON that keeps a schema, alone or between lines of three backticks.

    >>> rule = JsonSchema({"type": "object", "required": ["tea"]})
    >>> rule.judge('{"tea": "green"}', finished=True).state, rule.judge('{"tea": green', finished=False).state
    ('kept', 'broken')
    >>> rule.judge('```json\n{"milk": 1}\n', finished=False).state
    'broken'
    """

    schema: Mapping[str, Any] | bool = field(default=True, hash=False)
    """A JSON schema of Draft 2020-12; ``True`` takes any JSON."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.schema, Mapping | bool):
            raise ConfigError(f"JsonSchema({self.schema!r:.80}): give a JSON schema, or nothing for any JSON")
        try:
            check_schema(self.schema)
        except RequestError as error:
            raise ConfigError(f"JsonSchema(…): {error}") from None

    @property
    def decides(self) -> Decides:
        """What can become no such JSON breaks it."""
        return "broken"

    def holds(self, text: str) -> bool:
        """Whether it is such JSON. As Python reads it: ``NaN`` and ``Infinity`` are numbers."""
        body = text.strip()
        for fence in _FENCES:
            body = body.removeprefix(fence)
        return self._fits(body.removesuffix("```").strip())

    def on_prefix(self, text: str) -> Verdict:
        """Broken by a character that fits nowhere, by text behind the value, and by a value that breaks the schema."""
        body = _unfenced(text.lstrip())
        if body is None:
            return still_open(0.0)
        scan = _Scan(body.lstrip())
        if scan.end is None:
            return BROKEN if scan.wrong else still_open(0.5)
        if not "```".startswith(scan.text[scan.end :].strip()) or not self._fits(scan.text[: scan.end]):
            return BROKEN
        return still_open(1.0)

    def _fits(self, text: str) -> bool:
        try:
            value: Json = json.loads(text)
        except (ValueError, RecursionError):
            return False
        return self.schema is True or not schema_violation(value, self.schema)


def _unfenced(text: str) -> str | None:
    """What follows the opening backticks, ``None`` while they may still go on."""
    for fence in _FENCES:
        if text != fence and fence.startswith(text):
            return None
        text = text.removeprefix(fence)
    return text


class _Scan:
    """How far a text is JSON: ``end`` is the index behind a complete value, ``wrong`` says that there can be none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.end: int | None = None
        self.wrong = False
        self._at = 0
        self._open: list[str] = []
        self._step = self._value
        while self.end is None and not self.wrong and self._at < len(text):
            if text[self._at] in _SPACE:
                self._at += 1
            else:
                self._step()

    def _value(self) -> None:
        character = self.text[self._at]
        if character in _CLOSED_BY:
            self._open.append(character)
            self._at += 1
            self._step = self._first_key if character == "{" else self._first_item
        elif character == '"':
            self._string(self._close)
        else:
            self._scalar()

    def _scalar(self) -> None:
        number = _NUMBER.match(self.text, self._at)
        if number is not None:
            rest = number.end()
            if rest == len(self.text) or _BEGUN_NUMBER.fullmatch(self.text, rest):
                self._at = len(self.text)  # more digits may follow
            else:
                self._at = rest
                self._close()
            return
        for literal in _LITERALS:
            if self.text.startswith(literal, self._at):
                self._at += len(literal)
                self._close()
                return
        rest = len(self.text) - self._at
        self.wrong = (
            not any(literal.startswith(self.text[self._at : self._at + 9]) for literal in _LITERALS) or rest > 8
        )
        self._at = len(self.text)

    def _string(self, then: Any) -> None:
        match = _STRING.match(self.text, self._at)
        end = self._at + 1 if match is None else match.end()
        if end == len(self.text) or _BEGUN_ESCAPE.fullmatch(self.text, end):
            self._at = len(self.text)
        elif self.text[end] == '"':
            self._at = end + 1
            then()
        else:
            self.wrong = True

    def _first_key(self) -> None:
        if self.text[self._at] == "}":
            self._at += 1
            self._end_container()
        else:
            self._key()

    def _key(self) -> None:
        if self.text[self._at] == '"':
            self._string(self._after_key)
        else:
            self.wrong = True

    def _after_key(self) -> None:
        self._step = self._colon

    def _colon(self) -> None:
        self.wrong = self.text[self._at] != ":"
        self._at += 1
        self._step = self._value

    def _first_item(self) -> None:
        if self.text[self._at] == "]":
            self._at += 1
            self._end_container()
        else:
            self._value()

    def _close(self) -> None:
        """A value is complete."""
        if self._open:
            self._step = self._comma_or_end
        else:
            self.end = self._at

    def _comma_or_end(self) -> None:
        character = self.text[self._at]
        self._at += 1
        if character == ",":
            self._step = self._key if self._open[-1] == "{" else self._value
        elif character == _CLOSED_BY[self._open[-1]]:
            self._end_container()
        else:
            self.wrong = True

    def _end_container(self) -> None:
        self._open.pop()
        self._close()
