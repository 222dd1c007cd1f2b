"""Tools between LangChain and the search: what is bound to calls, and answers as messages with their tool calls."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, InvalidToolCall, ToolCall
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.json import parse_partial_json

from darwin_align.core import Beam, Request, SearchConfig, SearchResult
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.core.seeds import derive
from darwin_align.formats.call_parser import InvalidCall
from darwin_align.formats.request_formats import functions, takes_calls
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.formats.verdicts import read_calls
from darwin_align.operators.policy import Policy

__all__ = ["Tool", "ToolChoice", "answer_message", "bound_tools", "call_chunks", "profile_of"]

Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool
ToolChoice = str | bool | dict[str, Any] | None

_LETTERS = string.digits + string.ascii_letters
_WORDS = ("auto", "none", "required")


class _ReadsToolCalls(Protocol):
    """A policy whose answers may call tools."""

    @property
    def tool_syntax(self) -> ToolSyntax: ...


def bound_tools(
    tools: Sequence[Tool],
    tool_choice: ToolChoice = None,
    strict: bool | None = None,
    parallel_tool_calls: bool | None = None,
    policy: Policy | None = None,
) -> dict[str, Any]:
    """What :meth:`DarwinChatModel.bind_tools <darwin_align.chat_model.DarwinChatModel.bind_tools>` binds to calls.

    >>> def heat(to: int) -> str:
    ...     '''Heat the water.'''
    >>> bound = bound_tools([heat], tool_choice="any")
    >>> bound["tools"][0]["function"]["name"], bound["tool_choice"]
    ('heat', 'required')

    Raises:
        ConfigError: a tool that is no function, or a choice that is not known.
        RequestError: a ``policy`` is given that cannot use them, as far as that is known without a server.
    """
    made = [_function(tool, strict) for tool in tools]
    bound: dict[str, Any] = {"tools": made} if made else {}
    if (choice := _choice(tool_choice, list(functions(made)))) is not None:
        bound["tool_choice"] = choice
    if parallel_tool_calls is not None:
        if not isinstance(parallel_tool_calls, bool):
            raise ConfigError(f"parallel_tool_calls = {parallel_tool_calls!r}: give True or False")
        bound["parallel_tool_calls"] = parallel_tool_calls
    if policy is not None:
        policy.check_tools(Request.of("Hi", **bound))
    return bound


def _function(tool: Tool, strict: bool | None) -> dict[str, Any]:
    try:
        made = convert_to_openai_tool(tool, strict=strict)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"cannot make a tool of {tool!r:.80}: {' '.join(str(error).split())}") from error
    if made.get("type") != "function" or not functions([made]):
        raise ConfigError(
            f"a tool of type {made.get('type')!r} runs on its provider's servers, or takes no JSON: give a function, a "
            "pydantic class, a LangChain tool, or a dict of type 'function'"
        )
    return made


def _choice(choice: ToolChoice, names: list[str]) -> str | dict[str, Any] | None:
    if choice is None or choice is False:
        return None
    if choice is True or choice in ("any", "required"):
        if not names:
            raise ConfigError(f"tool_choice={choice!r} asks for a call, but there are no tools: bind some")
        return "required"
    if choice in _WORDS:
        return choice
    name: Any = choice
    if isinstance(choice, Mapping):
        about = choice.get("function")
        name = about.get("name") if choice.get("type") == "function" and isinstance(about, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(
            f"tool_choice={choice!r} is not known: use 'auto', 'none', 'any', the name of a tool, or "
            "{'type': 'function', 'function': {'name': …}}"
        )
    if name not in names:
        hint = did_you_mean(name, [*names, "auto", "none", "any"])
        raise ConfigError(f"tool_choice={choice!r} is no tool that is bound: {hint}")
    return {"type": "function", "function": {"name": name}}


def answer_message(result: SearchResult, beam: Beam, policy: Policy | None, **fields: Any) -> AIMessage:
    """A beam's answer as a message, with its thoughts, and with its tool calls if the request has tools.

    A call's id follows from the search's seed, the conversation and the call's place, so a replay gives the same one.
    A policy that writes whole messages has ids, content blocks and further fields of its own: those are kept.

    Args:
        result: the search that the beam is of.
        beam: a finished one.
        policy: the one that decoded it. Its ``tool_syntax`` is read where the request has tools.
        fields: further fields of the message.
    """
    request, own = result.request, _own_fields(beam, fields)
    if not takes_calls(request):
        return AIMessage(**{"content": _content(beam.thoughts, beam.text), **own})
    # The search refused a request with tools if its policy has no tool syntax.
    parsed = read_calls(cast("_ReadsToolCalls", policy).tool_syntax, request, beam.text, finished=True)
    place = derive(result.config.seed or 0, "tool calls", request.to_json(), beam.text)
    calls = [tool_call(name=c.name, args=dict(c.arguments), id=_id(place, i)) for i, c in enumerate(parsed.calls)]
    invalid = [_invalid(call, _id(place, i)) for i, call in enumerate(parsed.invalid, start=len(calls))]
    if _with_own_ids(calls, own.pop("tool_calls", [])) or invalid:
        own.pop("content", None)  # blocks of other calls than the message has
    return AIMessage(
        **{"content": _content(beam.thoughts, parsed.text), **own, "tool_calls": calls, "invalid_tool_calls": invalid}
    )


def _own_fields(beam: Beam, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a message: given ones, and those that the policy's own message had."""
    own: dict[str, Any] = dict(beam.message)
    metadata = {**own.get("response_metadata", {}), **fields.get("response_metadata", {})}
    return {**own, **fields, **({"response_metadata": metadata} if metadata else {})}


