"""What callers hand to the engine: lines to write, and lines to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from darwin_align.backends.local.sampling import Guide
from darwin_align.core.types import Sampling

__all__ = ["Line", "ReadLine"]


class Line(Protocol):
    """A row while it is in the engine's hands."""

    ids: list[int]
    """Prompt and state; grows as the line is written."""
    reused: int
    """The engine says here how many of the ids it needed not read when the line came in."""

    @property
    def wanted(self) -> int:
        """Tokens that may still be written; 0 from the beginning for a line that is only read."""

    @property
    def seed(self) -> int:
        """Names the line's noise."""

    @property
    def drawn(self) -> int:
        """Position in the answer of the next draw."""

    @property
    def sampling(self) -> Sampling:
        """How it draws tokens."""

    @property
    def rank(self) -> int | None:
        """Write the token of this rank, 0 the most likely, in place of a draw."""

    @property
    def guide(self) -> Guide | None:
        """Says which tokens it may write next; ``None`` if all of them, always."""

    def push(self, token: int, logprob: float) -> None:
        """Take a token that was written."""

    def show(self, hidden: Tensor) -> None:
        """Take the last hidden state of a line that is only read."""


@dataclass(eq=False)
class ReadLine:
    """A row whose last hidden state is asked for."""

    ids: list[int]
    hidden: Tensor | None = None
    reused: int = 0
    wanted = seed = drawn = 0
    sampling = Sampling()
    guide = rank = None

    def show(self, hidden: Tensor) -> None:
        """Keep it."""
        self.hidden = hidden

    def push(self, token: int, logprob: float) -> None:
        """Nothing is ever written here."""
        raise AssertionError(f"token {token} ({logprob}) was written on a line that is only read")
