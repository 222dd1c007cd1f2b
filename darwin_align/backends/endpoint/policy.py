"""The remote policy: any OpenAI-compatible server that can continue a partial answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from darwin_align.backends.endpoint.batching import RequestBatcher, RowBatch
from darwin_align.backends.endpoint.client import Endpoint, gather_all
from darwin_align.backends.endpoint.continuation import ContinuationStrategy
from darwin_align.backends.endpoint.continue_by_ids import ByIds
from darwin_align.backends.endpoint.continue_by_text import ByPrefill
from darwin_align.backends.endpoint.dialects import Choice, Dialect
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.backends.endpoint.row_tasks import (
    EMPTY_CHOICE,
    RowTask,
    accept_replies,
    empty_continuation,
    pending_row,
    row_tasks,
)
from darwin_align.backends.endpoint.server_profile import PolicyOptions, ServerProfile, detect_profile
from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.budget import Usage
from darwin_align.core.errors import ContextLengthError, DarwinError, RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.types import Request
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.operators.policy import Capabilities, Continuation, Policy, Row
from darwin_align.operators.portal import acall, call, on_portal
from darwin_align.operators.report import Report

__all__ = ["EndpointPolicy"]

logger = logging.getLogger(__name__)

ContinuationName = Literal["auto", "ids", "text", "prefill"]


class EndpointPolicy(Policy):
    """Continues rows on a server.

    At the first use the server is probed for a continuation strategy, in this order: token ids (vLLM, SGLang,
    llama.cpp), text behind the chat template rendered here, the beginning of an assistant's turn. The first two need
    the model's tokenizer. The choice is logged once, and is in the notes of the events where answers begin
    (``result.events[0].delta.notes``).

    A row's seed is sent where the server takes one. vLLM and llama.cpp are reproducible under a seed, up to rounding;
    other servers may not be (see their dialects). Rows with seeds are sent in separate requests, all at once. Rows that
    differ in nothing but noise share a request with ``n`` where the server gives its choices different noise; a row's
    answer then also depends on the number of these rows. Without seeds, or at temperature 0, all rows of a step are
    sent as one list where the server takes lists.

    By token ids, a request's ``response_format`` and ``tool_choice`` are enforced as on a local model (extra
    ``constrained``), also by servers without grammars: the grammar state is advanced here, tokens without an
    alternative are appended without a request, and where a reply breaks the grammar, one token is requested among the
    allowed ones, and then the rest. Greedy rows equal those of a local model. A row takes one request a chunk while the
    model keeps to the format by itself, two more for every token that it does not, and at most 2m + 8 for a chunk of m
    tokens: then it is ended with a note, and is invalid if it breaks its format. Tokens that the server decoded in vain
    count as decoded. Tool calls that are not forced are kept to their schemas likewise. The other two strategies refuse
    both.

    It may be used in any thread or event loop, and in any number of searches at once: they share its limit of requests.

    Args:
        base_url: ``http://host:port`` or a provider's address, with or without ``/v1``; or several that serve the same
            model, which then share the work and stand in for each other: all requests of a search go to the one whose
            cache has their prefixes.
        model: the model's name on the server; ``None`` takes the only one.
        dialect: "auto", or one of :data:`~darwin_align.backends.endpoint.dialects.DIALECTS`.
        continuation: "auto", "ids", "text" or "prefill".
        tokenizer: folder or hub id of the model's tokenizer. ``None`` tries the model's own name on servers that name
            their models by hub ids. A name that the server reports is used as a hub id only, never as a path.
        chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
        context_length: tokens of prompt and answer; ``None`` takes what the server, or else the tokenizer, reports.
        seeded: send seeds.
        rows_per_request: the most prompts in one request, where they are sent as a list.
        extra_body: further fields for every request, e.g. OpenRouter's ``provider``. Objects are merged with those that
            are sent anyway, e.g. Ollama's ``options``.
        chat_template_kwargs: switches of the chat template, e.g. ``{"enable_thinking": False}``, used here or sent,
            wherever prompts are rendered; a request's overrule them. They may also be given in ``extra_body``.
        api_key: bearer token; see :class:`~darwin_align.backends.endpoint.client.Endpoint` for the environment.
        headers: further headers; their values are secrets.
        limits: requests in flight, attempts, deadlines.

    Raises:
        ConfigError: an impossible option.

    >>> EndpointPolicy("http://127.0.0.1:8000", model="Qwen/Qwen3-8B", api_key="secret")
    EndpointPolicy('http://127.0.0.1:8000', model='Qwen/Qwen3-8B')
    """

    enforces_grounding = True
    """By token ids; the other strategies refuse such requests."""

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        model: str | None = None,
        dialect: str = "auto",
        continuation: ContinuationName = "auto",
        tokenizer: str | Path | None = None,
        chat_template: str | Path | None = None,
        context_length: int | None = None,
        seeded: bool = True,
        rows_per_request: int = 64,
        extra_body: Mapping[str, Any] | None = None,
        chat_template_kwargs: Mapping[str, Json] | None = None,
        api_key: str | SecretStr | None = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        limits: Limits | None = None,
    ) -> None:
        extra = dict(extra_body or {})
        switches = {**extra.pop("chat_template_kwargs", {}), **(chat_template_kwargs or {})}
        self._options = PolicyOptions(
            model,
            dialect,
            continuation,
            tokenizer,
            chat_template,
            context_length,
            seeded,
            rows_per_request,
            extra,
            switches,
        )
        self.endpoint = Endpoint(base_url, role="policy", api_key=api_key, headers=headers, limits=limits)
        self._profile: ServerProfile | None = None
        self._failure: DarwinError | None = None

    def __repr__(self) -> str:
        default = PolicyOptions(None, "auto", "auto", None, None, None, True, 64)
        given = [f"{name}={v!r}" for name, v in vars(self._options).items() if v != getattr(default, name)]
        return f"{type(self).__name__}({', '.join([*map(repr, self.endpoint.roots), *given])})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_profile": None, "_failure": None}

    async def generate(self, rows: Sequence[Row]) -> Report[list[Continuation]]:
        """Continue every row by at most its ``max_tokens``.

        Returns:
            The continuations, in order; notes on the server's strategy for rows that begin an answer.

        Raises:
            EndpointError: the server cannot be used, or every attempt failed.
            ContextLengthError: a prompt leaves no room for an answer.
            ConfigError: the model, the tokenizer or a setting does not fit the server.
            RequestError: the chat template refuses a conversation, or its format or tool choice cannot be enforced.
            ModelLoadError: the package that enforces them is missing.
        """
        return await acall(self._generate, rows)  # type: ignore[no-any-return]

    @property
    def tool_syntax(self) -> ToolSyntax:
        """The model's format of tool calls, by which they are read from its answers.

        Blocks: the first use sends requests to the server.

        Raises:
            RequestError: the server renders the template itself, or the template shows no format that is recognised.
        """
        if (template := self.template) is None:
            raise RequestError(
                f"tool calls cannot be read from answers that {self.endpoint.roots[0]} continues by "
                f"{self._strategy.name}: that takes the model's chat template, so give tokenizer=… and use a server "
                "that takes prompts"
            )
        return template.tool_syntax

    @property
    def template(self) -> ChatTemplate | None:
        """The chat template that renders prompts here; ``None`` where the server does it.

        Blocks: the first use sends requests to the server.
        """
        return self._strategy.template

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template shows tools, calls of them and their results to the model.

        Sends no request: before the first use it is not known, and assumed.
        """
        if self._profile is None:
            return True
        template = self._profile.strategy.template
        return (
            template is not None
            and not isinstance(self._profile.strategy, ByPrefill)
            and template.renders_tool_conversations
        )

    @property
    def enforces_formats(self) -> bool:
        """Whether a ``response_format`` and a forced ``tool_choice`` are enforced, as they are by token ids.

        Sends no request: before the first use it is true for ``continuation="ids"`` alone.
        """
        if find_spec("llguidance") is None:
            return False
        if self._profile is None:
            return self._options.continuation == "ids"
        strategy = self._profile.strategy
        return isinstance(strategy, ByIds)

    @property
    def capabilities(self) -> Capabilities:
        """What is known without a request: see :attr:`supports_tools` and :attr:`enforces_formats`."""
        return Capabilities(
            enforces_formats=self.enforces_formats,
            enforces_grounding=self.enforces_grounding,
            supports_tools=self.supports_tools,
            reads_tool_calls=True,
        )

    @property
    def model_name(self) -> str:
        """As the server names it; before the first use, as it was given."""
        found = self._options.model if self._profile is None else self._profile.served.id
        return found or super().model_name

    def describe(self) -> str:
        """Say how the server continues answers, and why not otherwise. Blocks: the first use sends requests to it.

        Raises:
            EndpointError: it cannot be used.
            ConfigError: it cannot continue answers.
        """
        return "; ".join((self._profile or call(self._server_profile)).notes)

    def refusal(self, request: Request, max_new_tokens: int) -> str | None:
        """Return why a request leaves too little of the context for an answer; ``None`` if it fits, or is not known.

        Blocks: the first use sends requests to the server.

        Raises:
            RequestError: the request's ``response_format`` or ``tool_choice`` cannot be enforced.
        """
        if self._profile is None and on_portal():
            return None
        strategy, row = self._strategy, Row(request, 1, 0)
        strategy.check(request)
        fitting = strategy.max_response_tokens(row, strategy.prompt(row))
        if fitting is None or strategy.context_length is None:
            return None
        needed = min(max_new_tokens, max(1, strategy.context_length // 8))
        if fitting >= needed:
            return None
        return (
            f"its prompt leaves {max(fitting, 0)} of the context's {strategy.context_length} tokens for the answer, "
            f"which needs {needed}"
        )

    # -- rows and requests

    async def _generate(self, rows: Sequence[Row]) -> Report[list[Continuation]]:
        profile = await self._server_profile()
        strategy = profile.strategy
        unsupported = _unsupported_note(profile.dialect, rows)
        pending = [pending_row(strategy, i, row) for i, row in enumerate(rows)]
        done = {one.index: empty_continuation(strategy, one) for one in pending if one.max_tokens < 1}
        tasks = await row_tasks(strategy, [one for one in pending if one.max_tokens > 0])
        batches = self._batcher(profile).batches([one for task in tasks.values() if (one := task.next()) is not None])
        await gather_all([self._complete(profile, tasks, batch) for batch in batches])
        done |= {index: task.continuation() for index, task in tasks.items()}
        notes = () if all(one.has_state for one in pending) else (*profile.notes, *unsupported)
        constrained = [task.constrained for task in tasks.values() if task.constrained is not None]
        return Report(
            [done[i] for i in range(len(rows))],
            usage=Usage(decoded_tokens=sum(task.discarded for task in tasks.values())),
            notes=(*notes, *dict.fromkeys(one.note for one in constrained if one.note)),
        )

    async def _complete(self, profile: ServerProfile, tasks: Mapping[int, RowTask], batch: RowBatch) -> None:
        """Request a batch's rows until all are done. Those that need another request share it, as they did before."""
        batches = [batch]
        while batches:
            answers = await gather_all([self._request(profile, one) for one in batches])
            replies = [
                # The prompt of several choices is computed once: the first of them accounts for it.
                (tasks[sent.index], sent, choice, one.request.n > 1 and i > 0)
                for one, choices in zip(batches, answers, strict=True)
                for i, (sent, choice) in enumerate(zip(one.rows, choices, strict=True))
            ]
            # Grammars over large vocabularies take time, in which the loop serves other searches.
            off_loop = any(task.constrained is not None for task, *_ in replies)
            again = await asyncio.to_thread(accept_replies, replies) if off_loop else accept_replies(replies)
            batches = list(self._batcher(profile).batches(again))

    async def _request(self, profile: ServerProfile, batch: RowBatch) -> list[Choice]:
        path, body = profile.strategy.wire(batch.request)
        try:
            reply = await self.endpoint.post(path, body, prefix=batch.rows[0].prefix)
        except ContextLengthError:
            if len(batch.request.prompts) > 1:  # one row that is too long fails the whole list
                batcher = self._batcher(profile)
                alone = await gather_all([self._request(profile, batcher.batch([one])) for one in batch.rows])
                return [choice for [choice] in alone]
            if not batch.rows[0].has_state:
                raise
            # The length of the prompt was an estimate, or unknown: the answer ends where the context is full.
            return [EMPTY_CHOICE] * len(batch.rows)
        return profile.strategy.read(reply.data, batch.request)

    def _batcher(self, profile: ServerProfile) -> RequestBatcher:
        options = self._options
        return RequestBatcher(
            profile,
            seeded=options.seeded,
            rows_per_request=options.rows_per_request,
            extra_body=options.extra_body,
            replicas=self.endpoint.roots,
        )

    # -- the server's profile

    @property
    def _strategy(self) -> ContinuationStrategy:
        """The strategy of the server. Blocks: the first use sends requests to the server."""
        return (self._profile or call(self._server_profile)).strategy

    async def _server_profile(self) -> ServerProfile:
        """The profile, detected once: calls that waited for a detection that failed share its error."""
        known_failure = self._failure
        async with self.endpoint.lock():
            if self._failure is not None and self._failure is not known_failure:
                raise self._failure  # of the detection that this call waited for
            if self._profile is None:
                try:
                    self._profile = await detect_profile(self.endpoint, self._options)
                except DarwinError as error:
                    self._failure = error
                    raise
                logger.info("%s", self._profile.notes[0])
        return self._profile


def _unsupported_note(dialect: Dialect, rows: Sequence[Row]) -> tuple[str, ...]:
    # Every row is looked at: samplings are equal whether a value was set explicitly or by default.
    lacking = sorted({name for row in rows for name in dialect.unsupported(row.request.sampling)})
    return (f"{dialect.name} servers take no {', '.join(lacking)}: left out",) if lacking else ()
