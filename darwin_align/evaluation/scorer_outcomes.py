"""What a scorer did with pairs of answers: rewards of each, and shares of some or all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Literal, Self

from darwin_align.core.record import Record
from darwin_align.evaluation.pairs import Pair

__all__ = ["EASY", "FEW", "MATCHED", "Outcome", "Share", "SubsetReport"]

FEW = 10
"""Fewer pairs than this decide little."""
EASY = 0.8
"""A scorer that reads prompt and answer orders at least this share of easy pairs."""
MATCHED = 0.1
"""Answers are of one length whose words differ by no more than this share of the longer one's."""


class Share(Record):
    """How often one thing was above another, ties counted as half, with Wilson's 95% interval."""

    share: float
    low: float
    high: float
    wins: int
    ties: int
    n: int

    @classmethod
    def of(cls, above: Iterable[tuple[float, float]]) -> Self | None:
        """Count pairs of numbers whose first one is larger; ``None`` of no pairs.

        The interval is Wilson's (1927, "Probable inference, the law of succession, and statistical inference").

        >>> share = Share.of([(1.0, 0.0)] * 9 + [(0.0, 1.0)])
        >>> round(share.low, 4), share.share, round(share.high, 4)
        (0.5958, 0.9, 0.9821)
        """
        pairs = list(above)
        if not (n := len(pairs)):
            return None
        wins, ties = sum(a > b for a, b in pairs), sum(a == b for a, b in pairs)
        share, z = (wins + ties / 2) / n, 1.959963984540054
        middle, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        low, high = ((middle + side) / (1 + z * z / n) for side in (-half, half))
        return cls(share=share, low=max(0.0, low), high=min(1.0, high), wins=wins, ties=ties, n=n)

    @property
    def verdict(self) -> Literal["good", "weak", "chance", "reversed", "few"]:
        """The verdict that the interval allows."""
        if self.low > 0.5:
            return "good" if self.share >= EASY else "weak"
        if self.high < 0.5:
            return "reversed"
        return "few" if self.n < FEW and self.share > 0.5 else "chance"

    def __str__(self) -> str:
        return f"{self.share:.0%} ({self.wins} of {self.n}{f' and {self.ties} ties' if self.ties else ''})"


class Outcome(Record):
    """The rewards of one pair."""

    instruction: str
    about: str
    subset: str = ""
    better: float
    worse: float
    shuffled: float | None = None
    """Reward of the better answer under another pair's prompt; ``None`` where all pairs ask the same."""
    partial: tuple[tuple[float, float] | None, ...] = ()
    """Rewards of both answers cut after 25, 50 and 75% of the words; ``None`` where they still agree word for word."""


class SubsetReport(Record):
    """Figures of some of the pairs."""

    name: str
    accuracy: Share
    """Better above worse."""
    matched: Share | None
    """The same, of pairs whose answers are of one length (:data:`MATCHED`)."""
    longer_better: Share | None
    """Among pairs that differ in length: the longer answer is the better one. So many are in order by length alone."""

    @classmethod
    def of(cls, name: str, pairs: Sequence[Pair], outcomes: Sequence[Outcome]) -> Self:
        """Look at pairs and their outcomes, one at least."""
        accuracy = Share.of((one.better, one.worse) for one in outcomes)
        if accuracy is None:
            raise ValueError("there are no pairs")
        words = [pair.words for pair in pairs]
        of_one_length = [abs(a - b) <= MATCHED * max(a, b) for a, b in words]
        return cls(
            name=name,
            accuracy=accuracy,
            matched=Share.of(
                (one.better, one.worse) for one, same in zip(outcomes, of_one_length, strict=True) if same
            ),
            longer_better=Share.of((a, b) for a, b in words if a != b),
        )
