"""Whether answers keep what their request requires: tool calls that can be made, JSON that keeps a schema.

The decoder calls :func:`judged` after every chunk. A beam whose state ends within a call is not replaced there, and one
whose answer cannot be used is invalid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from darwin_align.core.errors import RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.types import Beam, Request, ToolCall
from darwin_align.formats.call_parser import InvalidCall, Parsed
from darwin_align.formats.grounding import Sources, ungrounded
from darwin_align.formats.request_formats import answer_schema, functions, required_tools, strict_tools, takes_calls
from darwin_align.formats.schemas import check_schema
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.formats.validation import schema_violation

__all__ = ["check_request", "format_violation", "judged", "read_calls"]


class AnswerPolicy(Protocol):
    """The part of a :class:`~darwin_align.operators.policy.Policy` on which the verdicts on its answers depend."""

    @property
    def enforces_grounding(self) -> bool: ...

    @property
    def supports_tools(self) -> bool: ...

    @property
    def reads_tool_calls(self) -> bool: ...

    @property
    def tool_syntax(self) -> ToolSyntax: ...

    def check_tools(self, request: Request) -> None: ...


def check_request(request: Request, policy: AnswerPolicy) -> None:
    """Refuse what could not be judged afterwards, before anything is generated.

    Raises:
        RequestError: a ``response_format`` or ``tool_choice`` that is not known, a schema that is not valid, two tools
            of one name, a policy without a ``tool_syntax``, or one that cannot ground values.
    """
    if (schema := answer_schema(request)) is not None:
        _check_schema(schema, "response_format")
    if request.grounded and not policy.enforces_grounding:
        raise RequestError(
            f"grounded={request.grounded!r} is not enforced by {type(policy).__name__}, which cannot constrain "
            "values to copies: use a LocalPolicy or an EndpointPolicy, or leave grounded out"
        )
    if takes_calls(request):
        _check_tools(request, policy)


def _check_tools(request: Request, policy: AnswerPolicy) -> None:
    seen: dict[str, Any] = {}
    for tool in request.tools:
        for name, schema in functions([tool]).items():
            if seen.setdefault(name, tool) != tool:
                raise RequestError(f"two different tools are named {name!r}: a call could mean either, so rename one")
            _check_schema(schema, f"the tool {name!r}")
    if not policy.reads_tool_calls:
        raise RequestError(
            f"the request has tools, but {type(policy).__name__} has no tool_syntax to read tool calls with: use a "
            "LocalPolicy or an EndpointPolicy, or give the policy an attribute tool_syntax (a ToolSyntax)"
        )
    # A call that must be made ends an exchange; others go on with their results, which the model has to see.
    if required_tools(request) is None and not policy.supports_tools:
        raise RequestError(
            "the request has tools, but the policy's chat template does not show tools, calls and their results to the "
            "model: use a model that was trained with tools, or give the policy a chat_template=… that renders them"
        )
    policy.check_tools(request)


def _check_schema(schema: Json, owner: str) -> None:
    try:
        check_schema(schema)
    except RequestError as error:
        raise RequestError(f"{owner}: {error}") from None


def read_calls(syntax: ToolSyntax, request: Request, text: str, *, finished: bool) -> Parsed:
    """Read the calls in an answer and refuse those that the request does not allow.

    Args:
        syntax: the policy's :class:`~darwin_align.formats.tool_syntax.ToolSyntax`.
        request: has the tools, and decides whether several calls are allowed and which schemas are strict.
        text: the answer so far.
        finished: whether nothing will follow.

    Returns:
        What was found. ``invalid`` also holds calls that break a strict schema, come too many, are not of the tool
        that must be called, or hold values that are not grounded.
    """
    parsed = syntax.parse(text, request.tools, finished=finished)
    if not parsed.calls:
        return parsed
    schemas, strict = functions(request.tools), strict_tools(request)
    sources = Sources.of(request) if request.grounded else None
    kept: list[tuple[ToolCall, str]] = []
    refused = list(parsed.invalid)
    for call, violation in zip(parsed.calls, parsed.violations, strict=True):
        arguments = dict(call.arguments)
        reason = _refusal(request, call, first=not kept) or (violation if call.name in strict or sources else "")
        # The policy constrains calls after a mark token, but a mark can also be spelled letter by letter.
        if reason := reason or (ungrounded(arguments, schemas[call.name], sources) if sources else ""):
            refused.append(InvalidCall(json.dumps(arguments, ensure_ascii=False), reason, call.name))
        else:
            kept.append((call, violation))
    calls, violations = tuple(call for call, _ in kept), tuple(violation for _, violation in kept)
    return replace(parsed, calls=calls, violations=violations, invalid=tuple(refused))


def _refusal(request: Request, call: ToolCall, *, first: bool) -> str:
    required = required_tools(request)
    if required is not None and call.name not in required:
        return f"tool_choice asks for {' or '.join(sorted(required))}"
    if not (first or request.parallel_tool_calls):
        return "one call at most was asked for (parallel_tool_calls=False)"
    return ""


def format_violation(request: Request, text: str) -> str:
    """Why a finished answer breaks the request's ``response_format``, or "" if it keeps it.

    >>> format_violation(Request.of("Hi", response_format={"type": "json_object"}), "[1]")
    'the value is array and not object'
    """
    if (schema := answer_schema(request)) is None:
        return ""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON: {error}"
    return schema_violation(value, schema)


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not allowed")


def judged(beams: Mapping[int, Beam], request: Request, policy: AnswerPolicy) -> tuple[dict[int, Beam], list[str]]:
    """Mark of beams that were just continued which end within a call and which are invalid.

    Args:
        beams: by their index.
        request: what they answer.
        policy: has a ``tool_syntax`` if the request has tools.

    Returns:
        The beams, and a note for every one that became invalid.

    Raises:
        RequestError: the policy's calls cannot be read.
    """
    if not takes_calls(request) and answer_schema(request) is None:
        return dict(beams), []
    syntax = policy.tool_syntax if takes_calls(request) else None
    found = {i: _judged(beam, request, syntax) for i, beam in beams.items()}
    notes = [f"beam {i} is invalid: {fault}" for i, (beam, fault) in found.items() if fault and beams[i].valid]
    return {i: beam for i, (beam, _) in found.items()}, notes


def _judged(beam: Beam, request: Request, syntax: ToolSyntax | None) -> tuple[Beam, str]:
    parsed = Parsed(beam.text) if syntax is None else read_calls(syntax, request, beam.text, finished=beam.finished)
    fault = f"a tool call cannot be made: {parsed.invalid[0].reason}" if parsed.invalid else ""
    if beam.finished and not fault and not parsed.calls:
        fault = _fault(request, beam.text)
    calls = beam.finish_reason == "stop" and bool(parsed.calls)
    update = {
        "in_tool_call": parsed.open and not beam.finished,
        "valid": beam.valid and not fault,
        "finish_reason": "tool_calls" if calls else beam.finish_reason,
    }
    return beam.model_copy(update=update), fault


def _fault(request: Request, text: str) -> str:
    """What is wrong with a finished answer that makes no call."""
    if takes_calls(request) and (required := required_tools(request)):
        return f"it makes no tool call, and tool_choice asks for {' or '.join(sorted(required))}"
    violation = format_violation(request, text)
    return f"it breaks response_format: {violation}" if violation else ""
