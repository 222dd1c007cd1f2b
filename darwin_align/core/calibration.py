"""How far to follow a reward: the number of answers, or the temperature of the choice, found on judged answers.

A reward model stands in for what is wanted, so that the best rewarded of many answers may be worse than the best
rewarded of few. Where some prompts have several answers with rewards and verdicts, what each setting would have been
worth there can be computed, and the best one taken: the aim of HedgeTune (Khalaf et al. 2025, arXiv 2506.19248). That
paper looks for the root of the expected verdict's derivative, over the distribution of rewards; here the expectation
itself is computed for each of a few values, exactly for the recorded answers, and compared by prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import comb, isfinite, sqrt
from statistics import fmean, median, stdev
from typing import Any, Literal, NamedTuple

from darwin_align.core.choice import chances
from darwin_align.core.config import Choice
from darwin_align.core.errors import ConfigError

__all__ = ["TUNED", "Calibration", "CalibrationPoint", "Tuned", "calibrate", "expected_best"]

Tuned = Literal["n", "soft"]
TUNED: tuple[Tuned, ...] = ("n", "soft")
"""What can be tuned."""
Judged = tuple[Sequence[float], Sequence[float]]
"""Rewards of one prompt's answers, and their verdicts."""

_STEPS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Temperatures that are tried, in median standard deviations of the rewards of a prompt's answers."""
_ERRORS = 2.0
"""Standard errors by which another setting must be better than the best of all answers."""


class CalibrationPoint(NamedTuple):
    """What one value of the tuned setting would have been worth."""

    value: float
    """The number of answers, or the temperature; 0 is best-of-n."""
    verdict: float
    """Mean over the prompts."""
    gain: float
    """Mean verdict less that of the best of all answers."""
    error: float
    """Standard error of the gain, over the prompts."""


class Calibration(NamedTuple):
    """What was found."""

    settings: dict[str, Any]
    """To be given to ``SearchConfig.preset("best_of_n", …)``, or beside other settings of a search."""
    prompts: int
    curve: tuple[CalibrationPoint, ...]
    """All that was tried; the first one is the best of all answers."""


def calibrate(judged: Iterable[Judged], tune: Tuned = "n") -> Calibration:
    """Find out on judged answers how far to follow a reward.

    The best of all answers is left for another setting only where that one's gain in verdict is larger than twice its
    standard error over the prompts: a handful of prompts hardly tells close settings apart.

    Args:
        judged: rewards and verdicts of each prompt's answers, which were sampled alike and are in no order. Prompts
            should be like those to come; some tens of them are needed.
        tune: ``"n"``, the number of answers of which the best rewarded one is taken, or the ``reward_temperature`` of
            a ``"soft"`` choice among all of them.

    Raises:
        ConfigError: fewer than two prompts, rewards and verdicts of different number, prompts with different numbers
            of answers, fewer than two answers, a number that is not finite, or nothing that can be tuned.

    >>> spoilt = ([0.0, 1.0, 2.0], [-3.0, 3.0, 0.0])  # the largest reward is a mistake
    >>> calibrate([spoilt] * 8).settings
    {'mutations': 1}
    >>> calibrate([([0.0, 1.0, 2.0], [0.0, 0.5, 1.0])] * 8, "soft").settings
    {'choice': 'best'}
    """
    prompts = _checked(judged)
    values: tuple[float, ...]
    if tune == "n":
        answers = len(prompts[0][0])
        values = tuple(range(answers, 0, -1))
        worths = [[expected_best(*prompt, n) for prompt in prompts] for n in range(answers, 0, -1)]
    elif tune == "soft":
        values = (0.0, *(step * _spread(prompts) for step in _STEPS))
        worths = [[_drawn(*prompt, tune if value else "best", value) for prompt in prompts] for value in values]
    else:
        raise ConfigError(f"tune={tune!r} is unknown: use 'n' or 'soft'")
    curve = tuple(_point(value, worth, worths[0]) for value, worth in zip(values, worths, strict=True))
    clear = [point for point in curve if point.gain > _ERRORS * point.error]
    found = max(clear, key=lambda point: point.verdict, default=curve[0])
    return Calibration(_settings(tune, found.value), len(prompts), curve)


def expected_best(rewards: Sequence[float], verdicts: Sequence[float], n: int) -> float:
    """The mean verdict of the best rewarded of n answers, over all choices of n of the recorded ones.

    Of equally rewarded ones each is as likely to come first.

    Args:
        rewards: of the recorded answers.
        verdicts: of the same ones.
        n: from 1 to their number.

    >>> expected_best([1.0, 2.0, 3.0], [0.0, 9.0, 0.0], 2)
    3.0
    """
    order = sorted(range(len(rewards)), key=rewards.__getitem__)
    total, worth, start = comb(len(order), n), 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and rewards[order[end]] == rewards[order[start]]:
            end += 1
        # Choices whose best is in this group of equals: within the first `end`, but not within the first `start`.
        share = (comb(end, n) - comb(start, n)) / total
        worth += share * fmean(verdicts[i] for i in order[start:end])
        start = end
    return worth


def _drawn(rewards: Sequence[float], verdicts: Sequence[float], choice: Choice, temperature: float) -> float:
    if choice == "best":
        return expected_best(rewards, verdicts, len(rewards))
    drawn = chances(rewards, choice, temperature)
    return sum(chance * verdict for chance, verdict in zip(drawn, verdicts, strict=True))


def _spread(prompts: Sequence[Judged]) -> float:
    spreads = [spread for rewards, _ in prompts if (spread := stdev(rewards))]
    if not spreads:
        raise ConfigError("all answers to a prompt have the same reward: there is nothing to choose by")
    return median(spreads)


def _point(value: float, worth: Sequence[float], best: Sequence[float]) -> CalibrationPoint:
    gains = [mine - other for mine, other in zip(worth, best, strict=True)]
    return CalibrationPoint(value, fmean(worth), fmean(gains), stdev(gains) / sqrt(len(gains)))


def _settings(tune: Tuned, value: float) -> dict[str, Any]:
    if tune == "n":
        return {"mutations": int(value) - 1} if value > 1 else {"cycles": 0}
    return {"choice": tune, "reward_temperature": value} if value else {"choice": "best"}


def _checked(judged: Iterable[Judged]) -> list[Judged]:
    prompts: list[Judged] = [(tuple(rewards), tuple(verdicts)) for rewards, verdicts in judged]
    if len(prompts) < 2:
        raise ConfigError(f"{len(prompts)} judged prompts tell nothing: give some tens of them")
    answers = len(prompts[0][0])
    for number, (rewards, verdicts) in enumerate(prompts, 1):
        if len(rewards) != len(verdicts):
            raise ConfigError(f"prompt {number} has {len(rewards)} rewards and {len(verdicts)} verdicts: give one each")
        if len(rewards) != answers:
            raise ConfigError(
                f"prompt {number} has {len(rewards)} answers and prompt 1 has {answers}: give the same number of each"
            )
        if not all(isfinite(value) for value in (*rewards, *verdicts)):
            raise ConfigError(f"prompt {number} has a reward or verdict that is no finite number")
    if answers < 2:
        raise ConfigError("each prompt has fewer than two answers: there is nothing to choose")
    return prompts
