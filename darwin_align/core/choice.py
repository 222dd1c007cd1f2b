"""The choice of a search's answer: the one with the largest reward, or one that is drawn by its reward.

``best``
    Best-of-n: the largest reward.
``soft``
    Soft best-of-n (Verdun et al. 2025, arXiv 2505.03156) draws one of n samples with probability in proportion to
    ``exp(reward / temperature)``: between a plain sample (temperature without bound) and best-of-n (temperature to
    zero), it trades reward against distance from the policy smoothly. Particles
    (:func:`~darwin_align.core.selection.systematic_resampling`) are drawn likewise, by the weight that they end with:
    ``exp(reward / temperature + log_weight)``.
``pessimistic``
    Inference-time pessimism (Huang et al. 2025, arXiv 2503.21878): the policy that maximises the reward less
    ``temperature / 2`` times its chi-squared distance from the samples. It draws in proportion to
    ``max(0, reward - threshold)``, where the threshold makes the mean of these excesses over the n samples equal to
    the temperature. So the lesser samples are never drawn, and an outlier gains in proportion to its reward only,
    not exponentially. The paper accepts or rejects fresh samples; here the n finished answers are drawn from directly.

A draw is the largest perturbed score (Gumbel-max), with noise that depends on the seed and on the answer's position.
So the ranking of all answers is a sample without replacement, and the same however its answers came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log
from typing import NamedTuple

from darwin_align.core.config import Choice, SearchConfig
from darwin_align.core.seeds import gumbel
from darwin_align.core.types import Beam

__all__ = ["DRAWN", "Answer", "chances", "in_order"]

DRAWN: frozenset[Choice] = frozenset({"soft", "pessimistic"})
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
        answers: all that there are; a pessimistic choice weighs each against the others.
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
    >>> [round(chance, 3) for chance in chances([0.0, 2.0, 3.0], "pessimistic", 1.0)]  # by excesses 0, 1 and 2
    [0.0, 0.333, 0.667]
    """
    if not rewards:
        return []
    if choice not in DRAWN:
        best = max(range(len(rewards)), key=rewards.__getitem__)
        return [float(i == best) for i in range(len(rewards))]
    logs = _log_weights(rewards, [0.0] * len(rewards), choice, temperature)
    top = max(logs)
    weights = [exp(value - top) for value in logs]
    total = sum(weights)
    return [weight / total for weight in weights]


def _scores(answers: Sequence[Answer], config: SearchConfig) -> list[float]:
    """What the answers are ordered by: rewards, or logarithms of weights with noise."""
    scores = [-inf] * len(answers)
    given = [i for i, answer in enumerate(answers) if answer.beam.reward is not None]
    valid = [i for i in given if answers[i].beam.valid and not answers[i].beam.unready]
    finished = [i for i in valid if answers[i].beam.finished]
    # Only what may be chosen counts where answers are weighed against each other.
    among = given if config.choice != "pessimistic" else finished or valid
    rewards = [reward for i in among if (reward := answers[i].beam.reward) is not None]
    if config.choice not in DRAWN:
        for i, reward in zip(among, rewards, strict=True):
            scores[i] = reward
        return scores
    carried = [answers[i].beam.log_weight for i in among]
    logs = _log_weights(rewards, carried, config.choice, config.reward_temperature)
    for i, weight in zip(among, logs, strict=True):
        beam, cycle, place = answers[i]
        # The first response has the same position in every search.
        path: tuple[int | str, ...] = ("first response",) if beam.first_response else (cycle, place)
        scores[i] = weight + gumbel(config.seed or 0, "choice", *path)
    return scores


def _log_weights(rewards: Sequence[float], carried: Sequence[float], choice: Choice, temperature: float) -> list[float]:
    """Logarithms of the weights by which answers are drawn, before their noise; ``-inf`` where one never is.

    Args:
        rewards: of the answers.
        carried: logarithms of the weights that they bring along, which make them a sample of the policy.
        choice: a drawn one.
        temperature: above 0, in units of the reward.
    """
    if choice == "soft":
        return [reward / temperature + weight for reward, weight in zip(rewards, carried, strict=True)]
    if not rewards:
        return []
    best, heaviest = max(rewards), max(carried)
    below = [reward - best for reward in rewards]  # rewards of any size: only differences count
    weights = [exp(weight - heaviest) for weight in carried]
    threshold = _threshold(below, weights, temperature)
    return [
        log(value - threshold) + weight if value > threshold else -inf
        for value, weight in zip(below, carried, strict=True)
    ]


def _threshold(rewards: Sequence[float], weights: Sequence[float], temperature: float) -> float:
    """Solve ``sum(w_i * max(0, r_i - threshold)) = temperature * sum(w_i)``: the paper's normalisation constant."""
    target = temperature * sum(weights)
    order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    mass = worth = 0.0
    threshold = -inf
    for i, following in zip(order, [*order[1:], None], strict=True):
        mass += weights[i]
        worth += weights[i] * rewards[i] if weights[i] else 0.0
        if mass:
            threshold = (worth - target) / mass
        if following is None or (mass and threshold >= rewards[following]):
            break
    return threshold
