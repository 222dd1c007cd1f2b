"""What a search's call consists of: its request, its settings, and the preflight of judges before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableLambda

from darwin_align.core import Event, Request, Sampling, SearchConfig
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import plain_errors
from darwin_align.core.setting_names import explain_unknown
from darwin_align.core.types import Grounded
from darwin_align.langchain.model_errors import is_context_overflow, is_remote_fault
from darwin_align.langchain.settings import ALIASES
from darwin_align.operators.conversation import check_characters, conversation_of
from darwin_align.operators.portal import acall, call
from darwin_align.operators.scorer import Scorer

__all__ = ["SearchInput", "named_settings", "preflight", "request_of", "search_changes", "warn_failed"]

logger = logging.getLogger("darwin_align.search")

SearchInput = str | Sequence[Any] | PromptValue | Request
_SAMPLING = frozenset(Sampling.model_fields)
_SEARCH = frozenset(SearchConfig.model_fields)
_REQUEST = frozenset(
    {
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "grounded",
        "grounded_in",
        "chat_template_kwargs",
    }
)


def named_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given, under their own names instead of aliases.

    Raises:
        ConfigError: one is unknown, or given under two names.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if len(twice := sorted(given.keys() & {*ALIASES, *ALIASES.values()})) > 1:
        raise ConfigError(f"{' and '.join(twice)} are one setting: give one of them")
    named = {ALIASES.get(name, name): value for name, value in given.items()}
    if unknown := sorted(named.keys() - _SAMPLING - _SEARCH - _REQUEST):
        known = _SAMPLING | _SEARCH | _REQUEST | ALIASES.keys()
        raise ConfigError(f"unknown setting {unknown[0]!r}: {explain_unknown(unknown[0], known, '')}")
    return named


def request_of(input: SearchInput, named: Mapping[str, Any], *, sampling: Sampling, grounded: Grounded) -> Request:
    """The request of a call, with the call's settings.

    Args:
        input: as for ``invoke``.
        named: the call's settings.
        sampling: of the search, for an input that has none.
        grounded: of the search, likewise.

    Raises:
        ConfigError: an impossible setting.
        RequestError: the conversation cannot be read, or a text contains half a surrogate pair.
    """
    request = input if isinstance(input, Request) else Request(conversation=conversation_of(input), sampling=sampling)
    by_hand = request.sampling.model_dump(exclude_unset=True)  # defaults may be left out where a server lacks them
    sampling = Sampling(**{**by_hand, **{name: value for name, value in named.items() if name in _SAMPLING}})
    fields = {name: value for name, value in named.items() if name in _REQUEST}
    if "grounded" not in request.model_fields_set:
        fields.setdefault("grounded", grounded)
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    with plain_errors(Request):
        request = Request.model_validate({**dict(request), **fields, "sampling": sampling})
    check_characters(request)
    return request


def search_changes(named: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a call's settings that are the search's."""
    return {name: value for name, value in named.items() if name in _SEARCH}


def preflight(judge: Scorer, request: Request) -> Runnable[Any, None]:
    """The preflight of a judge, as a run of its own."""

    async def apreflight(_: str) -> None:
        await acall(judge.try_out, request)

    return RunnableLambda(lambda _: call(judge.try_out, request), apreflight, name="JudgeTrial")


_BACK = "to go on once the server is back, replay the events before this one"
_LONGER = "for longer answers use a scorer with a longer context, or lower max_new_tokens"
_BROKEN = "the traceback shows where it failed"


def warn_failed(event: Event, error: Exception) -> None:
    """Log that an operator failed for good, and what to do about it."""
    remote, unread = is_remote_fault(error), is_context_overflow(error)
    logger.warning(
        "%s failed for good in cycle %d, step %d (%s): the search ends with the best scored answer so far; "
        "%s, or set on_failure='raise' for an error",
        event.operator,
        event.cycle,
        event.step,
        event.failure,
        _BACK if remote else _LONGER if unread else _BROKEN,
        exc_info=None if remote or unread else error,  # perhaps a bug: the traceback would be lost
    )
