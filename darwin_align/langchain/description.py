"""What a model is made of, in words: its policy and reward, the search, and what cannot be done, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from textwrap import fill
from typing import Any

from darwin_align.core.config import SearchConfig
from darwin_align.core.errors import DarwinError
from darwin_align.core.types import Request
from darwin_align.operators.policy import Policy

__all__ = ["describe"]

_WIDTH = 100
_INDENT = 10
_TOOL = {
    "type": "function",
    "function": {
        "name": "steep",
        "description": "Steep the tea.",
        "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
    },
}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "tea", "schema": {"type": "object"}}}
_QUESTION = "How long does green tea steep?"


def describe(search: Any) -> str:
    """Describe a search, a line or more for each part.

    Args:
        search: a :class:`~darwin_align.search.DarwinSearch`.
    """
    return "\n".join(
        fill(f"{name:<{_INDENT}}{text}", _WIDTH, subsequent_indent=" " * _INDENT, break_long_words=False)
        for name, text in _lines(search)
    )


def _lines(search: Any) -> Iterator[tuple[str, str]]:
    policy: Policy | None = search.policy_for()
    yield "policy", "none: the decoder is given" if policy is None else _said(policy.describe)
    yield "reward", repr(search.scorer)
    yield "search", _settings(search.config)
    if policy is not None:
        yield "tools", _able(lambda: _use_tools(policy), "shown to the model; calls are read from its answers")
        yield "formats", _able(lambda: _use_format(policy), "enforced token by token")
        yield "context", "not known" if policy.context_length is None else f"{policy.context_length} tokens"


def _settings(config: SearchConfig) -> str:
    given = {name: getattr(config, name) for name in sorted(config.model_fields_set)}
    changed = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"{config.cycles} cycles of {config.mutations} mutations" + (f" ({changed})" if changed else "")


def _said(describe_policy: Callable[[], str]) -> str:
    try:
        return describe_policy()
    except DarwinError as error:
        return f"cannot be used: {error}"


def _able(use: Callable[[], object], yes: str) -> str:
    try:
        use()
    except DarwinError as error:
        return f"no: {error}"
    return yes


def _use_tools(policy: Policy) -> None:
    if not policy.supports_tools:
        raise DarwinError("its chat template shows the model no tools, calls or results")
    policy.check_tools(Request.of(_QUESTION, tools=(_TOOL,)))
    if not policy.reads_tool_calls:
        raise DarwinError("this policy reads no tool calls")
    _ = policy.tool_syntax


def _use_format(policy: Policy) -> None:
    policy.refusal(Request.of(_QUESTION, response_format=_FORMAT), 1)
    if not policy.enforces_formats:
        raise DarwinError("it decodes without grammars; answers that break a format lose to those that keep it")
