"""The choice of a search's answer: the one with the largest reward, or one that is drawn by its reward.

``best``
    Best-of-n: the largest reward.
``soft``
    Soft best-of-n (Verdun et al. 2025, arXiv 2505.03156) draws one of n samples with probability in proportion to
    ``exp(reward / temperature)``: between a plain sample (temperature without bound) and best-of-n (temperature to
    zero), it trades reward against distance from the policy smoothly. Particles
    (:func:`~darwin_align.core.selection.systematic_resampling`) are drawn likewise, by the weight that they end with:
    ``exp(reward / temperature + log_weight)``.
A draw is the largest perturbed score (Gumbel-max), with noise that depends on the seed and on the answer's position.
So the ranking of all answers is a sample without replacement, and the same however its answers came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf
from typing import NamedTuple

from darwin_align.core.config import Choice, SearchConfig
from darwin_align.core.seeds import gumbel
from darwin_align.core.types import Beam

__all__ = ["DRAWN", "Answer", "chances", "in_order"]

DRAWN: frozenset[Choice] = frozenset({"soft"})
"""Choices that leave something to chance."""


class Answer(NamedTuple):
    """A beam that may be the answer, and its position in the search."""

    beam: Beam
    cycle: int
    place: int
    """Its index in the population."""


def in_order(answers: Sequence[Answer], config: SearchConfig) -> list[Answer]:
    """Order answers by the choice of the settings: the first one is chosen.

    Invalid ones come last; of equals the first response comes first, then the earliest, so that it is only replaced by
    something better.

    Args:
        answers: all that there are.
        config: settings with a seed.

    >>> short, good = (Answer(Beam(instruction="Hi", text=t, reward=r), 0, 0) for t, r in (("ok", 1.0), ("hello", 2.0)))
    >>> in_order([short, good], SearchConfig())[0].beam.text
    'hello'
    """
    scores = _scores(answers, config)

    def rank(i: int) -> tuple[bool, float, float, int, int]:
        beam, cycle, place = answers[i]
        reward = -inf if beam.reward is None else beam.reward
        return (not beam.valid or beam.unready, -scores[i], -reward, -1 if beam.first_response else cycle, place)

    return [answers[i] for i in sorted(range(len(answers)), key=rank)]


def chances(rewards: Sequence[float], choice: Choice, temperature: float = 1.0) -> list[float]:
    """The probability with which each of n finished samples is chosen.

    Args:
        rewards: of the samples, in the order in which they came: the first of equals is the best one.
        choice: as :class:`~darwin_align.core.config.SearchConfig` has it.
        temperature: its ``reward_temperature``, above 0 where the choice is drawn.

    >>> chances([1.0, 3.0, 2.0], "best")
    [0.0, 1.0, 0.0]
    >>> [round(chance, 2) for chance in chances([0.0, 1.0], "soft", 1.0)]
    [0.27, 0.73]
    """
    if not rewards:
        return []
    if choice not in DRAWN:
        best = max(range(len(rewards)), key=rewards.__getitem__)
        return [float(i == best) for i in range(len(rewards))]
    logs = [reward / temperature for reward in rewards]
    top = max(logs)
    weights = [exp(value - top) for value in logs]
    total = sum(weights)
    return [weight / total for weight in weights]


def _scores(answers: Sequence[Answer], config: SearchConfig) -> list[float]:
    """What the answers are ordered by: rewards, or logarithms of weights with noise."""
    scores = [-inf] * len(answers)
    for i, (beam, cycle, place) in enumerate(answers):
        if beam.reward is None:
            continue
        scores[i] = beam.reward
        if config.choice in DRAWN:
            # The first response has the same position in every search.
            path: tuple[int | str, ...] = ("first response",) if beam.first_response else (cycle, place)
            noise = gumbel(config.seed or 0, "choice", *path)
            scores[i] = beam.reward / config.reward_temperature + beam.log_weight + noise
    return scores
