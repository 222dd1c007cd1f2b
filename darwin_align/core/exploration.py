"""What a search knows when it rewords, and what came of its rewordings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field, JsonValue

from darwin_align.core.archive import Entry
from darwin_align.core.record import Record

__all__ = ["Exploration", "Knowledge", "ScoredAnswer"]


class Exploration(Record):
    """What came of the rewordings of one mutation, or of all mutations of a search.

    >>> both = Exploration(places=5, accepted=5) + Exploration(places=5, refused={"it is blank": 1}, filled_by_parent=5)
    >>> both.places, both.accepted, both.refused, both.filled_by_parent
    (10, 5, {'it is blank': 1}, 5)
    """

    places: int = 0
    """Instructions that were wanted; none where the instruction stays as it is."""
    accepted: int = 0
    """Places that hold a rewording which passed the checks."""
    refused: dict[str, int] = Field(default_factory=dict)
    """Rewordings that a check refused, by its reason; what a reason says behind a colon is left out."""
    filled_by_parent: int = 0
    """Places that hold the unchanged parent, for want of a rewording."""
    filled_by_aspects: int = 0
    """Of the accepted ones, those that guidance sentences filled, because the policy's rewordings were too few."""
    tokens: int = 0
    """Tokens that were decoded for rewordings."""
    wasted_tokens: int = 0
    """Those of them that brought nothing. The tokens of a call count in equal parts for the rewordings that it was made
    for, so they are wasted in the share of these that were missing or refused."""
    probe_tokens: int = 0
    """Tokens decoded once for the policy object, to see whether it can reword (``mutator="auto"``). Neither ``tokens``
    nor the usage of any search includes them."""
    policy_given_up: bool = False
    """Whether the policy was not asked, or not asked again, because its rewordings are too few (``mutator="auto"``)."""
    answer_tokens: int = 0
    """Tokens that the search decoded for answers; 0 in the figures of one mutation."""

    def __add__(self, other: Exploration) -> Exploration:
        both = {name: mine + getattr(other, name) for name, mine in self if isinstance(mine, int)}
        reasons = dict.fromkeys([*self.refused, *other.refused])
        refused = {reason: self.refused.get(reason, 0) + other.refused.get(reason, 0) for reason in reasons}
        once: dict[str, Any] = {
            "probe_tokens": max(self.probe_tokens, other.probe_tokens),
            "policy_given_up": self.policy_given_up or other.policy_given_up,
        }
        return Exploration(**{**both, **once, "refused": refused})

    @staticmethod
    def sum(parts: Iterable[Exploration]) -> Exploration:
        """Add up what came of several mutations."""
        total = Exploration()
        for part in parts:
            total = total + part
        return total

    @property
    def figures(self) -> dict[str, JsonValue]:
        """All of it as plain data, with the share of waste."""
        return {**self.model_dump(mode="json"), "wasted_share": self.wasted_share}

    @property
    def wasted_share(self) -> float:
        """Wasted tokens for each token that was decoded for an answer.

        >>> Exploration(tokens=60, wasted_tokens=30, answer_tokens=300).wasted_share
        0.1
        """
        return self.wasted_tokens / self.answer_tokens if self.answer_tokens else 0.0


class ScoredAnswer(Record):
    """A finished answer of the search, as a mutator sees it."""

    text: str
    """Without the thoughts of a reasoning model."""
    reward: float
    instruction: str
    """The one that the answer was decoded under at its end."""


class Knowledge(Record):
    """What a search knows before a mutation."""

    parent_reward: float | None = None
    """The parent's reward in the archive; ``None`` while nothing was scored."""
    answers: tuple[ScoredAnswer, ...] = ()
    """Finished and valid ones of earlier cycles, the first response included, best first."""
    archive: tuple[Entry, ...] = ()
    tried: tuple[str, ...] = ()
    """Every instruction that was decoded under, in order and without repetition."""
    exploration: Exploration = Exploration()
    """What came of the mutations so far."""
