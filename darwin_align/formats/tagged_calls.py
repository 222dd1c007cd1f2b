"""Tool calls whose arguments stand between tags, one by one, as of Qwen3-Coder, GLM and MiniMax-M2.

The tags are found by rendering a marked call with two arguments. Such calls are read; they are not forced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darwin_align.core.errors import RequestError
from darwin_align.core.json_types import Json
from darwin_align.formats.call_template import (
    BEHIND,
    CallMarks,
    Probe,
    Render,
    behind_thoughts,
    shared_beginning,
    shared_end,
    unknown_form,
    until,
)
from darwin_align.formats.request_formats import functions

__all__ = ["TaggedCalls", "marks_of_tagged_calls", "tagged_probes"]

_NAMES, _KEYS, _TEXT, _NUMBER = ("QzFirstToolZq", "QzOtherToolZq"), ("QzKeyOneZq", "QzKeyTwoZq"), "QzValueZq", 71935
_ARGUMENTS: dict[str, Any] = {_KEYS[0]: _TEXT, _KEYS[1]: _NUMBER}
_ONE = re.compile(rf"(?s)(.*?){_NAMES[0]}(.*?){_KEYS[0]}(.*?){_TEXT}(.*?){_KEYS[1]}(.*?){_NUMBER}(.*)")
_TAG = re.compile(r"<[^<>\s][^<>]*>")
_NAME = r"([^\s<>\"'=]+?)"
_WORDS = {"True": True, "False": False, "None": None}
"""Values that some templates write as Python does."""


@dataclass(frozen=True)
class TaggedCalls:
    """What stands around the parts of a call.

    Attributes:
        begin: before a name.
        named: behind a name, before the first argument.
        key: before an argument's name.
        value: between an argument's name and a value that is a text.
        other_value: the same for other values, which are JSON.
        close: behind a value.
        end: behind the last argument.
    """

    begin: str
    named: str
    key: str
    value: str
    other_value: str
    close: str
    end: str

    def read(self, text: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The calls in a text, as a message in OpenAI's form.

        Args:
            text: from the mark of the first call to where the last one ends.
            tools: those of the request; a value is a text where its schema says so.
        """
        schemas = functions(tools)
        calls = []
        # Cut at the ends first: a pattern over begin and end takes quadratic time where ends are missing.
        for piece in re.split(_loose(self.end), text)[:-1]:
            # A call without arguments has none of their tags.
            begun = rf"{_loose(self.begin)}\s*{_NAME}\s*{_loose(self.named)}\s*(?={_loose(self.key)}|\Z)"
            if (call := re.search(begun, piece)) is None:
                continue
            pairs = self._pairs(piece[call.end() :])
            arguments = {key: self._value(value, schemas.get(call[1]), key) for key, value in pairs}
            calls.append({"type": "function", "function": {"name": call[1], "arguments": arguments}})
        return {"tool_calls": calls}

    def _pairs(self, text: str) -> Iterator[tuple[str, str]]:
        """Names and values of arguments, as they are written."""
        between = "|".join(sorted({_loose(self.value), _loose(self.other_value)}))
        for piece in re.split(_loose(self.close), text)[:-1]:
            parts = re.split(_loose(self.key), piece, maxsplit=1)
            named = re.split(between, parts[-1], maxsplit=1)
            if len(parts) == len(named) == 2:
                yield named[0].strip(), named[1].removeprefix("\n").removesuffix("\n")

    def _value(self, text: str, schema: Json, name: str) -> Json:
        properties = schema.get("properties") if isinstance(schema, dict) else None
        about = properties.get(name) if isinstance(properties, dict) else None
        kinds = about.get("type") if isinstance(about, dict) else None
        if kinds == "string":
            return text
        try:
            value: Json = json.loads(text)
        except ValueError:
            return _WORDS.get(text.strip(), text)
        return value


def _loose(text: str) -> str:
    """A pattern for a text whose white space may differ."""
    return r"\s*".join(re.escape(part) for part in text.split())


def tagged_probes(render: Render, ends: tuple[str, ...], render_behind: Render | None) -> list[Probe]:
    """Turns with one and with two calls, alone and behind text; those that the template does not refuse."""
    found = []
    for content, how in (("", render), (BEHIND, render_behind)):
        for count in (1, 2):
            try:
                text = how(_calls(count)) if how else ""
            except RequestError:
                continue
            made = tuple((name, _ARGUMENTS) for name in _NAMES[:count])
            if all(name in text for name, _ in made):
                whole = until(behind_thoughts(text, _NAMES[0]), ends)
                found.append(Probe(whole, made, content if content in whole else ""))
    return found


def marks_of_tagged_calls(render: Render, ends: tuple[str, ...], render_behind: Render | None) -> CallMarks:
    """The reader of calls with tagged arguments.

    Raises:
        RequestError: the form is not recognised.
    """
    one = render(_calls(1))
    parts = _ONE.fullmatch(behind_thoughts(one, _NAMES[0]))
    if parts is None:
        raise unknown_form("its arguments are neither a JSON object nor tagged one by one")
    first, named, value, close_key, other_value, last = parts.groups()
    key = shared_end(named, close_key)
    key = key[max(key.find("<"), 0) :]
    close, last = close_key.removesuffix(key).strip(), until(last, ends).strip()
    if not (key.strip() and close and last.startswith(close)):
        raise unknown_form("the tags around its arguments differ from one to the next")
    end = last.removeprefix(close)
    begin, end = _of_each(render, first, close, end)
    lead = _lead(first, render_behind)
    tags = _TAG.findall(lead), _TAG.findall(last)
    if not (tags[0] and tags[1] and begin.strip() and end.strip()):
        raise unknown_form("no tag marks the beginning and the end of a call")
    form = TaggedCalls(begin, named.removesuffix(key), key, value, other_value, close, end)
    return CallMarks("", tags[0][0], tags[1][-1], "", read=form.read)


def _of_each(render: Render, first: str, close: str, end: str) -> tuple[str, str]:
    """What stands before the name and behind the arguments of every call, where a turn may make several."""
    try:
        two = render(_calls(2))
    except RequestError:
        return first, end
    found = re.search(rf"(?s){_NUMBER}(.*?){_NAMES[1]}", two)
    if found is None:
        return first, end
    begin = shared_end(first, found[1])
    closed = found[1].removesuffix(begin).strip().removeprefix(close)
    return begin, shared_beginning(end, closed) if closed.strip() else end


def _lead(first: str, render_behind: Render | None) -> str:
    try:
        text = render_behind(_calls(1)) if render_behind else ""
    except RequestError:
        text = ""
    before = text.partition(_NAMES[0])[0]
    return shared_end(first, before.partition(BEHIND)[2]) if BEHIND in before else first


def _calls(count: int) -> list[dict[str, Any]]:
    return [
        {"type": "function", "id": f"abcdefgh{i}", "function": {"name": name, "arguments": _ARGUMENTS}}
        for i, name in enumerate(_NAMES[:count])
    ]
