"""A row of a policy as a sequence of the engine: its tokens, its constraint, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass

from darwin_align.backends.detokenizer import Detokenizer, first_stop
from darwin_align.backends.local.constraints import GrammarConstraint
from darwin_align.backends.local.engine import DecodeSequence
from darwin_align.core.errors import RequestError
from darwin_align.core.types import FinishReason, Sampling
from darwin_align.operators.policy import Continuation, Row

__all__ = ["DecodeRow"]


@dataclass(eq=False)
class DecodeRow(DecodeSequence):
    """A row while the engine decodes it.

    Args:
        row: the row.
        prompt: token ids of its conversation.
        context_length: tokens of prompt and answer.
        eos_ids: ids that end an answer.
        detokenizer: decodes states.
    """

    row: Row
    prompt: list[int]
    context_length: int
    eos_ids: frozenset[int]
    detokenizer: Detokenizer
    constraint: GrammarConstraint | None = None
    logprob: float = 0.0
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.ids = [*self.prompt, *self.row.tokens]
        self.reused = self._given = len(self.ids)
        self._limit = min(self._given + self.row.max_tokens, self.context_length)

    @property
    def remaining(self) -> int:
        """Tokens that may still be decoded now."""
        return 0 if self.finish_reason is not None else self._limit - len(self.ids)

    @property
    def seed(self) -> int:
        """Names the row's noise."""
        return self.row.seed

    @property
    def drawn(self) -> int:
        """Position of the next draw: new tokens of the whole answer, however many calls it took."""
        return len(self.ids) - len(self.prompt)

    @property
    def sampling(self) -> Sampling:
        """The row's settings."""
        return self.row.request.sampling

    @property
    def rank(self) -> int | None:
        """Which of the most likely tokens is decoded, in place of a draw."""
        return self.row.rank

    def push(self, token: int, logprob: float) -> None:
        """Take a decoded token."""
        self.ids.append(token)
        self.logprob += logprob
        self.check_end()
        if self.constraint is not None and self.finish_reason is None:
            self.constraint.push(token)

    def check_end(self) -> None:
        """Note how the answer ended, if it did."""
        if self.drawn and (self.ids[-1] in self.eos_ids or self._stopped()):
            self.finish_reason = "stop"
        elif len(self.ids) >= self.context_length:
            self.finish_reason = "length"

    def _stopped(self) -> bool:
        stops = self.row.request.stop
        return bool(stops) and self.detokenizer.ends_with_stop(self._state, stops)

    @property
    def _state(self) -> list[int]:
        return self.ids[len(self.prompt) :]

    def continuation(self) -> Continuation:
        """Return what was decoded.

        Raises:
            RequestError: the row could not be made to keep its request's format.
        """
        if self.constraint is not None and self.constraint.error:
            raise RequestError(self.constraint.error)
        state = self._state
        text = self.detokenizer.text(state, finished=self.finish_reason == "stop")
        unread = self._given - self.reused
        return Continuation(
            text=text[: first_stop(text, self.row.request.stop)],
            tokens=tuple(state),
            new_tokens=len(self.ids) - self._given,
            finish_reason=self.finish_reason,
            logprob=self.logprob,
            # The last token of a continued row was decoded, not read before: reading it belongs to its first step.
            prefilled_tokens=0 if unread == 1 and self.reused else unread,
        )
