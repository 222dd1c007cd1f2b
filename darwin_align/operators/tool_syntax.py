"""How a model writes tool calls: found by rendering a marked call, and read back from its answers.

A template shows the form of a call: what it writes before the tool's name, between name and arguments, behind them, and
between two calls. A tokenizer that brings a ``response_template`` of transformers says itself how its answers are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from darwin_align.core.errors import RequestError
from darwin_align.core.types import ToolCall

__all__ = [
    "ID_LETTERS",
    "CallTexts",
    "InvalidCall",
    "Parsed",
    "ToolSyntax",
    "functions",
    "resolved",
    "schema_violation",
    "shared_length",
]

Render = Callable[[list[dict[str, Any]]], str]
"""Renders an assistant's turn that makes these calls: everything behind the generation prompt."""
Read = Callable[[str, list[dict[str, Any]]], Mapping[str, Any]]
"""Reads an answer that makes calls, given the tools: a message in OpenAI's form. Raises ValueError where it cannot."""

_NAMES, _KEY, _VALUE = ("QzFirstToolZq", "QzOtherToolZq"), "QzKeyZq", "QzValueZq"
# Nine letters: some templates insist on that length.
_IDS = ("QzIdOneZq", "QzIdTwoZq")
_ARGUMENTS = r'\{\s*"' + _KEY + r'"\s*:\s*"' + _VALUE + r'"\s*\}'
_ID_PAIR = r'"(?:id|tool_call_id)"\s*:\s*"(?:' + "|".join(_IDS) + ')"'
_ID_ENTRY = re.compile(_ID_PAIR + r"\s*,\s*|,\s*" + _ID_PAIR)
_ID = "\0"
"""Stands in a call's texts for an id that the model makes up."""
ID_LETTERS = "[a-zA-Z0-9]{9}"
"""A regular expression."""
_NO_THOUGHTS = re.compile(r"\s*<think>\s*</think>\s*")
_OBJECT = re.compile(r'(?s)(.*?)(\[\s*)?\{([^{}\[\]]*)"(\w+)"\s*:\s*"')
_ARGUMENTS_KEY = re.compile(r'"\s*,\s*"(\w+)"\s*:\s*')
_UNKNOWN = (
    "the model's chat template writes tool calls in a form that is not recognised ({why}): leave tools out (or use "
    "tool_choice='none'), or give a chat_template=… that writes a call's arguments as a JSON object"
)


@dataclass(frozen=True)
class InvalidCall:
    """A call that cannot be made."""

    text: str
    """As it was written, marks included."""
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
    breaches: tuple[str, ...] = ()
    """What is wrong with arguments that break their tool's schema. Their call is among ``calls`` all the same."""
    open: bool = False
    """Whether a call has begun and is not complete."""
    pending: str = ""
    """What was written of it: neither in ``text`` nor in ``invalid``."""


@dataclass(frozen=True)
class CallTexts:
    """What stands around the name and the arguments of a call."""

    first: str
    """From the beginning of the answer to the first call's name."""
    middle: str
    """From a name to its arguments, which are a JSON object."""
    last: str
    """From the last call's arguments to the end of the turn."""
    between: str | None
    """From one call's arguments to the next one's name; ``None`` if an answer makes one call at most."""

    @staticmethod
    def pieces(text: str) -> list[str | None]:
        """Cut a text where the model makes up an id of :data:`ID_LETTERS`: ``None`` stands for that."""
        pieces = text.split(_ID)
        return [part for i, piece in enumerate(pieces) for part in ((None, piece) if i else (piece,)) if part != ""]


@dataclass(frozen=True)
class _Marks:
    """How calls are found in an answer."""

    begin: str
    """Before the first call."""
    mark: str
    """Begins every call; empty if an answer that begins with a JSON object is a call."""
    close: str
    """Ends every call; empty if a call ends with its JSON."""
    end: str
    """Behind the last call."""
    read: Read | None = None
    """Reads a call from mark to close; ``None`` if what is between them is JSON."""
    keys: tuple[str, str] | None = None
    """Names of the JSON entries that hold the tool's name and its arguments; ``None`` if the name comes first."""
    middle: str = ""
    """Between name and arguments, if the name comes first."""


