"""Detects how a server is continued: its dialect, its model, and the first continuation strategy that works."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.continuation import ContinuationStrategy, UnsupportedStrategy
from darwin_align.backends.endpoint.continue_by_ids import ByIds
from darwin_align.backends.endpoint.continue_by_text import ByPrefill, ByText
from darwin_align.backends.endpoint.dialects import DIALECTS, Dialect
from darwin_align.backends.endpoint.server import ServedModel, ServerInfo, identify_server
from darwin_align.backends.endpoint.tokenizers import load_template, may_be_loaded, tokenizer_length
from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.errors import ConfigError, ModelLoadError
from darwin_align.core.json_types import Json
from darwin_align.core.record import did_you_mean

__all__ = ["PolicyOptions", "ServerProfile", "detect_profile"]

logger = logging.getLogger(__name__)

_STRATEGIES: dict[str, type[ContinuationStrategy]] = {"ids": ByIds, "text": ByText, "prefill": ByPrefill}
"""In the order in which they are tried."""
_PROMPT_FIELDS = {"prompt", "messages", "input_ids", "inputs", "text"}
_OWN_FIELDS = frozenset({*_PROMPT_FIELDS, "max_tokens", "n", "seed", "stop", "stream", "temperature", "top_p", "top_k"})
"""Fields of a body that are set by the search, never by ``extra_body``."""


@dataclass(frozen=True)
class PolicyOptions:
    """The options of an ``EndpointPolicy``, see there.

    Raises:
        ConfigError: one of them is impossible.
    """

    model: str | None
    dialect: str
    continuation: str
    tokenizer: str | Path | None
    chat_template: str | Path | None
    context_length: int | None
    seeded: bool
    rows_per_request: int
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    chat_template_kwargs: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dialect not in ("auto", *DIALECTS):
            raise ConfigError(f"unknown dialect {self.dialect!r}: {did_you_mean(self.dialect, ['auto', *DIALECTS])}")
        if self.continuation not in ("auto", *_STRATEGIES):
            raise ConfigError(f"continuation={self.continuation!r} is unknown: use 'auto', 'ids', 'text' or 'prefill'")
        if self.continuation in ("ids", "text") and self.tokenizer is None and self.dialect == "openai":
            raise ConfigError(f"continuation={self.continuation!r} needs tokenizer=…: a folder or a hub id")
        if taken := sorted(_OWN_FIELDS & self.extra_body.keys()):
            raise ConfigError(f"extra_body cannot set {taken[0]!r}: a search sets that itself")
        if self.rows_per_request < 1:
            raise ConfigError(f"rows_per_request={self.rows_per_request} is impossible: send one row at least")


@dataclass(frozen=True)
class ServerProfile:
    """A server's dialect and model, and the strategy by which it is continued."""

    dialect: Dialect
    served: ServedModel
    strategy: ContinuationStrategy
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Tokenizer:
    """The chat template of a tokenizer, if one could be loaded."""

    template: ChatTemplate | None
    missing: str = ""
    """Why there is no template."""
    context_length: int | None = None
    """The context length that the tokenizer states."""


async def detect_profile(endpoint: Endpoint, options: PolicyOptions) -> ServerProfile:
    """Identify a server and probe the strategies in their order, on the portal's loop.

    Raises:
        EndpointError: the server cannot be used.
        ConfigError: it supports no strategy that the options allow, or its model or tokenizer must be given.
    """
    where = endpoint.roots[0]
    server = await identify_server(endpoint)
    dialect = DIALECTS[options.dialect if options.dialect != "auto" else _dialect_of(server)]
    served = server.model(options.model, where)
    tokenizer = await _tokenizer(options, dialect, served)
    context_length = options.context_length or served.context_length or tokenizer.context_length
    reasons = []
    for name, strategy_class in _STRATEGIES.items():
        if options.continuation not in ("auto", name):
            continue
        strategy = strategy_class(
            dialect,
            served.id,
            tokenizer.template,
            context_length,
            dict(options.extra_body),
            switches=options.chat_template_kwargs,
        )
        try:
            _check_supported(name, dialect, tokenizer)
            await strategy.probe(endpoint)
        except UnsupportedStrategy as unsupported:
            reasons.append(f"by {strategy.name}: {unsupported}")
            continue
        note = f"{where} ({dialect.name}) continues {served.id!r} by {strategy.name}"
        if strategy.warning:
            logger.warning("%s: %s", where, strategy.warning)
        notes = ("; not ".join([note, *reasons]), strategy.warning)
        return ServerProfile(dialect, served, strategy, tuple(filter(None, notes)))
    raise ConfigError(
        f"{where} ({dialect.name}) cannot go on with an answer that was begun, which a search needs: not "
        f"{'; not '.join(reasons)}. Use a server with /v1/completions and give tokenizer=…, or name the dialect if "
        "it was not recognised"
    )


def _dialect_of(server: ServerInfo) -> str:
    return server.kind if server.kind in DIALECTS else "openai"


def _check_supported(name: str, dialect: Dialect, tokenizer: _Tokenizer) -> None:
    if not {"ids": dialect.by_ids, "text": dialect.by_text, "prefill": dialect.by_prefill}[name]:
        raise UnsupportedStrategy(f"{dialect.name} servers do not take that")
    if name != "prefill" and tokenizer.template is None:
        raise UnsupportedStrategy(tokenizer.missing)


async def _tokenizer(options: PolicyOptions, dialect: Dialect, served: ServedModel) -> _Tokenizer:
    """The tokenizer that the options name, or one by the name of the served model."""
    if options.tokenizer is not None:
        return await _loaded(options.tokenizer, options)
    if options.continuation == "prefill" or not dialect.hub_models:
        return _Tokenizer(None, "it needs tokenizer=…, a folder or a hub id")
    names = dict.fromkeys(name for name in (served.root, served.id) if name)
    for name in [name for name in names if may_be_loaded(name, options.model)]:
        try:
            return await _loaded(name, options)
        except ModelLoadError as error:
            logger.info("no tokenizer by the name of %r: %s", name, error)
    missing = f"it needs tokenizer=…, for there is none here by the name of {' or '.join(map(repr, names))}"
    return _Tokenizer(None, missing)


async def _loaded(path: str | Path, options: PolicyOptions) -> _Tokenizer:
    switches = options.chat_template_kwargs
    template = await asyncio.to_thread(load_template, path, options.chat_template, switches=switches)
    return _Tokenizer(template, context_length=tokenizer_length(path))
