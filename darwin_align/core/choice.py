"""The choice of a search's answer: the one with the largest reward, or one drawn by its reward.

Soft best-of-n (Verdun et al. 2025, arXiv 2505.03156) draws one of n samples with probability in proportion to
``exp(reward / temperature)``: between a plain sample (temperature without bound) and best-of-n (temperature to zero),
it trades reward against distance from the policy smoothly. Particles (:func:`~darwin_align.core.selection.
systematic_resampling`) are drawn likewise, by the weight that they end with:
``exp(reward / temperature + log_weight)``.

A draw is the largest perturbed score (Gumbel-max), with noise that depends on the seed and on the answer's position.
So the ranking of all answers is a sample without replacement, and the same however its answers came in.
"""

from __future__ import annotations

from typing import NamedTuple

from darwin_align.core.config import SearchConfig
from darwin_align.core.seeds import gumbel
from darwin_align.core.types import Beam

__all__ = ["Answer", "Rank"]

Rank = tuple[bool, float, int, int]


class Answer(NamedTuple):
    """A beam that may be the answer, and its position in the search.

    >>> short, good = (Answer(Beam(instruction="Hi", text=t, reward=r), 0, 0) for t, r in (("ok", 1.0), ("hello", 2.0)))
    >>> min([short, good], key=lambda answer: answer.rank(SearchConfig())).beam.text
    'hello'
    """

    beam: Beam
    cycle: int
    place: int
    """Its index in the population."""

    def rank(self, config: SearchConfig) -> Rank:
        """Sort key: the least is chosen. Invalid ones come last; of equals the first response comes first, then the
        earliest, so that it is only replaced by something better.
        """
        beam = self.beam
        cycle = -1 if beam.first_response else self.cycle
        return (not beam.valid or beam.unready, -self._score(config), cycle, self.place)

    def _score(self, config: SearchConfig) -> float:
        beam = self.beam
        if beam.reward is None:
            return -float("inf")
        if config.choice == "best":
            return beam.reward
        # The first response has the same position in every search.
        path = ("first response",) if beam.first_response else (self.cycle, self.place)
        noise = gumbel(config.seed or 0, "choice", *path)
        return beam.reward / config.reward_temperature + beam.log_weight + noise
