"""A row of a policy as a sequence of the engine: its tokens, its constraint, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from darwin_align.backends.detokenizer import Detokenizer, first_stop
from darwin_align.backends.local.constraints import GrammarConstraint
from darwin_align.backends.local.engine import DecodeSequence
from darwin_align.backends.local.thinking import ThinkingConstraint
from darwin_align.core.errors import RequestError
from darwin_align.core.types import FinishReason, Sampling
from darwin_align.formats.thinking import ThinkingPhase
from darwin_align.formats.thoughts import Split, ThoughtFormat
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
        form: how its thoughts are told from its text; ``None`` if it has none.
        phase: where it is between them.
    """

    row: Row
    prompt: list[int]
    context_length: int
    eos_ids: frozenset[int]
    detokenizer: Detokenizer
    form: ThoughtFormat | None = None
    phase: ThinkingPhase | None = None
    constraint: GrammarConstraint | ThinkingConstraint | None = None
    logprob: float = 0.0
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.ids = [*self.prompt, *self.row.tokens]
        self.reused = self._given = len(self.ids)
        self._limit = min(self._given + self.row.max_tokens, self.context_length)
        self._halts_at_text = self.row.to_text and self.phase is not None and not (self.phase.ended or self._texted)

    @property
    def remaining(self) -> int:
        """Tokens that may still be decoded now."""
        return 0 if self.finish_reason is not None or self._halted else self._limit - len(self.ids)

    @property
    def _halted(self) -> bool:
        """Whether it ends this call because its text is to begin."""
        phase = self.phase
        return self._halts_at_text and phase is not None and bool(phase.ended) and phase.text_from is not None

    @property
    def _texted(self) -> bool:
        return bool(self.row.tokens) and not self.row.thinking

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
        if self.phase is not None:
            self.phase.push(token)
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
        if not stops or (start := 0 if self.phase is None else self.phase.text_from) is None:
            return False
        return len(text := self._state[start:]) > 0 and self.detokenizer.ends_with_stop(text, stops)

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
        text_of = partial(self.detokenizer.text, finished=self.finish_reason == "stop")
        split = Split(text_of(state)) if self.form is None else self.form.split(state, text_of)
        text = split.text
        unread = self._given - self.reused
        return Continuation(
            text=text[: first_stop(text, self.row.request.stop)],
            tokens=tuple(state),
            new_tokens=len(self.ids) - self._given,
            finish_reason=self.finish_reason,
            logprob=self.logprob,
            # The last token of a continued row was decoded, not read before: reading it belongs to its first step.
            prefilled_tokens=0 if unread == 1 and self.reused else unread,
            thoughts=split.thoughts,
            thinking=split.thinking,
            text_from=split.text_from,
        )
