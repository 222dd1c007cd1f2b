"""How a server continues a partial answer: the base of the three strategies.

:class:`~darwin_align.backends.endpoint.continue_by_ids.ByIds` sends token ids and is exact. Text is tokenised again at
every chunk and drifts a little (:class:`~darwin_align.backends.endpoint.continue_by_text.ByText`); an assistant's turn
that the request begins also passes through the server's chat template
(:class:`~darwin_align.backends.endpoint.continue_by_text.ByPrefill`). Each strategy is probed once with a tiny
conversation before a search relies on it.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.constrained import ConstrainedRow
from darwin_align.backends.endpoint.dialects.base import (
    LENGTH,
    STOP,
    Choice,
    CompletionRequest,
    Dialect,
    Prompt,
    Wire,
)
from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.errors import EndpointError, EndpointServerError, RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.log_once import log_once
from darwin_align.core.types import FinishReason, Request, Sampling
from darwin_align.formats.request_formats import answer_schema, required_tools
from darwin_align.operators.policy import Continuation, Row

__all__ = ["PROBE_REQUEST", "ContinuationStrategy", "UnsupportedStrategy"]

logger = logging.getLogger(__name__)

PROBE_REQUEST = Request.of("Count from one to five.")
"""The conversation that strategies are probed with."""
_UNENFORCED = (
    "{what} cannot be enforced on a server that is continued by {why}: use one that takes and gives token ids (vLLM, "
    "SGLang, llama.cpp) and give its model's tokenizer (tokenizer=…), or use a local model; or leave it out and ask "
    "for the form in the instruction"
)


class UnsupportedStrategy(Exception):  # noqa: N818 - a signal to try the next strategy, never raised to users
    """A server does not continue answers by this strategy."""


@dataclass
class ContinuationStrategy(ABC):
    """How rows become prompts, and choices become continuations."""

    dialect: Dialect
    model: str
    template: ChatTemplate | None
    context_length: int | None
    extra: dict[str, Any]
    switches: Mapping[str, Json] = field(default_factory=dict, kw_only=True)
    """The policy's switches of the chat template."""
    warning: str = field(default="", kw_only=True)
    """A doubt that the probe left, for the log and the notes."""
    name: ClassVar[str]

    @abstractmethod
    async def probe(self, endpoint: Endpoint) -> None:
        """Try the strategy on the server, and set what depends on the server.

        Raises:
            UnsupportedStrategy: it does not work, and why.
        """

    @abstractmethod
    def prompt(self, row: Row) -> Prompt:
        """The prompt that the server continues."""

    @abstractmethod
    def wire(self, request: CompletionRequest) -> Wire:
        """Path and body of a request."""

    @abstractmethod
    def read(self, data: Any, request: CompletionRequest) -> list[Choice]:
        """The choices of a reply."""

    @abstractmethod
    def continuation(self, row: Row, prompt: Prompt, choice: Choice, max_tokens: int) -> Continuation:
        """The continuation of a row by a choice of a request for ``max_tokens`` tokens."""

    @abstractmethod
    def prompt_length(self, row: Row, prompt: Prompt) -> int | None:
        """Tokens of a row's prompt; ``None`` without a tokenizer."""

    def check(self, request: Request) -> None:
        """Refuse what this strategy cannot enforce.

        Raises:
            RequestError: a ``response_format``, a forced ``tool_choice``, grounded values or ``max_thinking_tokens``
                that cannot be enforced.
        """
        thinks = self.template is None or self.template.thought_format is not None
        if (most := request.sampling.max_thinking_tokens) is not None and thinks:
            raise RequestError(
                f"max_thinking_tokens={most} cannot be kept on a server that is continued by {self.name}: use one that "
                "takes and gives token ids, and give tokenizer=…; or leave it out"
            )
        if answer_schema(request) is not None:
            raise RequestError(_UNENFORCED.format(what="response_format", why=self.name))
        if required_tools(request) is not None:
            raise RequestError(_UNENFORCED.format(what=f"tool_choice={request.tool_choice!r}", why=self.name))
        if request.grounded:
            raise RequestError(_UNENFORCED.format(what=f"grounded={request.grounded!r}", why=self.name))

    def stop(self, row: Row) -> tuple[str, ...]:
        """Stop strings that the server may look for: they end no thoughts, so a row that may think has none."""
        return row.request.stop

    def constrained_row(self, row: Row, prompt: Prompt, limit: int) -> ConstrainedRow | None:  # noqa: ARG002
        """The row with its grammar; ``None`` if any answer is allowed."""
        return None

    def stalled(self, row: Row, found: Continuation) -> bool:  # noqa: ARG002
        """Whether the continued row has the same prompt as before, so that it would never get any further."""
        return False

    def max_response_tokens(self, row: Row, prompt: Prompt) -> int | None:
        """Tokens that still fit behind a row's prompt, or ``None`` where that is not known."""
        length = self.prompt_length(row, prompt)
        return None if length is None or self.context_length is None else self.context_length - length

    async def _complete(self, endpoint: Endpoint, prompt: Prompt, max_tokens: int = 1) -> Choice:
        """Send a greedy probe request.

        Raises:
            UnsupportedStrategy: the server refuses it, or its reply cannot be read.
        """
        request = CompletionRequest(
            self.model, (prompt,), max_tokens, Sampling(temperature=0.0, top_k=None), extra=self.extra
        )
        path, body = self.wire(request)
        try:
            reply = await endpoint.post(path, body)
        except EndpointError as error:
            if error.status in (400, 404, 405, 415, 422, 500, 501):
                raise UnsupportedStrategy(str(error)) from error
            raise
        try:
            return self.read(reply.data, request)[0]
        except EndpointServerError as error:
            raise UnsupportedStrategy(str(error)) from error

    def _finish_reason(self, row: Row, choice: Choice, new_tokens: int, max_tokens: int) -> FinishReason | None:
        if choice.finish in STOP:
            return "stop"
        if choice.finish == "content_filter":
            log_once(logger, "the server's content filter cut an answer: it counts as ended there")
            return "stop"
        if choice.finish not in (None, *LENGTH):
            raise EndpointServerError(f"the server ended an answer by {choice.finish!r}, an unknown finish reason")
        # An answer goes on only where the whole of max_tokens was decoded and none of it was cut by the context.
        return None if new_tokens >= max_tokens == row.max_tokens else "length"
