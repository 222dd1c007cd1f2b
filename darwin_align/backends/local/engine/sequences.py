"""What callers submit to the engine: sequences to decode, and sequences to read."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from darwin_align.backends.local.sampling import RowConstraint
from darwin_align.core.types import Sampling

__all__ = ["DecodeSequence", "ReadSequence"]


@dataclass(eq=False)
class ReadSequence:
    """Token ids to read for their last hidden state."""

    ids: list[int]
    hidden: Tensor | None = None
    """(hidden size,), set by the engine once the ids are read."""
    reused: int = 0
    """Tokens whose keys and values the engine had already, set when the sequence gets its slot."""


class DecodeSequence:
    """Token ids that the engine continues, one token a step."""

    ids: list[int]
    """Prompt and state; grows by :meth:`push`."""
    reused: int
    """Tokens whose keys and values the engine had already, set when the sequence gets its slot."""
    constraint: RowConstraint | None = None
    """Which tokens are allowed next; ``None`` if always all of them."""

    @property
    @abstractmethod
    def remaining(self) -> int:
        """Tokens that may still be decoded; 0 once the sequence has ended."""

    @property
    @abstractmethod
    def seed(self) -> int:
        """The seed of the sequence's noise."""

    @property
    @abstractmethod
    def drawn(self) -> int:
        """Position of the next draw in the answer."""

    @property
    @abstractmethod
    def sampling(self) -> Sampling:
        """The sampling settings."""

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """Decode the token of this rank, 0 the most likely, in place of a draw."""

    @abstractmethod
    def push(self, token: int, logprob: float) -> None:
        """Take a decoded token and its log-probability."""
