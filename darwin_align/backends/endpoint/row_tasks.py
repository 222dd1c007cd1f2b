"""The rows of one ``generate`` call and the requests that each of them takes until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from darwin_align.backends.endpoint.constrained import ConstrainedRow
from darwin_align.backends.endpoint.continuation import ContinuationStrategy
from darwin_align.backends.endpoint.dialects.base import Choice, Prompt, TokenConstraint
from darwin_align.backends.endpoint.rendezvous import prefix_of
from darwin_align.core.errors import ContextLengthError
from darwin_align.core.types import Sampling
from darwin_align.formats.request_formats import is_constrained
from darwin_align.operators.policy import Continuation, Row

__all__ = [
    "EMPTY_CHOICE",
    "PendingRow",
    "RowReply",
    "RowTask",
    "accept_replies",
    "empty_continuation",
    "pending_row",
    "row_tasks",
]

_MAX_STALLED_TOKENS = 32
"""Tokens after which a text that is not white space alone shows some of it."""
EMPTY_CHOICE = Choice(ids=(), finish="length", new_tokens=0)
"""The choice of a row whose context is full."""


@dataclass(frozen=True)
class PendingRow:
    """A row as it goes into a request."""

    index: int
    """Its place among the rows of the call."""
    row: Row
    prompt: Prompt
    max_tokens: int
    """The row's own, or fewer if the context ends before."""
    stop: tuple[str, ...] = ()
    """Stop strings for the server: none for a row that may still think."""
    constraint: TokenConstraint | None = None
    tries: int = 0
    """Requests for the same tokens before this one: each uses another seed."""

    @property
    def settings(self) -> tuple[int, Sampling, tuple[str, ...], TokenConstraint | None]:
        """What all rows of one request share."""
        return self.max_tokens, self.row.request.sampling, self.stop, self.constraint

    @cached_property
    def prefix(self) -> int:
        """What the row's server is chosen by: its search, whose beams begin alike; else its conversation."""
        return prefix_of(self.row.request, self.row.search_id)

    @property
    def has_state(self) -> bool:
        """Whether a part of the answer is decoded already."""
        return bool(self.row.text or self.row.tokens or self.row.thoughts)


@dataclass(eq=False)
class RowTask:
    """A row until its tokens are decoded: by one request, or by as many as its grammar takes.

    :meth:`next` and :meth:`accept` alternate. Progress is certain at every number of tokens a chunk: a constrained row
    has a bound of its own (:class:`~darwin_align.backends.endpoint.constrained.ConstrainedRow`), and any other row is
    sent again only while its text has not grown, each time with twice the tokens up to a bound.
    """

    strategy: ContinuationStrategy
    pending: PendingRow
    constrained: ConstrainedRow | None = None
    _found: Continuation | None = None
    _retry: PendingRow | None = None
    """The row with more tokens, where its request for fewer stalled."""
    _decoded: int = 0

    def next(self) -> PendingRow | None:
        """The row for the next request; ``None`` once it is done."""
        constrained, pending = self.constrained, self.pending
        if constrained is None:
            return (self._retry or pending) if self._found is None else None
        if not constrained.left:
            return None
        request = constrained.next_request()
        row = replace(pending.row, tokens=constrained.tokens, max_tokens=request.max_tokens)
        prompt = (*constrained.prompt, *constrained.new)
        stop = self.strategy.stop(row)
        return PendingRow(pending.index, row, prompt, request.max_tokens, stop, request.constraint, request.tries)

    def accept(self, sent: PendingRow, choice: Choice, *, read: bool) -> None:
        """Take the choice for the row as it was sent; ``read``: another choice accounts for its prompt."""
        if self.constrained is not None:
            self.constrained.accept(choice, read=read)
            return
        found = self.strategy.continuation(sent.row, sent.prompt, choice, sent.max_tokens)
        self._decoded += found.new_tokens
        if self.strategy.stalled(sent.row, found) and (more := self._more_tokens(sent)) > sent.max_tokens:
            self._retry = replace(sent, row=replace(sent.row, max_tokens=more), max_tokens=more)
            return
        counted = min(found.new_tokens, self.pending.max_tokens)
        self._found = replace(found, new_tokens=counted, prefilled_tokens=0 if read else found.prefilled_tokens)

    def _more_tokens(self, sent: PendingRow) -> int:
        """Twice as many tokens, as far as the context allows; 0 if the row had enough to show any text."""
        if sent.max_tokens >= max(_MAX_STALLED_TOKENS, self.pending.max_tokens * 2):
            return 0
        limit = self.strategy.max_response_tokens(sent.row, sent.prompt)
        return sent.max_tokens * 2 if limit is None else min(sent.max_tokens * 2, limit)

    @property
    def discarded(self) -> int:
        """Tokens that the server decoded and that are not in the continuation."""
        if self.constrained is not None:
            return self.constrained.discarded
        return self._decoded - (self._found.new_tokens if self._found is not None else 0)

    def continuation(self) -> Continuation:
        """The result; only after :meth:`next` returned ``None``."""
        if self.constrained is None:
            assert self._found is not None  # noqa: S101 - see above
            return self._found
        pending = self.pending
        whole = self.strategy.continuation(pending.row, pending.prompt, self.constrained.generated, pending.max_tokens)
        return replace(whole, prefilled_tokens=self.constrained.prefilled)


RowReply = tuple[RowTask, PendingRow, Choice, bool]
"""A task, its row as it was sent, the choice for it, and whether another choice accounts for the prompt."""


def pending_row(strategy: ContinuationStrategy, index: int, row: Row) -> PendingRow:
    """A row with its prompt and the number of tokens that its context allows.

    Raises:
        ContextLengthError: an answer does not even begin, because the conversation fills the context.
    """
    prompt = strategy.prompt(row)
    limit = strategy.max_response_tokens(row, prompt)
    if limit is not None and limit < 1 and not (row.text or row.tokens or row.thoughts):
        raise ContextLengthError(
            f"the conversation leaves no room for an answer in the model's context of {strategy.context_length} "
            "tokens: shorten it or use a model with a longer context"
        )
    most = row.max_tokens if limit is None else min(row.max_tokens, limit)
    return PendingRow(index, row, prompt, most, strategy.stop(row))


async def row_tasks(strategy: ContinuationStrategy, rows: Sequence[PendingRow]) -> dict[int, RowTask]:
    """The tasks of rows by their indices, with a grammar where the request requires one."""
    if not any(map(_may_be_constrained, rows)):
        return {one.index: RowTask(strategy, one) for one in rows}
    # Compiling a grammar takes time, in which the loop serves other searches.
    constrained = await asyncio.to_thread(
        lambda: [strategy.constrained_row(one.row, one.prompt, one.max_tokens) for one in rows]
    )
    return {one.index: RowTask(strategy, one, found) for one, found in zip(rows, constrained, strict=True)}


def _may_be_constrained(pending: PendingRow) -> bool:
    request = pending.row.request
    return bool(request.tools) or is_constrained(request) or request.sampling.max_thinking_tokens is not None


def accept_replies(replies: Sequence[RowReply]) -> list[PendingRow]:
    """Give replies to their tasks; return the rows that need another request."""
    for task, sent, choice, read in replies:
        task.accept(sent, choice, read=read)
    return [following for task, *_ in replies if (following := task.next()) is not None]


def empty_continuation(strategy: ContinuationStrategy, pending: PendingRow) -> Continuation:
    """The continuation of a row that gets no token."""
    return replace(strategy.continuation(pending.row, pending.prompt, EMPTY_CHOICE, 0), prefilled_tokens=0)
