"""Rows whose grammar is enforced by the client, on servers that do not know it: what breaks it is cut and redone.

A server's own grammars begin at the first token that it generates. A search continues answers that have begun, so the
grammar state is advanced here: after each reply over its ids, up to the first that is not allowed. A token that is the
only one allowed is appended without a request. Where there is a choice, one token is requested among those that are
allowed, and then the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from darwin_align.backends.detokenizer import Detokenizer
from darwin_align.backends.endpoint.dialects.base import LENGTH, STOP, Choice, TokenConstraint
from darwin_align.core.errors import EndpointServerError
from darwin_align.core.types import Sampling
from darwin_align.formats.matcher import GrammarPosition, tokens_of_mask
from darwin_align.formats.thinking import ThinkingPosition
from darwin_align.operators.policy import Row

__all__ = ["ConstrainedRow", "NextRequest", "ids_of", "most_requests"]

_FEW = 64
"""If at most so many tokens are allowed and the last free reply broke the grammar at once, one of them is requested."""
_LISTED = 512
"""Longest list of tokens that any request may have."""
_BANS = 2
"""Requests that forbid only what was generated, where the lists of allowed and of forbidden tokens are both long."""
_TRIES = 6
"""Requests in a row without an allowed token, after which the server is assumed to ignore the constraint."""
_SHORTEST = 4
"""Tokens that are requested after a cut; four times as many after each success."""
_MAX_BIAS_TEMPERATURE = 4.0
"""Temperature up to which a token with a bias of 100 outweighs all others."""


def most_requests(max_tokens: int) -> int:
    """The most requests that a row of at most ``max_tokens`` new tokens may take.

    A token that is not allowed costs two requests: the one that generated it, and the one for another in its place.
    """
    return 2 * max_tokens + 8


@dataclass(frozen=True)
class NextRequest:
    """The next request of a row."""

    max_tokens: int
    constraint: TokenConstraint | None
    tries: int
    """Requests before this one that gave no allowed token: its seed must differ from theirs."""


@dataclass(eq=False)
class ConstrainedRow:
    """A row that is continued request by request under its grammar.

    Progress is certain for any ``limit``: every reply either gives an allowed token, or adds a forbidden one to
    ``_refused``, so that the next request excludes it. After ``_TRIES`` replies without an allowed token the row fails
    (or its grammar is dropped, where it is lenient), and after :func:`most_requests` requests it is ended.

    Args:
        row: the row.
        prompt: its conversation's ids and those that it has.
        limit: its ``max_tokens``, or fewer if the context ends before.
        position: its state in its grammar.
        detokenizer: of the server's model.
        end: the token that ends an answer in the model's chat template; there may be several end tokens.
        masks: whether the server takes a list of the only tokens that are allowed.
    """

    row: Row
    prompt: tuple[int, ...]
    limit: int
    position: GrammarPosition | ThinkingPosition
    detokenizer: Detokenizer
    end: int | None
    masks: bool
    finish: str | None = None
    """The finish reason, once the answer has ended."""
    note: str = ""
    """Why the row was ended early, or its grammar was dropped; empty otherwise."""
    prefilled: int = 0
    """Prompt tokens that the server computed for it."""
    discarded: int = 0
    """Tokens that the server generated and that were cut."""
    new: list[int] = field(default_factory=list)
    """What was generated and kept."""

    def __post_init__(self) -> None:
        self._requests = self._tries = 0
        self._refused: set[int] = set()
        self._free_tokens, self._expect_rejection = self.limit, False
        self._append_forced_tokens()

    @property
    def tokens(self) -> tuple[int, ...]:
        """The whole state."""
        return (*self.row.tokens, *self.new)

    @property
    def left(self) -> int:
        """How many tokens may still be generated."""
        return 0 if self.finish is not None else self.limit - len(self.new)

    @property
    def generated(self) -> Choice:
        """All that was generated, as one choice."""
        return Choice(ids=tuple(self.new), finish=self.finish or "length")

    # -- requests

    def next_request(self) -> NextRequest:
        """The next request; only while :attr:`left` is above 0."""
        if self._refused or (self._expect_rejection and self._biased and self._allowed_count <= _FEW):
            self._requested, constraint = 1, self._constraint()
        else:
            self._requested, constraint = min(self.left, self._free_tokens), None
        self._constrained_now, self._sent = constraint is not None, len(self.prompt) + len(self.new)
        return NextRequest(self._requested, constraint, self._tries)

    @property
    def _allowed_count(self) -> int:
        mask = self.position.mask
        return self.limit + _LISTED if mask is None else int.from_bytes(mask, "little").bit_count()

    def _constraint(self) -> TokenConstraint:
        """The allowed or the forbidden tokens, by whichever list is short enough; else a ban of what was cut."""
        allowed = tokens_of_mask(self.position.mask or b"")
        if len(allowed) > 1 and self.position.call_mark is not None:
            # The model began text, not a call, when both were allowed: it chose the format.
            allowed = [token for token in allowed if token != self.position.call_mark]
        known = {*allowed}
        forbidden = {*range(self.position.size), *self._refused} - known
        if self._biased and len(allowed) <= _LISTED:
            return TokenConstraint(tuple(allowed), only=True)
        if len(forbidden) > _LISTED and self._tries <= _BANS:
            return TokenConstraint(tuple(sorted(({*self._refused, *self.position.ends}) - known)), only=False)
        if self._biased and (self.masks or len(allowed) <= len(forbidden)):
            return TokenConstraint(tuple(allowed), only=True)
        return TokenConstraint(tuple(sorted(forbidden)), only=False)

    # -- replies

    def accept(self, choice: Choice, *, read: bool = False) -> None:
        """Append a reply to the last request, up to the first token that the grammar does not allow.

        Args:
            choice: the reply.
            read: whether another choice of the same request accounts for the prompt.

        Raises:
            EndpointServerError: the server ignores the constraint, or returns no ids.
            RequestError: the answer cannot be made to keep what the request asks for.
        """
        ids = ids_of(choice)
        self._requests += 1
        self.prefilled += 0 if read else max(0, self._sent - choice.cached_tokens)
        kept = self._push_all(ids)
        self.discarded += len(ids) - kept
        rejected = self.finish is None and kept < len(ids)
        if rejected:
            self._refused = {*(self._refused if not kept else ()), ids[kept]}
        elif self.finish is None:
            self._note_end(choice, kept)
        self._adapt_request_size(kept, rejected=rejected)
        self._append_forced_tokens()
        if self.left and self._tries >= _TRIES:
            self._constraint_ignored()
        if self.left and self._requests >= most_requests(self.limit):
            self.finish = "length"
            self.note = (
                "a row was ended: it keeps breaking the request's response_format or tool_choice, and "
                f"{self._requests} requests for {self.limit} tokens did not help"
            )

    def _push_all(self, ids: Sequence[int]) -> int:
        """Append ids up to the first that is not allowed; return how many were appended."""
        for kept, token in enumerate(ids):
            if self.finish is not None or not self.left or not self.position.allows(token):
                return kept
            self._push(token)
        return len(ids)

    def _push(self, token: int) -> None:
        self.new.append(token)
        self._tries, self._refused = 0, set()
        if token in self._ends:
            self.finish = "stop"
            return
        self.position.push(token)
        stops, start = self.row.request.stop, self.position.text_from
        if stops and start is not None and self.detokenizer.ends_with_stop(self.tokens[start:], stops):
            self.finish = "stop"

    def _note_end(self, choice: Choice, kept: int) -> None:
        """Set the finish reason if the server ended the answer after its last id, which is allowed."""
        if choice.finish in STOP:
            if self.position.complete:
                self.finish = choice.finish
            else:  # the end token itself is not in the reply
                self._refused |= self._ends
        elif choice.finish not in (None, *LENGTH) or kept < self._requested:
            self.finish = choice.finish or "length"

    def _adapt_request_size(self, kept: int, *, rejected: bool) -> None:
        """Request fewer tokens without a constraint after a cut, more after a success."""
        if not kept:
            self._tries += 1
        if self._constrained_now:
            return
        self._expect_rejection = rejected and not kept
        self._free_tokens = max(_SHORTEST, 2 * kept) if rejected else min(self.limit, 4 * self._free_tokens)

    def _append_forced_tokens(self) -> None:
        """Append tokens as long as only one is allowed."""
        while self.left and (token := self.position.forced_token()) is not None:
            # Which end token the model would choose makes no difference: use the one of its template.
            ended = token in self._ends and self.end is not None and self.position.allows(self.end)
            self._push(self.end if ended and self.end is not None else token)

    def _constraint_ignored(self) -> None:
        if self.position.lenient:
            self.position.drop_constraint()
            self._refused, self._tries = set(), 0
            self.note = "a tool call is not kept to its schema: the server ignores which tokens are allowed"
            return
        raise EndpointServerError(
            f"the server was sent the allowed tokens {self._tries - 1} times and generated others: response_format and "
            "tool_choice need a server that applies logit_bias (or allowed_token_ids), and no proxy in front of it "
            "that removes it. Use such a server, or leave the format out and check the answer yourself"
        )

    @cached_property
    def _biased(self) -> bool:
        return self.masks or _can_be_biased(self.row.request.sampling)

    @cached_property
    def _ends(self) -> frozenset[int]:
        return frozenset(self.position.ends)


def _can_be_biased(sampling: Sampling) -> bool:
    """Whether a bias only changes which tokens are allowed: a repetition penalty would scale it with the logit."""
    return sampling.repetition_penalty in (None, 1.0) and sampling.temperature <= _MAX_BIAS_TEMPERATURE


def ids_of(choice: Choice) -> tuple[int, ...]:
    """The ids of a choice.

    Raises:
        EndpointServerError: there are none.
    """
    if choice.ids is None:
        raise EndpointServerError("the server returned token ids before, and now it does not")
    return choice.ids
