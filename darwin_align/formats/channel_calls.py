"""Tool calls that are messages to a recipient, as of gpt-oss: one in a turn, between marks of channels.

The recipient stands before the channel or behind it. Such calls are read; they are not forced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from darwin_align.formats.call_template import CallMarks, Render, behind_thoughts, unknown_form

__all__ = ["marks_of_channel_calls"]

_BEGIN, _BODY, _END = "<|start|>assistant", "<|message|>", "<|call|>"
_RECIPIENT = re.compile(r"\bto=functions\.([\w.-]+)")
_NAME, _ARGUMENTS = "QzFirstToolZq", {"QzKeyZq": "QzValueZq"}


def marks_of_channel_calls(render: Render) -> CallMarks:
    """The marks of calls between channels, if a template renders one as such.

    Args:
        render: an assistant's turn with these calls, from the end of the generation prompt on.

    Raises:
        RequestError: it does not.
    """
    call = {"type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
    text = behind_thoughts(render([call]), _NAME)
    found = _read(text.partition(_END)[0], ())["tool_calls"] if _END in text and _BODY in text else []
    if found != [call]:
        raise unknown_form("it is no message to a recipient either")
    return CallMarks("", _BEGIN, _END, "", read=_read)


def _read(text: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: ARG001
    """The call in a message, from its mark to its end.

    Raises:
        ValueError: its arguments are no JSON.
    """
    header, _, body = text.partition(_BODY)
    if (recipient := _RECIPIENT.search(header)) is None:
        return {"tool_calls": []}
    arguments = json.loads(body.strip().removesuffix(_END))
    return {"tool_calls": [{"type": "function", "function": {"name": recipient[1], "arguments": arguments}}]}
