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
    "BEHIND",
    "ID_LETTERS",
    "ID_MARK",
    "INDEX_DIGITS",
    "INDEX_MARK",
    "CallMarks",
    "CallTexts",
    "Probe",
    "Read",
    "Render",
    "behind_thoughts",
    "marks_of_response_template",
    "marks_of_texts",
    "probes",
    "shared_beginning",
    "shared_end",
    "shared_length",
    "texts_of_template",
    "unknown_form",
    "until",
    "whole_tags",
]

Render = Callable[[list[dict[str, Any]]], str]
"""Renders an assistant's turn that makes these calls: everything behind the generation prompt."""
Read = Callable[[str, list[dict[str, Any]]], Mapping[str, Any]]
"""Reads an answer that makes calls, given the tools: a message in OpenAI's form. Raises ValueError where it cannot."""

ID_LETTERS = "[a-zA-Z0-9]{9}"
"""A regular expression for the id of a call."""
ID_MARK = "\0"
"""Stands in a call's texts for an id that the model makes up."""
INDEX_DIGITS = "[0-9]{1,3}"
"""A regular expression for the place of a call among those of its turn."""
INDEX_MARK = "\1"
"""Stands in a call's texts for that place."""

BEHIND = "QzWordsZq"
"""The text in front of the calls where a turn has both."""

# The values of the marked call: words that occur in no template.
_NAMES, _KEY, _VALUE = ("QzFirstToolZq", "QzOtherToolZq"), "QzKeyZq", "QzValueZq"
_IDS = ("QzIdOneZq", "QzIdTwoZq")  # nine letters: some templates insist on that length
_ARGUMENTS = r'\{\s*"' + _KEY + r'"\s*:\s*"' + _VALUE + r'"\s*\}'
_ID_PAIR = r'"(?:id|tool_call_id)"\s*:\s*"(?:' + "|".join(_IDS) + ')"'
_ID_ENTRY = re.compile(_ID_PAIR + r"\s*,\s*|,\s*" + _ID_PAIR)
_THOUGHTS = re.compile(r"(?s).*(?:</\|?(?:think|thinking|thought|reasoning)\|?>|\[/THINK\]|<\|END_THINKING\|>)\s*")
_TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
_OBJECT = re.compile(r'(?s)(.*?)(\[\s*)?\{(?:[^{}\[\]]*"function"\s*:\s*\{)?[^{}\[\]]*"(\w+)"\s*:\s*"')
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

    lead: str = ""
    """What of ``first`` also begins a call behind other text; empty if that is not known."""

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


def whole_tags(text: str, at: int) -> int:
    """Where to cut a text so that no tag (``<tool_call>``, ``[TOOL_CALLS]``) is cut: ``at``, or before its tag.

    >>> whole_tags("<think><tool_call>", 9)
    7
    """
    return next((tag.start() for tag in _TAG.finditer(text) if tag.start() < at < tag.end()), at)


def shared_end(one: str, other: str) -> str:
    """The longest common ending of two texts that begins with a whole tag, if it begins within one."""
    at = len(one) - shared_length(one[::-1], other[::-1])
    return one[next((tag.end() for tag in _TAG.finditer(one) if tag.start() < at < tag.end()), at) :]


def shared_beginning(one: str, other: str) -> str:
    """The longest common beginning of two texts that cuts no tag."""
    return one[: whole_tags(one, shared_length(one, other))]


def unknown_form(why: str) -> RequestError:
    """The error that says why a template's calls are not understood."""
    return RequestError(_UNKNOWN.format(why=why))


@dataclass(frozen=True)
class Probe:
    """A turn that was rendered to find the form of calls."""

    text: str
    """The turn, from where the answer begins."""
    calls: tuple[tuple[str, dict[str, Any]], ...]
    """Names and arguments of its calls."""
    content: str
    """The text that it has beside the calls; empty if the template leaves it out."""


def probes(render: Render, ends: tuple[str, ...], render_behind: Render | None) -> list[Probe]:
    """Turns with one and with two calls, alone and behind text; those that the template does not refuse."""
    found = []
    for content, how in (("", render), (BEHIND, render_behind)):
        for count in (1, 2):
            try:
                text = _rendered(how, count) if how else ""
            except RequestError:
                continue
            if text:
                made = tuple((name, {_KEY: _VALUE}) for name in _NAMES[:count])
                text = until(behind_thoughts(text), ends)
                found.append(Probe(text, made, content if content in text else ""))
    return found


