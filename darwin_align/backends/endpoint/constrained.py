"""Rows that are kept to a grammar on servers that know nothing of it: what breaks it is cut, and asked for anew.

A server's own grammars begin at the first token that it writes. A search goes on with answers that were begun, so the
grammar is walked here: after each reply over its ids, up to the first that may not come. What must come next is
appended without asking. Where there is a choice, one token is asked for among those that may come, and then the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from darwin_align.backends.detokenizer import Detokenizer
from darwin_align.backends.endpoint.dialects.base import LENGTH, STOP, Choice, TokenConstraint
from darwin_align.core.errors import EndpointServerError
from darwin_align.core.types import Sampling
from darwin_align.formats.matcher import GrammarPosition, members
from darwin_align.operators.policy import Row

__all__ = ["ConstrainedRow", "Question", "ids_of", "most_requests"]

_FEW = 64
"""Tokens among which a row that was led astray at once chooses before anything is written freely."""
_LISTED = 512
"""Tokens that a request names without a thought for its size."""
_BANS = 2
"""Requests that ban what was written, where the tokens that may come and those that may not are both many."""
_TRIES = 6
"""Requests for one token until it is plain that the server does not heed what it is told."""
_SHORTEST = 4
"""Tokens that are asked for behind one that had to be asked for; four times as many with every success."""
_HOTTEST = 4.0
"""Temperature up to which a bias of 100 leaves no other token a chance."""


def most_requests(max_tokens: int) -> int:
    """How many requests a row may take that is given so many tokens.

    A token that may not come costs two: the one that brought it, and the one that asks for another.
    """
    return 2 * max_tokens + 8


@dataclass(frozen=True)
class Question:
    """What a row asks next."""

    max_tokens: int
    steering: TokenConstraint | None
    tries: int
    """Requests before this one that brought nothing: it wants other noise than they."""


@dataclass(eq=False)
class ConstrainedRow:
    """A row on its way through its grammar, from request to request.

    Args:
        row: the row.
        prompt: its conversation's ids and those that it has.
        limit: tokens that it is given, as far as the context has room.
        place: where it stands in its grammar.
        detokenizer: of the server's model.
        end: the token by which the model ends an answer, of several.
        masks: whether the server takes a list of the only tokens that may come as such.
    """

    row: Row
    prompt: tuple[int, ...]
    limit: int
    place: GrammarPosition
    detokenizer: Detokenizer
    end: int | None
    masks: bool
    finish: str | None = None
    """The word of whoever ended the answer, once it is ended."""
    note: str = ""
    """Why it was given up, if it was."""
    prefilled: int = 0
    """Tokens that the server read for it."""
    discarded: int = 0
    """Tokens that the server wrote in vain."""
    new: list[int] = field(default_factory=list)
    """What was written and kept."""

    def __post_init__(self) -> None:
        self._requests = self._tries = 0
        self._refused: set[int] = set()
        self._window, self._wary = self.limit, False
        self._run_ahead()

    @property
    def tokens(self) -> tuple[int, ...]:
        """The whole state."""
        return (*self.row.tokens, *self.new)

    @property
    def left(self) -> int:
        """How many tokens may still be written."""
        return 0 if self.finish is not None else self.limit - len(self.new)

    @property
    def written(self) -> Choice:
        """All that was written, as if it had come at once."""
        return Choice(ids=tuple(self.new), finish=self.finish or "length")

    # -- asking

    def question(self) -> Question:
        """What is asked next; only while something is :attr:`left`."""
        if self._refused or (self._wary and self._biased and self._allowed_count <= _FEW):
            self._asked, steering = 1, self._steering()
        else:
            self._asked, steering = min(self.left, self._window), None
        self._steered, self._sent = steering is not None, len(self.prompt) + len(self.new)
        return Question(self._asked, steering, self._tries)

    @property
    def _allowed_count(self) -> int:
        mask = self.place.mask
        return self.limit + _LISTED if mask is None else int.from_bytes(mask, "little").bit_count()

    def _steering(self) -> TokenConstraint:
        """Which tokens may come, by whichever list is short enough; else what must not come again."""
        allowed = members(self.place.mask or b"")
        if len(allowed) > 1 and self.place.call_mark is not None:
            # Asked freely, the model began text and no call: that is a vote for the format.
            allowed = [token for token in allowed if token != self.place.call_mark]
        known = {*allowed}
        forbidden = {*range(self.place.size), *self._refused} - known
        if self._biased and len(allowed) <= _LISTED:
            return TokenConstraint(tuple(allowed), only=True)
        if len(forbidden) > _LISTED and self._tries <= _BANS:
            return TokenConstraint(tuple(sorted(({*self._refused, *self.place.ends}) - known)), only=False)
        if self._biased and (self.masks or len(allowed) <= len(forbidden)):
            return TokenConstraint(tuple(allowed), only=True)
        return TokenConstraint(tuple(sorted(forbidden)), only=False)

    # -- being answered

    def take(self, written: Choice, *, read: bool = False) -> None:
        """Take a reply to the last question, as far as the grammar goes along.

        Args:
            written: the reply.
            read: whether another row had the server read the same prompt for the same request.

        Raises:
            EndpointServerError: the server writes what it was told not to write, or no ids.
            RequestError: the answer cannot be made to keep what the request asks for.
        """
        ids = ids_of(written)
        self._requests += 1
        self.prefilled += 0 if read else max(0, self._sent - written.cached_tokens)
        kept = self._push_all(ids)
        self.discarded += len(ids) - kept
        astray = self.finish is None and kept < len(ids)
        if astray:
            self._refused = {*(self._refused if not kept else ()), ids[kept]}
        elif self.finish is None:
            self._note_end(written, kept)
        self._pace(kept, astray=astray)
        self._run_ahead()
        if self.left and self._tries >= _TRIES:
            self._unheeded()
        if self.left and self._requests >= most_requests(self.limit):
            self.finish = "length"
            self.note = (
                "a row was ended: it keeps breaking the request's response_format or tool_choice, and "
                f"{self._requests} requests for {self.limit} tokens did not help"
            )

    def _push_all(self, ids: Sequence[int]) -> int:
        """Take ids up to the first that may not come; return how many were taken."""
        for kept, token in enumerate(ids):
            if self.finish is not None or not self.left or not self.place.takes(token):
                return kept
            self._push(token)
        return len(ids)

    def _push(self, token: int) -> None:
        self.new.append(token)
        self._tries, self._refused = 0, set()
        stops = self.row.request.stop
        if token in self._ends or (stops and self.detokenizer.ends_with_stop(self.tokens, stops)):
            self.finish = "stop"
        else:
            self.place.push(token)

    def _note_end(self, written: Choice, kept: int) -> None:
        """Whether the server ended the answer behind its last id, which may come."""
        if written.finish in STOP:
            if self.place.complete:
                self.finish = written.finish
            else:  # it keeps the token to itself that ended the answer too early
                self._refused |= self._ends
        elif written.finish not in (None, *LENGTH) or kept < self._asked:
            self.finish = written.finish or "length"

    def _pace(self, kept: int, *, astray: bool) -> None:
        """Ask for fewer tokens where they come in vain."""
        if not kept:
            self._tries += 1
        if self._steered:
            return
        self._wary = astray and not kept
        self._window = max(_SHORTEST, 2 * kept) if astray else min(self.limit, 4 * self._window)

    def _run_ahead(self) -> None:
        """Write what must come next."""
        while self.left and (token := self.place.only()) is not None:
            # Which of its end tokens a model would choose makes no difference: the one that its template writes.
            ended = token in self._ends and self.end is not None and self.place.takes(self.end)
            self._push(self.end if ended and self.end is not None else token)

    def _unheeded(self) -> None:
        if self.place.lenient:
            self.place.let_go()
            self._refused, self._tries = set(), 0
            self.note = "a tool call is not kept to its schema: the server does not heed which tokens may come"
            return
        raise EndpointServerError(
            f"the server was told {self._tries - 1} times which tokens may come next, and wrote others: "
            "response_format and tool_choice need a server that heeds logit_bias (or allowed_token_ids), and no proxy "
            "before it that leaves that out. Use such a server, or leave the format out and check the answer yourself"
        )

    @cached_property
    def _biased(self) -> bool:
        return self.masks or _can_be_biased(self.row.request.sampling)

    @cached_property
    def _ends(self) -> frozenset[int]:
        return frozenset(self.place.ends)


def _can_be_biased(sampling: Sampling) -> bool:
    """Whether a bias on what may come changes nothing else: a penalty would count it as part of the logit."""
    return sampling.repetition_penalty in (None, 1.0) and sampling.temperature <= _HOTTEST


def ids_of(written: Choice) -> tuple[int, ...]:
    """The ids of a choice.

    Raises:
        EndpointServerError: there are none.
    """
    if written.ids is None:
        raise EndpointServerError("the server gave token ids before and now it does not")
    return written.ids
