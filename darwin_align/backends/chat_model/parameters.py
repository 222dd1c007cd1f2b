"""A row's settings as a chat model takes them.

LangChain's models have their parameters as fields (``max_tokens``, ``num_predict``, ``random_seed`` …) and read them
when they are called, so a copy of the model with other values is the form that all of them take. As keyword arguments
of a call some models take other names, and some take none (ChatOllama).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from typing import Any

from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable

from darwin_align.backends.langchain_models import structured
from darwin_align.core.types import Request, Sampling
from darwin_align.formats.request_formats import answer_schema, required_tools, takes_calls
from darwin_align.operators.policy import Row

__all__ = ["adapted", "refused_setting", "supports_tools"]

_FIELDS: dict[str, tuple[str, ...]] = {
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "max_new_tokens"),
    "seed": ("seed", "random_seed"),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
}
"""Names of the fields for a setting, the first one that a model has counts."""
_WORD = re.compile(r"\w+")
_LARGEST_SEED = 2**31 - 1
"""Servers keep seeds in 32 bits or in 64, signed or not."""


def adapted(
    model: BaseChatModel, row: Row, refused: Collection[str] = ()
) -> tuple[Runnable[Any, Any], dict[str, None]]:
    """A chat model with a row's settings, tools and format.

    Args:
        model: is not changed.
        row: what to answer.
        refused: settings that the model's server refused before.

    Returns:
        The model, and notes on settings that it does not take.
    """
    request, notes = row.request, dict[str, None]()
    settings = {name: value for name, value in _settings(row).items() if name not in refused}
    fields = {name: _field(model, name) for name in settings}
    if lacking := sorted(name for name, field in fields.items() if field is None):
        notes[f"{type(model).__name__} takes no {', '.join(lacking)}: left out"] = None
    values = {field: settings[name] for name, field in fields.items() if field is not None}
    if (most := fields["max_tokens"]) is not None and isinstance(own := getattr(model, most), int) and own > 0:
        values[most] = min(own, row.max_tokens)
    # A run's handlers must not make a stream of it: many models report no usage then.
    values["disable_streaming"] = True
    if fields.get("seed") is None and model.cache is not False and (model.cache or get_llm_cache()):
        values["cache"] = False
        notes[f"{type(model).__name__} takes no seed: LangChain's cache, which holds one sample, is off"] = None
    copy = model.model_copy(update=values)
    bound = _with_tools(copy, request, notes) if takes_calls(request) else _with_format(copy, request, notes)
    return (bound.bind(stop=list(request.stop)) if request.stop and bound is copy else bound), notes


def _settings(row: Row) -> dict[str, Any]:
    """What a row asks for. Of its sampling that is what was set by hand: a chat model has defaults of its own."""
    by_hand = row.request.sampling.model_dump(exclude_unset=True, exclude_none=True)
    sampling = {name: by_hand[name] for name in Sampling.model_fields if name in by_hand}
    return {"max_tokens": row.max_tokens, "seed": row.seed % _LARGEST_SEED, **sampling}


def _field(model: BaseChatModel, setting: str) -> str | None:
    return next((field for field in _FIELDS[setting] if field in type(model).model_fields), None)


def supports_tools(model: BaseChatModel) -> bool:
    """Whether a chat model takes tools."""
    return type(model).bind_tools is not BaseChatModel.bind_tools


def _with_tools(model: BaseChatModel, request: Request, notes: dict[str, None]) -> Runnable[Any, Any]:
    options: dict[str, Any] = {"stop": list(request.stop)} if request.stop else {}
    if (choice := _choice(request)) is not None:
        options["tool_choice"] = choice
    if not request.parallel_tool_calls:
        if "parallel_tool_calls" in inspect.signature(model.bind_tools).parameters:
            options["parallel_tool_calls"] = False
        else:
            notes[
                f"{type(model).__name__} takes no parallel_tool_calls: an answer that makes several calls is invalid"
            ] = None
    if answer_schema(request) is not None:
        options["response_format"] = request.response_format
    return model.bind_tools(list(request.tools), **options)


def _choice(request: Request) -> str | None:
    required = required_tools(request)
    if required is None:
        return request.tool_choice if isinstance(request.tool_choice, str) else None
    return "any" if len(required) > 1 or request.tool_choice in ("required", "any") else next(iter(required))


def _with_format(model: BaseChatModel, request: Request, notes: dict[str, None]) -> Runnable[Any, Any]:
    schema = answer_schema(request)
    if schema is None:
        return model
    described = (request.response_format or {}).get("json_schema")
    name = described.get("name") if isinstance(described, Mapping) else None
    if request.stop and "stop" in type(model).model_fields:
        model = model.model_copy(update={"stop": list(request.stop)})
    if (formed := structured(model, str(name or "answer"), schema)) is not None:
        return formed
    notes[f"{type(model).__name__} takes no response_format: an answer that breaks it is invalid"] = None
    return model


def refused_setting(error: Exception, row: Row, refused: Collection[str]) -> str | None:
    """The setting of a row that a server's error names, if it can be left out.

    >>> from darwin_align.core.types import Request
    >>> refused_setting(ValueError("Unsupported parameter: 'seed'"), Row(Request.of("Hi"), 9, 1), ())
    'seed'
    """
    optional = _settings(row).keys() - {"max_tokens"} - set(refused)
    named = set(_WORD.findall(str(error)))
    return next((name for name in sorted(optional) if named.intersection(_FIELDS[name])), None)
