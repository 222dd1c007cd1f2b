"""What a policy wrote, judged by what its request asks for: tool calls that can be made, JSON that keeps a schema.

The decoder asks after every chunk. A beam whose state ends within a call is held, and one whose answer cannot be used
is invalid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from darwin_align.core.errors import RequestError
from darwin_align.core.types import Beam, Request, ToolCall
from darwin_align.operators.grounding import Sources, ungrounded
from darwin_align.operators.tool_syntax import InvalidCall, Parsed, functions, schema_violation

__all__ = ["check_asked", "forced_tools", "format_breach", "judged", "read_calls", "takes_calls", "tells_calls"]

_ANY = ("required", "any")


def takes_calls(request: Request) -> bool:
    """Whether an answer may make tool calls.

    >>> takes_calls(Request.of("Hi", tools=[{"type": "function", "function": {"name": "stop"}}]))
    True
    """
    return bool(request.tools) and request.tool_choice != "none"


def forced_tools(request: Request) -> frozenset[str] | None:
    """Names of the tools of which one must be called; ``None`` if none must be.

    >>> tools = [{"type": "function", "function": {"name": "stop"}}]
    >>> sorted(forced_tools(Request.of("Hi", tools=tools, tool_choice="required")))
    ['stop']
    """
    choice, known = request.tool_choice, functions(request.tools)
    if choice in (None, "auto", "none"):
        return None
    if choice in _ANY:
        return frozenset(known)
    name = choice.get("function", {}).get("name") if isinstance(choice, dict) else choice  # type: ignore[union-attr]
    return frozenset({str(name)})


def tells_calls(policy: Any) -> bool:
    """Whether a policy says how its model writes calls. It is not asked: it might have to ask a server."""
    return hasattr(type(policy), "tool_syntax") or "tool_syntax" in getattr(policy, "__dict__", {})


def check_asked(request: Request, policy: Any) -> None:
    """Refuse what could not be judged afterwards, before anything is written.

    Raises:
        RequestError: a ``response_format`` that is not known, two tools of one name, a policy that does not say how
            its model writes calls, or one that grounds no values.
    """
    _check_format(request.response_format)
    if request.grounded and not getattr(policy, "enforces_grounding", False):
        raise RequestError(
            f"grounded={request.grounded!r} is not enforced by {type(policy).__name__}, which cannot hold a model to "
            "copied values: use a LocalPolicy or an EndpointPolicy, or leave grounded out"
        )
    if not takes_calls(request):
        return
    seen: dict[str, Any] = {}
    for tool in request.tools:
        for name in functions([tool]):
            if seen.setdefault(name, tool) != tool:
                raise RequestError(f"two different tools are named {name!r}: a call could mean either, so rename one")
    if not tells_calls(policy):
        raise RequestError(
            f"the request has tools, but {type(policy).__name__} does not say how its model writes tool calls: use a "
            "LocalPolicy or an EndpointPolicy, or give the policy an attribute tool_syntax (a ToolSyntax)"
        )
    # A call that must be made ends an exchange; others go on with their results, which the model has to see.
    if not getattr(policy, "supports_tools", True) and forced_tools(request) is None:
        raise RequestError(
            "the request has tools, but the policy's chat template does not show tools, calls and their results to the "
            "model: use a model that was trained with tools, or give the policy a chat_template=… that renders them"
        )
    # A template that is there already is looked at; one that a server must be asked for is not.
    template = getattr(policy, "__dict__", {}).get("template")
    if template is not None:
        template.check_tools(request)


def _check_format(form: Mapping[str, Any] | None) -> None:
    if form is None or form.get("type") in ("text", "json_object"):
        return
    about: Any = form.get("json_schema") if form.get("type") == "json_schema" else None
    if not isinstance(about, dict) or not isinstance(about.get("schema"), dict | bool):
        raise RequestError(
            f"response_format={json.dumps(form, ensure_ascii=False):.200} is not known: use {{'type': 'json_object'}}, "
            "or {'type': 'json_schema', 'json_schema': {'name': …, 'schema': {…}}}"
        )


def read_calls(syntax: Any, request: Request, text: str, *, finished: bool) -> Parsed:
    """Read the calls in an answer and refuse those that the request does not allow.

    Args:
        syntax: the policy's :class:`~darwin_align.operators.tool_syntax.ToolSyntax`.
        request: says which tools there are, and whether calls may be several and must keep strict schemas.
        text: the answer so far.
        finished: whether nothing will follow.

    Returns:
        What was found. ``invalid`` also holds calls that break a strict schema, come too many, are not of the tool
        that must be called, or hold values that are not grounded; ``breaches`` are those of the other calls.
    """
    parsed: Parsed = syntax.parse(text, request.tools, finished=finished)
    schemas, strict = functions(request.tools), _strict(request)
    sources = Sources.of(request) if request.grounded and parsed.calls else None
    kept: list[ToolCall] = []
    refused, breaches = list(parsed.invalid), []
    for call in parsed.calls:
        wrong = schema_violation(dict(call.arguments), schemas[call.name])
        reason = _refusal(request, call, first=not kept) or (wrong if call.name in strict or sources else "")
        # Whatever the policy enforces where a call is marked, a mark can also be spelled letter by letter.
        if reason := reason or (ungrounded(dict(call.arguments), schemas[call.name], sources) if sources else ""):
            refused.append(InvalidCall(json.dumps(dict(call.arguments), ensure_ascii=False), reason, call.name))
            continue
        kept.append(call)
        breaches += [f"{call.name}: {wrong}"] if wrong else []
    return replace(parsed, calls=tuple(kept), invalid=tuple(refused), breaches=tuple(breaches))


def _refusal(request: Request, call: ToolCall, *, first: bool) -> str:
    forced = forced_tools(request)
    if forced is not None and call.name not in forced:
        return f"tool_choice asks for {' or '.join(sorted(forced))}"
    if not (first or request.parallel_tool_calls):
        return "one call at most was asked for (parallel_tool_calls=False)"
    return ""


def _strict(request: Request) -> frozenset[str]:
    """Names of the tools whose schemas must be kept."""
    return frozenset(name for tool in request.tools if _is_strict(tool) for name in functions([tool]))


def _is_strict(tool: Mapping[str, Any]) -> bool:
    about = tool.get("function")
    return bool((about if isinstance(about, Mapping) else tool).get("strict"))


def format_breach(request: Request, text: str) -> str:
    """Why a finished answer breaks the request's ``response_format``, or "" if it keeps it.

    >>> format_breach(Request.of("Hi", response_format={"type": "json_object"}), "[1]")
    'the value is array and not object'
    """
    form = request.response_format
    if form is None or form.get("type") == "text":
        return ""
    about = form.get("json_schema")
    schema = about.get("schema") if isinstance(about, dict) else {"type": "object"}
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"it is no JSON: {error}"
    return schema_violation(value, schema)


def judged(beams: Mapping[int, Beam], request: Request, policy: Any) -> tuple[dict[int, Beam], list[str]]:
    """Say of beams that were just continued which are held and which are invalid.

    Args:
        beams: by their index.
        request: what is asked.
        policy: has a ``tool_syntax`` if the request has tools.

    Returns:
        The beams, and a note for every one that became invalid.

    Raises:
        RequestError: the policy's calls cannot be read.
    """
    if not takes_calls(request) and request.response_format is None:
        return dict(beams), []
    syntax = policy.tool_syntax if takes_calls(request) else None
    found = {i: _judged(beam, request, syntax) for i, beam in beams.items()}
    notes = [f"beam {i} is invalid: {fault}" for i, (beam, fault) in found.items() if fault and beams[i].valid]
    return {i: beam for i, (beam, _) in found.items()}, notes


def _judged(beam: Beam, request: Request, syntax: Any) -> tuple[Beam, str]:
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
    if forced := forced_tools(request):
        return f"it makes no tool call, and tool_choice asks for {' or '.join(sorted(forced))}"
    wrong = format_breach(request, text)
    return f"it breaks response_format: {wrong}" if wrong else ""
