"""Fewer answers for the same verdict: stopping by value within a prompt, and sharing a budget over prompts.

Both are compared with best of n on the same shuffles of a recorded pool, at the same mean number of answers, and by the
number of answers that best of n needs for the same mean verdict or reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import sqrt
from statistics import NormalDist, fmean, median, stdev
from typing import Any

import numpy as np
from scipy.special import ndtr

from darwin_align.evaluation.pools.figures import Scored
from darwin_align.evaluation.pools.intervals import Bootstrap

Array = np.ndarray[Any, np.dtype[np.float64]]

COSTS = (0.05, 0.1, 0.2, 0.3)
"""Of one more answer, in median standard deviations of a prompt's rewards."""
EXPLORED, SHARES = 3, (4.0, 5.0, 6.0)
"""Answers of every prompt before the rest is shared out; mean answers of a prompt."""
SHUFFLES = 4
_NORMAL = NormalDist()


def answers_until_stop(rewards: Sequence[float], cost: float, least: int = 2) -> int:
    """How many answers are taken before one more is not worth its cost (Pandora's rule).

    With a known distribution the optimal rule stops once the expected excess of one more answer over the best so far is
    below its cost (Weitzman 1979). The distribution is not known: as Kalayci et al. (2025, arXiv 2510.01394) do, it is
    learnt from the answers so far, here as a normal one with its predictive spread; they take an exponential tail, with
    upper confidence bounds.

    Args:
        rewards: in the order in which answers come.
        cost: of one answer, in units of the reward.
        least: answers before the rule is asked, two at least.
    """
    for taken in range(max(least, 2), len(rewards)):
        seen = rewards[:taken]
        spread = stdev(seen) * sqrt(1 + 1 / taken)
        if not spread:
            continue  # equal rewards say nothing of the next one
        z = (max(seen) - fmean(seen)) / spread
        if spread * (_NORMAL.pdf(z) - z * (1 - _NORMAL.cdf(z))) < cost:
            return taken
    return len(rewards)


def shared_budget(explored: Array, budget: int, most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How many further answers each prompt of a batch gets (AdaBoN: Raman et al. 2025, arXiv 2505.12050).

    The distribution of each prompt's rewards is estimated by Gaussian kernels at the explored ones. The expected gain
    of the maximum falls with every further answer, so that giving each one to the prompt that gains most is optimal.

    Args:
        explored: rewards, ``(prompts, answers)``.
        budget: further answers of all prompts together.
        most: further answers of one prompt.
    """
    prompts, seen = explored.shape
    spread = np.maximum(explored.std(axis=1, ddof=1), 1e-12)
    width = 1.06 * spread * seen**-0.2  # Silverman's rule
    best = explored.max(axis=1)
    steps = np.linspace(0.0, 4.0, 65)
    grid = best[:, None] + steps * (spread + width)[:, None]
    below = ndtr((grid[:, :, None] - explored[:, None, :]) / width[:, None, None]).mean(axis=2)
    gains = [np.trapezoid(1 - below**k, grid, axis=1) for k in range(most + 1)]  # of k further answers
    marginal = np.diff(np.stack(gains, axis=1), axis=1)
    given = np.argsort(-marginal, axis=None, kind="stable")[:budget]
    return np.bincount(given // most, minlength=prompts)


def saved_by_stopping(scored: Sequence[Scored], seed: int) -> list[dict[str, Any]]:
    """Stopping by value at several costs."""
    spread = median(stdev(one.rewards) for one in scored)
    rewards, verdicts = shuffles(scored, seed)
    found = []
    for cost in COSTS:
        taken = np.array([[answers_until_stop(list(r), cost * spread) for r in own] for own in rewards])
        found.append(against_best(rewards, verdicts, taken, cost, seed))
    return found


def saved_by_sharing(scored: Sequence[Scored], seed: int) -> list[dict[str, Any]]:
    """Sharing several budgets over all prompts as one batch."""
    rewards, verdicts = shuffles(scored, seed)
    most = rewards.shape[2] - EXPLORED
    found = []
    for share in SHARES:
        budget = round((share - EXPLORED) * len(scored))
        columns = [shared_budget(rewards[:, d, :EXPLORED], budget, most) for d in range(SHUFFLES)]
        found.append(against_best(rewards, verdicts, EXPLORED + np.stack(columns, axis=1), share, seed))
    return found


def shuffles(scored: Sequence[Scored], seed: int) -> tuple[Array, Array]:
    """Rewards and verdicts, ``(prompts, shuffles, answers)``."""
    orders = np.array([one.shuffled(seed, SHUFFLES) for one in scored])
    rewards = np.array([one.rewards for one in scored])
    verdicts = np.array([one.prompt.verdicts for one in scored])
    rows = np.arange(len(scored))[:, None, None]
    return rewards[rows, orders], verdicts[rows, orders]


def against_best(
    rewards: Array, verdicts: Array, taken: np.ndarray[Any, Any], setting: float, seed: int
) -> dict[str, Any]:
    """Compare with best of n on the same shuffles: a mixture of two n where the mean number of answers is no whole one.

    Returns:
        Mean answers, verdict, its difference from best of n at equal answers with its interval, and the share of
        answers that is saved at the same verdict and at the same reward.
    """
    answers = rewards.shape[2]
    firsts = [rewards[:, :, :n].argmax(axis=2) for n in range(1, answers + 1)]
    worths, heights = (
        np.stack([np.take_along_axis(side, one[:, :, None], 2)[:, :, 0] for one in firsts], axis=2)
        for side in (verdicts, rewards)
    )  # (prompts, shuffles, n - 1)
    mine, mine_reward = (np.take_along_axis(side, taken[:, :, None] - 1, 2)[:, :, 0] for side in (worths, heights))
    mean = float(taken.mean())
    low = min(int(mean), answers - 1)
    uniform = worths[:, :, low - 1] * (low + 1 - mean) + worths[:, :, low] * (mean - low)
    gain = Bootstrap(len(rewards), seed).mean(list((mine - uniform).mean(axis=1)))
    return {
        "setting": setting,
        "answers": mean,
        "verdict": float(mine.mean()),
        "gain": asdict(gain),
        "saved_at_verdict": 1 - mean / needed(worths.mean(axis=(0, 1)), float(mine.mean())),
        "saved_at_reward": 1 - mean / needed(heights.mean(axis=(0, 1)), float(mine_reward.mean())),
    }


def needed(curve: Array, level: float) -> float:
    """The n, between whole ones, at which best of n first reaches a level; the largest one if it never does."""
    for n in range(1, len(curve)):
        if curve[n] >= level:
            step = curve[n] - curve[n - 1]
            return max(1.0, n + float((level - curve[n - 1]) / step)) if step > 0 else float(n + 1)
    return float(len(curve))
