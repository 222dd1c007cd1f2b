"""A chat model's message as the answer to a row.

A beam's text is the message's text, with its tool calls behind it in the form that :data:`SYNTAX` reads back, so that
scorers see them and the search judges them as those of any other policy. Whatever else the message holds, ids of calls,
reasoning, citations, goes with the beam as it came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage

from darwin_align.backends.detokenizer import first_stop
from darwin_align.core.budget import Usage
from darwin_align.core.json_types import Json
from darwin_align.core.types import FinishReason
from darwin_align.formats.request_formats import answer_schema, takes_calls
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.operators.policy import Continuation, Row

__all__ = ["SYNTAX", "continuation_of"]


def _render(calls: Sequence[Mapping[str, Any]]) -> str:
    functions = [{name: call["function"][name] for name in ("name", "arguments")} for call in calls]
    return "\n".join(f"<tool_call>{json.dumps(one, ensure_ascii=False)}</tool_call>" for one in functions)


SYNTAX = ToolSyntax.found(_render)
"""How the calls of a chat model's message are written into a beam's text: a form that many open models have."""

_REASONS = ("finish_reason", "stop_reason", "stopReason", "done_reason")
_LENGTH = {"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"}
_FILTERED = {
    "blocklist",
    "content_filter",
    "content_filtered",
    "guardrail_intervened",
    "prohibited_content",
    "recitation",
    "refusal",
    "safety",
    "spii",
}
_CITATIONS = ("citations", "citation_metadata", "grounding_metadata", "search_results")
"""Entries of ``response_metadata`` that belong to the answer."""
_READ = ("tool_calls", "function_call", "parsed")
"""Entries of ``additional_kwargs`` that the message has in better form."""


def continuation_of(message: AIMessage, row: Row, name: str) -> tuple[Continuation, Usage, dict[str, None]]:
    """Make a whole answer of a message.

    Args:
        message: as the model answered.
        row: what was asked.
        name: of the model, for notes.

    Returns:
        The answer, its usage beyond what the row asked for, and notes.
    """
    notes: dict[str, None] = {}
    whole, kept = _text(message, row, notes, name), _kept(message)
    text = _stopped(whole, row.request.stop)
    if text != whole:
        notes[f"{name} does not heed stop: its answers are cut there"] = None
        kept = {}
    elif message.tool_calls and not takes_calls(row.request):  # they are not the answer's
        kept = {field: value for field, value in kept.items() if field not in ("content", "tool_calls")}
    usage = message.usage_metadata
    if usage is None:
        notes[f"{name} reports no usage: its tokens are not counted"] = None
    read, decoded = (usage["input_tokens"], usage["output_tokens"]) if usage else (0, 0)
    answer = Continuation(
        text=text,
        new_tokens=min(decoded, row.max_tokens),
        finish_reason=_finish_reason(message, notes, name),
        prefilled_tokens=read,
        message=kept,
    )
    return answer, Usage(decoded_tokens=decoded - answer.new_tokens), notes


def _text(message: AIMessage, row: Row, notes: dict[str, None], name: str) -> str:
    text, calls = str(message.text), [*message.tool_calls, *message.invalid_tool_calls]
    if not calls:
        return text
    if takes_calls(row.request):
        return "\n".join(piece for piece in (text, *map(_written, calls)) if piece)
    if answer_schema(row.request) is not None:  # a model that keeps a schema by the call of a tool
        args = calls[0]["args"]
        return json.dumps(args, ensure_ascii=False) if isinstance(args, dict) else str(args)
    notes[f"{name} called a tool where none was offered: the call is left out"] = None
    return text


def _written(call: Mapping[str, Any]) -> str:
    """A call in the form of :data:`SYNTAX`; one that cannot be made as it came, so that it is found to be no call."""
    if isinstance(call["args"], dict):
        return _render([{"function": {"name": call["name"], "arguments": call["args"]}}])
    name = json.dumps(call.get("name"), ensure_ascii=False)
    return f'<tool_call>{{"name": {name}, "arguments": {call.get("args")}}}</tool_call>'


def _stopped(text: str, stop: Sequence[str]) -> str:
    return text[: first_stop(text, [one for one in stop if one])]


def _finish_reason(message: AIMessage, notes: dict[str, None], name: str) -> FinishReason:
    metadata = message.response_metadata
    incomplete = metadata.get("incomplete_details")
    given = [metadata.get(reason) for reason in _REASONS]
    given += [incomplete.get("reason")] if isinstance(incomplete, Mapping) else []
    reason = next((str(one).lower() for one in given if one), "stop")
    if reason in _FILTERED:
        notes[f"{name}'s provider ended an answer by {reason!r}: it counts as ended there"] = None
    return "length" if reason in _LENGTH else "stop"


def _kept(message: AIMessage) -> dict[str, Json]:
    """What the message holds beside its text: nothing, for a plain one."""
    kept: dict[str, Any] = {}
    if isinstance(message.content, list) and not all(map(_is_plain, message.content)):
        kept["content"] = message.content
    if message.tool_calls:
        kept["tool_calls"] = [{name: call[name] for name in ("name", "args", "id")} for call in message.tool_calls]
    extra = {name: value for name, value in message.additional_kwargs.items() if value and name not in _READ}
    metadata = {name: value for name in _CITATIONS if (value := message.response_metadata.get(name))}
    kept |= {"additional_kwargs": extra} if extra else {}
    if kept or metadata:  # by these LangChain reads the blocks
        told = {name: message.response_metadata.get(name) for name in ("model_provider", "output_version")}
        metadata |= {name: value for name, value in told.items() if value}
    kept |= {"response_metadata": metadata} if metadata else {}
    plain: dict[str, Json] = json.loads(json.dumps(kept, default=str))
    return plain


def _is_plain(block: object) -> bool:
    return isinstance(block, str) or (isinstance(block, dict) and block.keys() <= {"type", "text", "index"})
