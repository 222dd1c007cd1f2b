"""Reading the tool calls in an answer: whole, cut or broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from darwin_align.core.json_types import Json
from darwin_align.core.types import ToolCall
from darwin_align.formats.call_template import ID_LETTERS, ID_MARK, INDEX_DIGITS, INDEX_MARK, CallMarks
from darwin_align.formats.request_formats import functions
from darwin_align.formats.validation import json_type, schema_violation

__all__ = ["InvalidCall", "Parsed", "parse_calls"]


@dataclass(frozen=True)
class InvalidCall:
    """A call that cannot be made."""

    text: str
    """As the model generated it, marks included."""
    reason: str
    name: str | None = None
    """The tool's, where it could be read."""


@dataclass(frozen=True)
class Parsed:
    """An answer taken apart."""

    text: str
    """The answer without its calls."""
    calls: tuple[ToolCall, ...] = ()
    """Calls of tools that exist, with arguments that are JSON objects; without ids."""
    invalid: tuple[InvalidCall, ...] = ()
    violations: tuple[str, ...] = ()
    """For each of ``calls``: what in its arguments breaks the tool's schema, or ""."""
    open: bool = False
    """Whether a call has begun and is not complete."""
    pending: str = ""
    """The beginning of that call: neither in ``text`` nor in ``invalid``."""


def parse_calls(marks: CallMarks, text: str, tools: Sequence[Mapping[str, Any]], *, finished: bool) -> Parsed:
    """Take an answer apart.

    Args:
        marks: how calls are found in it.
        text: the answer so far.
        tools: those of the request, in OpenAI's form.
        finished: whether nothing will follow: a call that is cut is invalid then, not open.
    """
    found = _Findings(functions(tools), [dict(tool) for tool in tools])
    rest = _read_calls(marks, text, found, finished)
    if rest.call and not finished:
        return replace(found.parsed(marks, rest.text, begun=True), open=True, pending=rest.call)
    if rest.begun:
        found.refuse(rest.call, "the call is not complete: the answer ended too early", _name_in(rest.call))
        return found.parsed(marks, rest.text)
    return found.parsed(marks, rest.text + rest.call)


@dataclass(frozen=True)
class _Rest:
    """What is left behind the last complete call."""

    text: str
    call: str = ""
    """A call that has begun, or what may be the beginning of its mark."""
    begun: bool = False
    """Whether the mark is complete."""


@dataclass
class _Findings:
    """What was found in an answer so far."""

    schemas: dict[str, dict[str, Any]]
    tools: list[dict[str, Any]]
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    invalid: list[InvalidCall] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def parsed(self, marks: CallMarks, rest: str, *, begun: bool = False) -> Parsed:
        """What was found, with the text behind the last call: unchanged if there is no call, else without white space
        around calls.
        """
        if self.calls or self.invalid or begun:
            pieces = [piece.strip().removeprefix(marks.end).removesuffix(marks.begin) for piece in (*self.texts, rest)]
            rest = "\n".join(piece.strip() for piece in pieces if piece.strip())
        return Parsed(rest, tuple(self.calls), tuple(self.invalid), tuple(self.violations))

    def add_all(self, calls: Iterable[tuple[Json, Json]], text: str) -> None:
        """Add calls by their names and arguments, which were read from a text."""
        if not (listed := list(calls)):
            self.refuse(text, "it makes no call")
        for name, arguments in listed:
            self.add(name, arguments, text)

    def add(self, name: Json, arguments: Json, text: str) -> None:
        """Add a call that could be read."""
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                return self.refuse(text, f"its arguments are no JSON: {error}", name)
        if not isinstance(name, str) or name not in self.schemas:
            known = ", ".join(self.schemas) or "none"
            return self.refuse(text, f"there is no tool {name!r}: the tools are {known}", name)
        if not isinstance(arguments, dict):
            return self.refuse(text, f"its arguments are no JSON object but {json_type(arguments)}", name)
        try:
            self.calls.append(ToolCall(name=name, arguments=arguments))
        except ValidationError:
            return self.refuse(text, "its arguments hold what JSON cannot", name)
        self.violations.append(schema_violation(arguments, self.schemas[name]))
        return None

    def refuse(self, text: str, reason: str, name: Json = None) -> None:
        """Add a call that cannot be made."""
        self.invalid.append(InvalidCall(text, reason, name if isinstance(name, str) else None))


def _read_calls(marks: CallMarks, text: str, found: _Findings, finished: bool) -> _Rest:
    """Go through an answer from call to call; return what is behind the last one that is complete."""
    at = 0
    while (place := _next_call(marks, text, at)) is not None:
        ends, start = place
        found.texts.append(text[at:ends])
        end = _read_call(marks, text, start, found, finished)
        if end is None:
            found.texts.pop()
            return _Rest(text[at:ends], text[start:], begun=True)
        at = end
    rest = text[at:]
    cut = len(rest) - _half_mark(marks, rest)
    return _Rest(rest[:cut], rest[cut:])


