"""What a request requires of an answer's form: the only readers of ``response_format`` and ``tool_choice``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from darwin_align.core.errors import RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.types import Request

__all__ = [
    "answer_schema",
    "functions",
    "is_constrained",
    "required_tools",
    "shown_choice",
    "strict_tools",
    "takes_calls",
]

_OPTIONAL = (None, "auto", "none")
"""Choices of a tool under which none must be called."""
_REQUIRED = ("required", "any")
"""Choices under which one must be, whichever it is."""


def functions(tools: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The JSON schema of every function's arguments, by its name. Tools that are no functions are left out.

    >>> functions([{"type": "function", "function": {"name": "stop"}}])
    {'stop': {'type': 'object', 'properties': {}}}
    """
    nothing = {"type": "object", "properties": {}}
    described = [_function(tool) for tool in tools]
    return {str(one["name"]): dict(one.get("parameters") or nothing) for one in described if "name" in one}


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = tool.get("function")
    return inner if isinstance(inner, Mapping) else tool


def takes_calls(request: Request) -> bool:
    """Whether an answer may make tool calls.

    >>> takes_calls(Request.of("Hi", tools=[{"type": "function", "function": {"name": "stop"}}]))
    True
    """
    return bool(request.tools) and request.tool_choice != "none"


def required_tools(request: Request) -> dict[str, dict[str, Any]] | None:
    """Schemas of the tools of which one must be called, by name, or ``None`` if none must be.

    >>> tools = [{"type": "function", "function": {"name": "stop"}}]
    >>> sorted(required_tools(Request.of("Hi", tools=tools, tool_choice="required")))
    ['stop']

    Raises:
        RequestError: a choice of another shape, or of a tool that is not there.
    """
    choice, known = request.tool_choice, functions(request.tools)
    if choice in _OPTIONAL:
        return None
    if choice in _REQUIRED and known:
        return known
    name: Json = choice
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if choice.get("type") == "function" and isinstance(function, dict) else None
    if isinstance(name, str) and name in known:
        return {name: known[name]}
    raise RequestError(
        f"{shown_choice(request)} cannot be kept: use 'auto', 'none', 'required', the name of a tool or "
        f"{{'type': 'function', 'function': {{'name': …}}}}; the request's tools are {', '.join(known) or 'none'}"
    )


def shown_choice(request: Request) -> str:
    """``tool_choice``, as error messages quote it."""
    return f"tool_choice={_short(request.tool_choice)}"


def strict_tools(request: Request) -> frozenset[str]:
    """Names of the tools whose schemas must be kept."""
    return frozenset(name for tool in request.tools if _function(tool).get("strict") for name in functions([tool]))


def answer_schema(request: Request) -> Json:
    """The JSON schema that an answer without calls must keep, or ``None``.

    >>> answer_schema(Request.of("Hi", response_format={"type": "json_object"}))
    {'type': 'object'}

    Raises:
        RequestError: a format of another shape.
    """
    form = request.response_format
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") == "json_object":
        return {"type": "object"}
    described = form.get("json_schema")
    if form.get("type") == "json_schema" and isinstance(described, dict):
        schema = described.get("schema")
        if isinstance(schema, dict | bool):
            return schema
    raise RequestError(
        f"response_format={_short(form)} is not known: use {{'type': 'json_object'}}, or {{'type': 'json_schema', "
        "'json_schema': {'name': …, 'schema': {…}}}"
    )


def is_constrained(request: Request) -> bool:
    """Whether the request requires a format of its answer, or a call."""
    form = request.response_format
    return (form is not None and form.get("type") != "text") or request.tool_choice not in _OPTIONAL


def _short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
