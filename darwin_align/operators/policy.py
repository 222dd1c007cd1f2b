"""The policy: whoever continues text. One object serves the decoder and the mutator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Protocol, runtime_checkable

from darwin_align.core.budget import Usage
from darwin_align.core.errors import ConfigError
from darwin_align.core.types import FinishReason, Request

__all__ = [
    "Allowance",
    "Continuation",
    "FunctionPolicy",
    "Policy",
    "Row",
    "check_ranks",
    "current_allowance",
    "current_search",
    "usage_of",
]

current_search: ContextVar[str] = ContextVar("current_search", default="")
"""The search whose question is being answered: an opaque hint for caches, like ``Row.search_id``."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the question that is being answered may still spend of its search's budget; ``None`` is no limit."""

    tokens: int | None = None
    """Tokens to decode."""
    deadline: float | None = None
    """On the clock of :func:`time.monotonic`."""

    @classmethod
    def of(cls, tokens: int | None, seconds: float | None) -> Allowance:
        """An allowance of so many tokens, and of so many seconds from now on."""
        return cls(tokens, None if seconds is None else monotonic() + seconds)

    @property
    def seconds(self) -> float | None:
        """Seconds that are left."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.tokens == 0 or self.seconds == 0.0

    def each(self, most: int, rows: int) -> int:
        """Tokens for each of so many rows: at most ``most``, at least one."""
        return most if self.tokens is None else max(1, min(most, self.tokens // rows))

    def after(self, usage: Usage) -> Allowance:
        """What is left when so much more was spent."""
        return self if self.tokens is None else replace(self, tokens=max(0, self.tokens - usage.decoded_tokens))


_NO_LIMITS = Allowance()
current_allowance: ContextVar[Allowance] = ContextVar("current_allowance", default=_NO_LIMITS)
"""For operators that decode more than they are asked for, e.g. to reword."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line to continue: the answer to ``request``, of which ``tokens`` (or ``text``) is there already."""

    request: Request
    """The conversation under the row's own instruction, with tools, stop strings and sampling."""
    max_tokens: int
    """Write at most so many tokens now."""
    seed: int
    """Names the row's noise. The draw for position ``p`` depends on ``(seed, p)`` alone, where ``p`` counts the new
    tokens of the whole answer: so a row writes the same whether it is asked once for 80 tokens or twice for 40."""
    tokens: tuple[int, ...] = ()
    text: str = ""
    search_id: str = ""
    """Opaque hint for caches."""
    rank: int | None = None
    """Write the token of this rank (0 is the most likely) in place of a draw, one token only, and tell its
    log-probability under the model's own distribution. Only policies with ``ranks_tokens`` are asked for it; one that
    has fewer tokens to offer repeats the last."""
    seconds: float | None = None
    """Stop after so many seconds with what was written by then, even if that is nothing. Only policies with
    ``stops_in_time`` heed it; others are asked for short pieces."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a policy wrote for one row."""

    text: str
    """The WHOLE answer so far, without special tokens and without the stop string."""
    tokens: tuple[int, ...] = ()
    """Token ids of the whole answer so far; empty where the policy has none."""
    new_tokens: int = 0
    """How many tokens were written now, an end-of-turn token included."""
    finish_reason: FinishReason | None = None
    """"stop" at an end token or stop string, "length" if the context is full, ``None`` at ``max_tokens``."""
    logprob: float | None = None
    """Sum of the log-probabilities of the tokens written now, under the distribution they were drawn from."""
    prefilled_tokens: int = 0
    """Prompt and state tokens that had to be read for this row."""


def usage_of(continuations: Sequence[Continuation]) -> Usage:
    """Add up what a policy spent on rows: one call each."""
    return Usage(
        prefilled_tokens=sum(c.prefilled_tokens for c in continuations),
        decoded_tokens=sum(c.new_tokens for c in continuations),
        policy_calls=len(continuations),
    )


@runtime_checkable
class Policy(Protocol):
    """Continues rows. ``generate`` may be a coroutine function instead.

    A policy that queues rows elsewhere may also have ``submit(rows)``, marked with
    :func:`~darwin_align.operators.portal.submits`: it returns a future at once, and then it is what a search calls.
    A policy that holds something for a search may have ``release(search_id)``, called when the search is over.
    One that heeds ``Row.rank`` has ``ranks_tokens = True``, one that heeds ``Row.seconds`` ``stops_in_time = True``.
    """

    def generate(self, rows: Sequence[Row]) -> Sequence[Continuation] | Awaitable[Sequence[Continuation]]:
        """Continue every row, in order.

        Raises:
            ContextLengthError: a row's prompt leaves no room in the context.
        """
        ...


def check_ranks(policy: Any) -> None:
    """Refuse to ask a policy for its most likely tokens that would write draws instead.

    Raises:
        ConfigError: it does not say that it can tell them.
    """
    if not getattr(policy, "ranks_tokens", False):
        raise ConfigError(
            f"decoding='candidates' asks for the most likely next tokens, which {type(policy).__name__} does not tell: "
            "use a LocalPolicy (or a policy of your own with ranks_tokens = True), or decoding='sample'"
        )


@dataclass(frozen=True, slots=True)
class FunctionPolicy:
    """A function from rows to continuations, plain or ``async``, as a policy."""

    generate: Callable[[Sequence[Row]], Any]
