"""An operator method's answer together with usage and notes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from darwin_align.core.budget import Usage

__all__ = ["Report"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Report(Generic[T_co]):
    """An operator method's answer, its usage and its notes: return it instead of the bare answer."""

    answer: T_co
    usage: Usage = field(default_factory=Usage)
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(reply: T | Report[T]) -> Report[T]:
        """Wrap a bare answer."""
        return reply if isinstance(reply, Report) else Report(reply)
