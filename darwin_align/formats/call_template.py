"""The form of a chat template's tool calls, found by rendering a marked call.

A template shows the form of a call: its text before the tool's name, between name and arguments, behind them, and
between two calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from darwin_align.core.errors import RequestError

__all__ = [
    "ID_LETTERS",
    "ID_MARK",
    "CallMarks",
    "CallTexts",
    "Read",
    "Render",
    "marks_of_response_template",
    "marks_of_texts",
    "shared_length",
    "texts_of_template",
]

Render = Callable[[list[dict[str, Any]]], str]
"""Renders an assistant's turn that makes these calls: everything behind the generation prompt."""
Read = Callable[[str, list[dict[str, Any]]], Mapping[str, Any]]
"""Reads an answer that makes calls, given the tools: a message in OpenAI's form. Raises ValueError where it cannot."""

ID_LETTERS = "[a-zA-Z0-9]{9}"
"""A regular expression for the id of a call."""
ID_MARK = "\0"
"""Stands in a call's texts for an id that the model makes up."""

# The values of the marked call: words that occur in no template.
_NAMES, _KEY, _VALUE = ("QzFirstToolZq", "QzOtherToolZq"), "QzKeyZq", "QzValueZq"
_IDS = ("QzIdOneZq", "QzIdTwoZq")  # nine letters: some templates insist on that length
_ARGUMENTS = r'\{\s*"' + _KEY + r'"\s*:\s*"' + _VALUE + r'"\s*\}'
_ID_PAIR = r'"(?:id|tool_call_id)"\s*:\s*"(?:' + "|".join(_IDS) + ')"'
_ID_ENTRY = re.compile(_ID_PAIR + r"\s*,\s*|,\s*" + _ID_PAIR)
_NO_THOUGHTS = re.compile(r"\s*<think>\s*</think>\s*")
_OBJECT = re.compile(r'(?s)(.*?)(\[\s*)?\{([^{}\[\]]*)"(\w+)"\s*:\s*"')
_ARGUMENTS_KEY = re.compile(r'"\s*,\s*"(\w+)"\s*:\s*')
_UNKNOWN = (
    "the model's chat template renders tool calls in a form that is not recognised ({why}): leave tools out (or use "
    "tool_choice='none'), or give a chat_template=… that renders a call's arguments as a JSON object"
)


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
        pieces = text.split(ID_MARK)
        return [part for i, piece in enumerate(pieces) for part in ((None, piece) if i else (piece,)) if part != ""]


@dataclass(frozen=True)
class CallMarks:
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


def shared_length(one: str, other: str) -> int:
    """How many letters two texts begin with in common.

    >>> shared_length("thinking", "thoughts")
    2
    """
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)


def texts_of_template(render: Render, ends: tuple[str, ...]) -> CallTexts:
    """The texts around the parts of a call, by a template that renders marked calls.

    Args:
        render: an assistant's turn with these calls, from the end of the generation prompt on.
        ends: texts of the tokens that end a turn.

    Raises:
        RequestError: the form is not recognised.
    """
    one = _rendered(render, 1)
    parts = re.fullmatch(f"(?s)(.*?){_NAMES[0]}(.*?){_ARGUMENTS}(.*)", one)
    if parts is None:
        raise RequestError(_UNKNOWN.format(why="name and arguments are not found in it"))
    first, middle, last = (_without_ids(part) for part in parts.groups())
    thoughts = _NO_THOUGHTS.match(first)
    first, last = first[thoughts.end() :] if thoughts else first, _until(last, ends)
    if framing := next((end for end in ends if end and end in first + middle), None):
        raise RequestError(_UNKNOWN.format(why=f"{framing!r}, which frames turns, is in the middle of a call"))
    return CallTexts(first, middle, last, _between(render))


def _rendered(render: Render, calls: int) -> str:
    """Rendered marked calls. Some templates require arguments as a dict, some as JSON."""
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
    """A text with marks for ids; an id in a JSON entry of its own goes, for models leave it out."""
    text = _ID_ENTRY.sub("", text)
    for one in _IDS:
        text = text.replace(one, ID_MARK)
    return text


def _until(text: str, ends: Iterable[str]) -> str:
    return text[: min((at for end in ends if end and (at := text.find(end)) >= 0), default=len(text))].rstrip()


def marks_of_texts(texts: CallTexts) -> CallMarks:
    """The reader of calls with these texts.

    Raises:
        RequestError: nothing marks where a call begins.
    """
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
        return CallMarks("", shape[1].strip(), close, "", keys=(shape[4], key[1]))
    if not before.strip():
        raise RequestError(_UNKNOWN.format(why="nothing marks the beginning of a call"))
    return CallMarks(begin.strip(), before.strip(), after.strip(), end.strip(), middle=texts.middle.strip())


def marks_of_response_template(template: Mapping[str, Any] | None, read: Read | None) -> CallMarks | None:
    """The marks that a tokenizer's response template names; ``None`` unless they are plain texts."""
    calls = dict((template or {}).get("fields") or {}).get("tool_calls") or {}
    mark, close = calls.get("open"), calls.get("close")
    if read is None or not isinstance(mark, str) or not isinstance(close, str):
        return None
    return CallMarks("", mark, close, "", read=read)