def _next_call(marks: CallMarks, text: str, at: int) -> tuple[int, int] | None:
    """Where the text before the next call ends, and where that call begins."""
    if marks.mark:
        start = text.find(marks.mark, at)
        return None if start < 0 else (start, start)
    # Nothing marks a call: a JSON object at the beginning is one if it has the right keys, and so are those behind it.
    lead = re.compile(r"\s*;?\s*" if at else r"\s*(?:<\|python_tag\|>)?\s*").match(text, at)
    start = lead.end() if lead else at
    if marks.keys is None or not text.startswith("{", start):
        return None
    whole, _ = _decoded(text, start)
    if whole is not None:
        return (at, start) if marks.keys[0] in whole and _arguments_key(marks.keys, whole) in whole else None
    begun, first = re.sub(r"\s", "", text[start:]), f'{{"{marks.keys[0]}"'
    return (at, start) if begun.startswith(first) or first.startswith(begun) else None


def _read_call(marks: CallMarks, text: str, start: int, found: _Findings, finished: bool) -> int | None:
    """Read the call that begins at ``start``; return where it ends, or ``None`` if it is not complete."""
    body = start + len(marks.mark)
    name, at = _leading_name(marks, text, body)
    value, end = (None, body) if marks.read or at is None else _decoded_calls(marks, text, at)
    if value is not None:
        behind = _past_space(text, end)
        if text.startswith(marks.close, behind):
            stop = behind + len(marks.close) if marks.close else end
            found.add_all(_entries(marks, name, value), text[start:stop])
            return stop
        if marks.close.startswith(text[behind:]):
            return None
    closed = text.find(marks.close, body) if marks.close else -1
    if closed < 0 or (not finished and marks.read is None and _ends_in_string(text, body if at is None else at)):
        return None
    stop = closed + len(marks.close)
    _read_marked(marks, text[start:stop], text[body:closed], found)
    return stop


def _read_marked(marks: CallMarks, piece: str, body: str, found: _Findings) -> None:
    """Read a call between its marks that is no plain JSON."""
    if marks.read is None:
        return found.refuse(piece, f"it is no JSON: {_json_error(body, marks)}", _name_in(piece))
    try:
        calls: Json = marks.read(piece, found.tools).get("tool_calls") or []
        abouts = [call.get("function", call) for call in (calls if isinstance(calls, list) else [calls])]
        return found.add_all([(about.get("name"), about.get("arguments")) for about in abouts], piece)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return found.refuse(piece, f"it cannot be read: {str(error).partition(chr(10))[0]}", _name_in(piece))


def _leading_name(marks: CallMarks, text: str, body: int) -> tuple[str | None, int | None]:
    """The name, and where the JSON begins; nowhere if the text between them is not there (yet)."""
    if marks.keys is not None:
        return None, body
    middle = re.escape(marks.middle).replace(re.escape(ID_MARK), ID_LETTERS)
    middle = middle.replace(re.escape(INDEX_MARK), INDEX_DIGITS)
    found = re.compile(r"(?s)\s*([^\s{]+?)\s*" + (f"{middle}\\s*" if middle else "") + r"(?=\{)").match(text, body)
    return (found[1], found.end()) if found else (None, None)


def _decoded(text: str, at: int) -> tuple[Json, int]:
    """The JSON value at an index and where it ends; ``None`` if there is none."""
    try:
        return _DECODER.raw_decode(text, _past_space(text, at))
    except (ValueError, RecursionError):
        return None, at


def _decoded_calls(marks: CallMarks, text: str, at: int) -> tuple[Json, int]:
    """The JSON of a call, or of all that follow one another up to the closing mark, and where it ends."""
    value, end = _decoded(text, at)
    while value is not None and marks.keys is not None and marks.close:
        more, behind = _decoded(text, re.compile(r"\s*,?").match(text, end).end())  # type: ignore[union-attr]
        if not isinstance(more, dict):
            break
        value, end = [*(value if isinstance(value, list) else [value]), more], behind
    return value, end


def _ends_in_string(text: str, at: int) -> bool:
    """Whether the JSON at an index is cut within a string, which may hold anything, marks too."""
    try:
        _DECODER.raw_decode(text, _past_space(text, at))
    except ValueError as error:
        return str(error).startswith("Unterminated string")
    return False


def _past_space(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _entries(marks: CallMarks, name: str | None, value: Json) -> Iterator[tuple[Json, Json]]:
    if marks.keys is None:
        yield name, value
        return
    for one in value if isinstance(value, list) else [value]:
        entry = one if isinstance(one, dict) else {}
        if isinstance(nested := entry.get("function"), dict):
            entry = nested
        yield entry.get(marks.keys[0]), entry.get(_arguments_key(marks.keys, entry), {})


def _arguments_key(keys: tuple[str, str], entry: Mapping[str, Any]) -> str:
    # Models swap the two usual words.
    return next((key for key in (keys[1], "arguments", "parameters") if key in entry), keys[1])


def _half_mark(marks: CallMarks, text: str) -> int:
    """How many letters at the end of a text may be the beginning of a call: two at least, or none."""
    leads = (marks.begin + marks.mark, marks.mark)
    sizes = (size for lead in leads for size in range(2, len(lead)) if text.endswith(lead[:size]))
    return max(sizes, default=0)


def _name_in(text: str) -> str | None:
    found = re.search(r'"(?:name|tool_name)"\s*:\s*"([^"]+)"', text)
    return found[1] if found else None


def _json_error(body: str, marks: CallMarks) -> str:
    try:
        _DECODER.decode(body.strip())
    except ValueError as error:
        return str(error) if marks.keys else "a name and a JSON object are expected"
    return "a name and a JSON object are expected"