@dataclass(frozen=True)
class ToolSyntax:
    """How one model writes tool calls.

    Attributes:
        texts: what a call is made of, to force one; ``None`` if its arguments are not written as JSON.

    >>> def render(calls):
    ...     written = [f'<tool_call>{json.dumps(call["function"])}</tool_call>' for call in calls]
    ...     return ", ".join(written) + "<|end|>"
    >>> syntax = ToolSyntax.found(render, ends=["<|end|>"])
    >>> syntax.texts.first, syntax.texts.middle, syntax.texts.last
    ('<tool_call>{"name": "', '", "arguments": ', '}</tool_call>')
    >>> tools = [{"type": "function", "function": {"name": "heat", "parameters": {}}}]
    >>> parsed = syntax.parse('Sure. <tool_call>{"name": "heat", "arguments": {"to": 80}}</tool_call>', tools)
    >>> parsed.text, parsed.calls[0].name, parsed.calls[0].arguments
    ('Sure.', 'heat', {'to': 80})
    >>> syntax.parse('<tool_call>{"name": "he', tools).open
    True
    """

    texts: CallTexts | None
    _marks: _Marks = field(repr=False)

    @classmethod
    def found(
        cls,
        render: Render,
        *,
        ends: Iterable[str] = (),
        response_template: Mapping[str, Any] | None = None,
        read: Read | None = None,
    ) -> ToolSyntax:
        """Find out how a model writes calls.

        Args:
            render: an assistant's turn with these calls, from the end of the generation prompt on; it may raise
                :class:`RequestError`.
            ends: texts of the tokens that end a turn.
            response_template: how the tokenizer says that its answers are read, if it does.
            read: reads an answer by it: ``tokenizer.parse_response``.

        Raises:
            RequestError: the form is not recognised.
        """
        told = _told_marks(response_template, read)
        try:
            texts = _shown_texts(render, tuple(ends))
            shown = _shown_marks(texts)
        except RequestError:
            if told is None:
                raise
            return cls(None, told)
        # Where both agree that a call is JSON between two marks, it is read as such: a string in it may hold a mark.
        same = told and shown.keys and (shown.mark, shown.close) == (told.mark, told.close)
        return cls(texts, shown if told is None or same else told)

    def parse(self, text: str, tools: Sequence[Mapping[str, Any]], *, finished: bool = False) -> Parsed:
        """Take an answer apart.

        Args:
            text: the answer so far, special tokens that mark calls included.
            tools: those of the request, in OpenAI's form.
            finished: whether nothing will follow: a call that is cut is invalid then, not open.
        """
        if not tools:
            return Parsed(text)
        found = _Findings(functions(tools), [dict(tool) for tool in tools])
        rest = _walk(self._marks, text, found, finished)
        if rest.call and not finished:
            return replace(found.parsed(self._marks, rest.text, begun=True), open=True, pending=rest.call)
        if rest.begun:
            found.refuse(rest.call, "the call is not complete: the answer ended too early", _name_in(rest.call))
            return found.parsed(self._marks, rest.text)
        return found.parsed(self._marks, rest.text + rest.call)