def _with_own_ids(calls: Sequence[ToolCall], own: Sequence[Mapping[str, Any]]) -> bool:
    """Give calls the ids of the policy's own; returns whether they are not the same calls."""
    left = list(own)
    for call in calls:
        if same := next((one for one in left if (one["name"], one["args"]) == (call["name"], call["args"])), None):
            left.remove(same)
            call["id"] = same["id"] or call["id"]
    return bool(left) or len(calls) != len(own)


def _content(thoughts: str, text: str) -> str | list[str | dict[str, Any]]:
    """A text alone, or LangChain's standard blocks of a reasoning model's answer."""
    if not thoughts:
        return text
    blocks: list[str | dict[str, Any]] = [{"type": "reasoning", "reasoning": thoughts}]
    return [*blocks, {"type": "text", "text": text}] if text else blocks


def _invalid(call: InvalidCall, call_id: str) -> InvalidToolCall:
    args = call.text
    try:
        if isinstance(parse_partial_json(args), dict):  # a stream's reader would take it for a call that can be made
            args = f"{call.reason}: {args}"
    except ValueError:
        pass
    return invalid_tool_call(name=call.name, args=args, id=call_id, error=call.reason)


def _id(seed: int, place: int) -> str:
    # Nine letters and digits: some chat templates insist on that.
    number, letters = derive(seed, place), ""
    for _ in range(9):
        number, letter = divmod(number, len(_LETTERS))
        letters += _LETTERS[letter]
    return letters


def call_chunks(message: AIMessage) -> list[ToolCallChunk]:
    """A whole message's tool calls, as the chunk of a stream has them."""
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    return [
        tool_call_chunk(
            name=call["name"],
            args=args if isinstance(args := call["args"], str) else json.dumps(args, ensure_ascii=False),
            id=call["id"],
            index=i,
        )
        for i, call in enumerate(calls)
    ]


def profile_of(policy: Policy | None, config: SearchConfig) -> ModelProfile:
    """The capabilities of a chat model with this policy, as agents read them."""
    enforces = policy is not None and policy.enforces_formats
    profile = ModelProfile(
        text_inputs=True,
        text_outputs=True,
        image_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        max_output_tokens=config.max_new_tokens,
        tool_calling=policy is not None and policy.reads_tool_calls and policy.supports_tools,
        tool_choice=enforces,
        structured_output=enforces,
        temperature=True,
    )
    if policy is not None and policy.context_length is not None:
        profile["max_input_tokens"] = policy.context_length
    return profile