def texts_of_template(render: Render, ends: tuple[str, ...], render_behind: Render | None = None) -> CallTexts:
    """The texts around the parts of a call, by a template that renders marked calls.

    Args:
        render: an assistant's turn with these calls, from the end of the generation prompt on.
        ends: texts of the tokens that end a turn.
        render_behind: the same for a turn with the text :data:`BEHIND` in front of the calls.

    Raises:
        RequestError: the form is not recognised.
    """
    one = _rendered(render, 1)
    parts = re.fullmatch(f"(?s)(.*?){_NAMES[0]}(.*?){_ARGUMENTS}(.*)", one)
    if parts is None:
        raise unknown_form("name and arguments are not found in it")
    first, middle, last = (_without_ids(part) for part in parts.groups())
    first, last = behind_thoughts(first), until(last, ends)
    if framing := next((end for end in ends if end and end in first + middle), None):
        raise unknown_form(f"{framing!r}, which frames turns, is in the middle of a call")
    between, indexed = _between(render, middle)
    return CallTexts(first, indexed, last, between, _lead(first, render_behind))


def _lead(first: str, render_behind: Render | None) -> str:
    """What of a text before the first name is part of the call: what is there behind other text too."""
    try:
        text = _rendered(render_behind, 1) if render_behind else ""
    except RequestError:
        return ""
    before = _without_ids(text.partition(_NAMES[0])[0])
    return shared_end(first, before.partition(BEHIND)[2]) if BEHIND in before else ""


def behind_thoughts(text: str, name: str = _NAMES[0]) -> str:
    """A turn without the thoughts, or the end of thoughts, that the template puts before the first call's name."""
    thoughts = _THOUGHTS.match(text.partition(name)[0])
    return text[thoughts.end() :] if thoughts else text


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
            continue
        if _VALUE in text and str(arguments) not in text:
            break  # it has a form of its own for them, in which a text would be another thing than arguments
    why = "its arguments are not a JSON object" if error is None else str(error)
    raise unknown_form(why) from error


def _between(render: Render, middle: str) -> tuple[str | None, str]:
    """The text between two calls, and that between name and arguments, with a mark for what counts the calls."""
    try:
        two = _rendered(render, 2)
    except RequestError:
        return None, middle
    found = re.search(f"(?s){_ARGUMENTS}(.*?){_NAMES[1]}(.*?){_ARGUMENTS}", two)
    if not found:
        return None, middle
    between, other = (_without_ids(part) for part in found.groups())
    if other == middle:
        return between, middle
    numbers = [re.split(r"(\d+)", one) for one in (middle, other)]
    if numbers[0][::2] != numbers[1][::2]:
        raise unknown_form(f"{middle!r} stands behind the first name and {other!r} behind the second")
    pairs = zip(*numbers, strict=True)
    return between, "".join(one if one == another else INDEX_MARK for one, another in pairs)


def _without_ids(text: str) -> str:
    """A text with marks for ids; an id in a JSON entry of its own goes, for models leave it out."""
    text = _ID_ENTRY.sub("", text)
    for one in _IDS:
        text = text.replace(one, ID_MARK)
    return text


def until(text: str, ends: Iterable[str]) -> str:
    """A text up to the first of these, without white space behind it."""
    return text[: min((at for end in ends if end and (at := text.find(end)) >= 0), default=len(text))].rstrip()


def marks_of_texts(texts: CallTexts) -> CallMarks:
    """The reader of calls with these texts.

    Raises:
        RequestError: nothing marks where a call begins.
    """
    lead = texts.lead or texts.first
    shape, key = _OBJECT.fullmatch(lead), _ARGUMENTS_KEY.fullmatch(texts.middle)
    if shape and key:
        # The whole call is JSON: one object, or a list of them.
        mark = shape[1].strip()
        close = _behind_json(texts.last, listed=bool(shape[2]))
        if texts.between is not None and mark and mark in texts.between:
            close = shared_beginning(_behind_json(texts.between.partition(mark)[0], listed=bool(shape[2])), close)
        return CallMarks("", mark, close.strip(), "", keys=(shape[3], key[1]))
    begin, before, after, end = "", lead, texts.last, ""
    if texts.between is not None:
        before = shared_end(lead, texts.between)
        begin = lead.removesuffix(before)
        after = shared_beginning(after, texts.between.removesuffix(before))
        end = texts.last.removeprefix(after)
    if not _TAG.search(before):
        raise unknown_form("nothing marks the beginning of a call")
    return CallMarks(begin.strip(), before.strip(), after.strip(), end.strip(), middle=texts.middle.strip())


def _behind_json(text: str, *, listed: bool) -> str:
    """What follows a call's closing braces, and the bracket of its list."""
    text = text.lstrip("} \t\n").strip()
    return text.removeprefix("]").strip() if listed else text


def marks_of_response_template(template: Mapping[str, Any] | None, read: Read | None) -> CallMarks | None:
    """The marks that a tokenizer's response template names; ``None`` unless they are plain texts."""
    calls = dict((template or {}).get("fields") or {}).get("tool_calls") or {}
    mark, close = calls.get("open"), calls.get("close")
    if read is None or not isinstance(mark, str) or not isinstance(close, str):
        return None
    return CallMarks("", mark, close, "", read=read)