def functions(tools: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The JSON schema of every function's arguments, by its name. Tools that are no functions are left out.

    >>> functions([{"type": "function", "function": {"name": "stop"}}])
    {'stop': {'type': 'object', 'properties': {}}}
    """
    nothing = {"type": "object", "properties": {}}
    about = [tool["function"] if isinstance(tool.get("function"), Mapping) else tool for tool in tools]
    return {str(one["name"]): dict(one.get("parameters") or nothing) for one in about if "name" in one}


def shared_length(one: str, other: str) -> int:
    """How many letters two texts begin with in common.

    >>> shared_length("thinking", "thoughts")
    2
    """
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)


# -- how calls are written


def _shown_texts(render: Render, ends: tuple[str, ...]) -> CallTexts:
    one = _rendered(render, 1)
    parts = re.fullmatch(f"(?s)(.*?){_NAMES[0]}(.*?){_ARGUMENTS}(.*)", one)
    if parts is None:
        raise RequestError(_UNKNOWN.format(why="name and arguments are not found in it"))
    first, middle, last = (_without_ids(part) for part in parts.groups())
    thoughts = _NO_THOUGHTS.match(first)
    first, last = first[thoughts.end() :] if thoughts else first, _until(last, ends)
    if held := next((end for end in ends if end and end in first + middle), None):
        raise RequestError(_UNKNOWN.format(why=f"{held!r}, which frames turns, is in the middle of a call"))
    return CallTexts(first, middle, last, _between(render))


def _rendered(render: Render, calls: int) -> str:
    """Rendered marked calls. Some templates want arguments as a dict, some as JSON."""
    error: RequestError | None = None
    for arguments in ({_KEY: _VALUE}, json.dumps({_KEY: _VALUE})):
        made = [
            {"type": "function", "id": call_id, "function": {"name": name, "arguments": arguments}}
            for call_id, name in list(zip(_IDS, _NAMES, strict=True))[:calls]
        ]
        try:
            if len(re.findall(_ARGUMENTS, text := render(made))) == calls:
                return text
        except RequestError as refused:
            error = refused
    why = "its arguments are not a JSON object" if error is None else str(error)
    raise RequestError(_UNKNOWN.format(why=why)) from error


def _between(render: Render) -> str | None:
    try:
        two = _rendered(render, 2)
    except RequestError:
        return None
    found = re.search(f"(?s){_ARGUMENTS}(.*?){_NAMES[1]}", two)
    return _without_ids(found[1]) if found else None


def _without_ids(text: str) -> str:
    """An id in a JSON entry of its own is for the reader of a conversation: models leave it out."""
    text = _ID_ENTRY.sub("", text)
    for one in _IDS:
        text = text.replace(one, _ID)
    return text


def _until(text: str, ends: Iterable[str]) -> str:
    return text[: min((at for end in ends if end and (at := text.find(end)) >= 0), default=len(text))].rstrip()


def _shown_marks(texts: CallTexts) -> _Marks:
    begin, before, after, end = "", texts.first, texts.last, ""
    if texts.between is not None:
        size = shared_length(texts.first[::-1], texts.between[::-1])
        begin, before = texts.first[: len(texts.first) - size], texts.first[len(texts.first) - size :]
        after = after[: shared_length(after, texts.between.removesuffix(before))]
        end = texts.last.removeprefix(after)
    shape, key = _OBJECT.fullmatch(texts.first), _ARGUMENTS_KEY.fullmatch(texts.middle)
    if shape and key:
        # The whole call is JSON: one object, or a list of them.
        close = texts.last.strip().removeprefix("}").strip()
        close = close.removeprefix("]").strip() if shape[2] else close
        return _Marks("", shape[1].strip(), close, "", keys=(shape[4], key[1]))
    if not before.strip():
        raise RequestError(_UNKNOWN.format(why="nothing marks the beginning of a call"))
    return _Marks(begin.strip(), before.strip(), after.strip(), end.strip(), middle=texts.middle.strip())


def _told_marks(template: Mapping[str, Any] | None, read: Read | None) -> _Marks | None:
    """The marks that a response template names, if they are plain texts."""
    calls = dict((template or {}).get("fields") or {}).get("tool_calls") or {}
    mark, close = calls.get("open"), calls.get("close")
    if read is None or not isinstance(mark, str) or not isinstance(close, str):
        return None
    return _Marks("", mark, close, "", read=read)


# -- how they are read


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
    breaches: list[str] = field(default_factory=list)

    def parsed(self, marks: _Marks, rest: str, *, begun: bool = False) -> Parsed:
        """What was found, with the text behind the last call: unchanged if there is no call, else without white space
        around calls.
        """
        if self.calls or self.invalid or begun:
            pieces = [piece.strip().removeprefix(marks.end).removesuffix(marks.begin) for piece in (*self.texts, rest)]
            rest = "\n".join(piece.strip() for piece in pieces if piece.strip())
        return Parsed(rest, tuple(self.calls), tuple(self.invalid), tuple(self.breaches))

    def add_all(self, calls: Iterable[tuple[Any, Any]], text: str) -> None:
        """Take the names and arguments that were read from a text."""
        if not (listed := list(calls)):
            self.refuse(text, "it makes no call")
        for name, arguments in listed:
            self.add(name, arguments, text)

    def add(self, name: Any, arguments: Any, text: str) -> None:
        """Take a call that could be read."""
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                return self.refuse(text, f"its arguments are no JSON: {error}", name)
        if not isinstance(name, str) or name not in self.schemas:
            known = ", ".join(self.schemas) or "none"
            return self.refuse(text, f"there is no tool {name!r}: the tools are {known}", name)
        if not isinstance(arguments, dict):
            return self.refuse(text, f"its arguments are no JSON object but {_kind(arguments)}", name)
        try:
            self.calls.append(ToolCall(name=name, arguments=arguments))
        except ValidationError:
            return self.refuse(text, "its arguments hold what JSON cannot", name)
        if wrong := schema_violation(arguments, self.schemas[name]):
            self.breaches.append(f"{name}: {wrong}")
        return None

    def refuse(self, text: str, reason: str, name: Any = None) -> None:
        """Take a call that cannot be made."""
        self.invalid.append(InvalidCall(text, reason, name if isinstance(name, str) else None))


def _walk(marks: _Marks, text: str, found: _Findings, finished: bool) -> _Rest:
    """Go through an answer from call to call; return what is behind the last one that is complete."""
    at = 0
    while (start := _next_call(marks, text, at)) is not None:
        found.texts.append(text[at:start])
        end = _take(marks, text, start, found, finished)
        if end is None:
            found.texts.pop()
            return _Rest(text[at:start], text[start:], begun=True)
        at = end
    rest = text[at:]
    cut = len(rest) - _half_mark(marks, rest)
    return _Rest(rest[:cut], rest[cut:])


def _next_call(marks: _Marks, text: str, at: int) -> int | None:
    """Where the next call begins."""
    if marks.mark:
        start = text.find(marks.mark, at)
        return None if start < 0 else start
    # Nothing marks a call: a JSON object at the beginning is one if it has the right keys, and so are those behind it.
    lead = re.compile(r"\s*;?\s*" if at else r"\s*(?:<\|python_tag\|>)?\s*").match(text, at)
    start = lead.end() if lead else at
    if marks.keys is None or not text.startswith("{", start):
        return None
    whole, _ = _decoded(text, start)
    if whole is not None:
        return start if marks.keys[0] in whole and _arguments_key(marks.keys, whole) in whole else None
    begun, first = re.sub(r"\s", "", text[start:]), f'{{"{marks.keys[0]}"'
    return start if begun.startswith(first) or first.startswith(begun) else None


def _take(marks: _Marks, text: str, start: int, found: _Findings, finished: bool) -> int | None:
    """Read the call that begins at ``start``; return where it ends, or ``None`` if it is not complete."""
    body = start + len(marks.mark)
    name, at = _leading_name(marks, text, body)
    value, end = (None, body) if marks.read or at is None else _decoded(text, at)
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
    _take_whole(marks, text[start:stop], text[body:closed], found)
    return stop


def _take_whole(marks: _Marks, piece: str, body: str, found: _Findings) -> None:
    """Read a call between its marks that is no plain JSON."""
    if marks.read is None:
        return found.refuse(piece, f"it is no JSON: {_json_error(body, marks)}", _name_in(piece))
    try:
        calls: Any = marks.read(piece, found.tools).get("tool_calls") or []
        abouts = [call.get("function", call) for call in (calls if isinstance(calls, list) else [calls])]
        return found.add_all([(about.get("name"), about.get("arguments")) for about in abouts], piece)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return found.refuse(piece, f"it cannot be read: {str(error).partition(chr(10))[0]}", _name_in(piece))


def _leading_name(marks: _Marks, text: str, body: int) -> tuple[str | None, int | None]:
    """The name, and where the JSON begins; nowhere if the text between them is not there (yet)."""
    if marks.keys is not None:
        return None, body
    middle = re.escape(marks.middle).replace(re.escape(_ID), ID_LETTERS)
    found = re.compile(r"(?s)\s*([^\s{]+?)\s*" + (f"{middle}\\s*" if middle else "") + r"(?=\{)").match(text, body)
    return (found[1], found.end()) if found else (None, None)


def _decoded(text: str, at: int) -> tuple[Any, int]:
    """The JSON value at a place and where it ends; ``None`` if there is none."""
    try:
        return _DECODER.raw_decode(text, _past_space(text, at))
    except (ValueError, RecursionError):
        return None, at


def _ends_in_string(text: str, at: int) -> bool:
    """Whether the JSON at a place is cut within a string, which may hold anything, marks too."""
    try:
        _DECODER.raw_decode(text, _past_space(text, at))
    except ValueError as error:
        return str(error).startswith("Unterminated string")
    return False


def _past_space(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _entries(marks: _Marks, name: str | None, value: Any) -> Iterator[tuple[Any, Any]]:
    if marks.keys is None:
        yield name, value
        return
    for one in value if isinstance(value, list) else [value]:
        entry = one if isinstance(one, dict) else {}
        yield entry.get(marks.keys[0]), entry.get(_arguments_key(marks.keys, entry), {})


def _arguments_key(keys: tuple[str, str], entry: Mapping[str, Any]) -> str:
    # Models swap the two usual words.
    return next((key for key in (keys[1], "arguments", "parameters") if key in entry), keys[1])


def _half_mark(marks: _Marks, text: str) -> int:
    """How many letters at the end of a text may be the beginning of a call: two at least, or none."""
    leads = (marks.begin + marks.mark, marks.mark)
    sizes = (size for lead in leads for size in range(2, len(lead)) if text.endswith(lead[:size]))
    return max(sizes, default=0)


def _name_in(text: str) -> str | None:
    found = re.search(r'"(?:name|tool_name)"\s*:\s*"([^"]+)"', text)
    return found[1] if found else None


def _json_error(body: str, marks: _Marks) -> str:
    try:
        _DECODER.decode(body.strip())
    except ValueError as error:
        return str(error) if marks.keys else "a name and a JSON object are expected"
    return "a name and a JSON object are expected"


# -- arguments against their schema

_KINDS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: not isinstance(value, bool) and isinstance(value, int | float) and value == value // 1,
}


def _kind(value: Any) -> str:
    return next((kind for kind in ("integer", *_KINDS) if _KINDS[kind](value)), type(value).__name__)


def schema_violation(value: Any, schema: Any) -> str:
    """What in a value breaks a schema, or "" if nothing was found.

    It looks at types, required and unexpected names, enumerations, constants, alternatives and references within the
    schema, in nested objects and arrays as well. The rest of JSON schema (bounds, patterns, formats) it takes for kept.

    >>> schema_violation({"to": "hot"}, {"type": "object", "properties": {"to": {"type": "integer"}}})
    'to is string and not integer'
    """
    return next(_Breaches(schema).of(value, schema, ""), "")


@dataclass(frozen=True)
class _Breaches:
    """Looks for breaches; ``root`` is what references point into."""

    root: Any

    def of(self, value: Any, schema: Any, path: str, seen: tuple[str, ...] = ()) -> Iterator[str]:
        """Breaches of a value, which the references ``seen`` have led to already."""
        if isinstance(schema, Mapping) and isinstance(reference := schema.get("$ref"), str):
            beside = {name: held for name, held in schema.items() if name != "$ref"}
            yield from self.of(value, beside, path, seen)
            with suppress(LookupError, ValueError, TypeError):  # one that points nowhere says nothing
                meant = {} if reference in seen else resolved(reference, self.root)
                yield from self.of(value, meant, path, (*seen, reference))
            return
        if not isinstance(schema, Mapping):
            return
        here, kinds = path or "the value", schema.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds or []
        if kinds and not any(_KINDS.get(kind, lambda _: True)(value) for kind in kinds):
            yield f"{here} is {_kind(value)} and not {' or '.join(kinds)}"
        elif "enum" in schema and value not in schema["enum"]:
            yield f"{here} is none of {json.dumps(schema['enum'], ensure_ascii=False)}"
        elif "const" in schema and value != schema["const"]:
            yield f"{here} is not {json.dumps(schema['const'], ensure_ascii=False)}"
        elif any(self._fits_none(value, schema.get(name), path, seen) for name in ("anyOf", "oneOf")):
            yield f"{here} fits none of its alternatives"
        elif isinstance(value, dict):
            yield from self._in_object(value, schema, path)
        elif isinstance(value, list):
            for i, one in enumerate(value):
                yield from self.of(one, schema.get("items"), f"{path}[{i}]")

    def _fits_none(self, value: Any, alternatives: Any, path: str, seen: tuple[str, ...]) -> bool:
        if not isinstance(alternatives, list) or not alternatives:
            return False
        return all(any(True for _ in self.of(value, one, path, seen)) for one in alternatives)

    def _in_object(self, value: dict[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[str]:
        properties, others = schema.get("properties") or {}, schema.get("additionalProperties", True)
        dot = f"{path}." if path else ""
        yield from (f"{dot}{name} is missing" for name in schema.get("required") or () if name not in value)
        if others is False and not schema.get("patternProperties"):
            yield from (f"{dot}{name} is not expected" for name in value if name not in properties)
        for name, one in value.items():
            yield from self.of(one, properties.get(name, others), f"{dot}{name}")


def resolved(reference: str, root: Any) -> Any:
    """The schema that a reference within a schema means.

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
