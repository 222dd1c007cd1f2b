"""Fewer answers for the same verdict: stopping by value within a prompt, and sharing a budget over prompts.

Both are compared with best of n on the same shuffles of a recorded pool, at the same mean number of answers, and by the
number of answers that best of n needs for the same mean verdict or reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median, stdev
from typing import Any

import numpy as np
from scipy.special import ndtr

from darwin_align.evaluation.intervals import Bootstrap
from darwin_align.evaluation.pools.figures import Scored

Array = np.ndarray[Any, np.dtype[np.float64]]
Counts = np.ndarray[Any, np.dtype[np.int64]]

COSTS = (0.05, 0.1, 0.2, 0.3)
"""Of one more answer, in median standard deviations of a prompt's rewards."""
EXPLORED, SHARES = 3, (4.0, 5.0, 6.0)
"""Answers of every prompt before the rest is shared out; mean answers of a prompt."""
SHUFFLES = 4
KNOWN = 4
"""Answers that the usual spread of other prompts' rewards counts for, where a prompt's own is estimated."""


def answers_until_stop(rewards: Array, cost: float, usual: float | None, least: int = 3) -> Counts:
    """How many answers are taken before one more is not worth its cost (Pandora's rule).

    With a known distribution the optimal rule stops once the expected excess of one more answer over the best so far is
    below its cost (Weitzman 1979). The distribution is not known: as Kalayci et al. (2025, arXiv 2510.01394) do, it is
    learnt from the answers so far, here as a normal one with its predictive spread; they take an exponential tail, with
    upper confidence bounds.

    Args:
        rewards: in the order in which answers come, ``(…, answers)``.
        cost: of one answer, in units of the reward.
        usual: spread of other prompts' rewards, which the own one is drawn to; ``None`` for the own one alone.
        least: answers before the rule is asked, two at least.
    """
    answers = rewards.shape[-1]
    taken = np.full(rewards.shape[:-1], answers)
    for n in range(answers - 1, least - 1, -1):
        seen = rewards[..., :n]
        spread = predictive(seen, usual)
        z = (seen.max(axis=-1) - seen.mean(axis=-1)) / spread
        excess = spread * (np.exp(-z * z / 2) / np.sqrt(2 * np.pi) - z * ndtr(-z))
        taken = np.where(excess < cost, n, taken)
    return taken


def predictive(seen: Array, usual: float | None) -> Array:
    """The spread of the next reward, given some: ``(…, answers)`` to ``(…)``."""
    n = seen.shape[-1]
    variance = seen.var(axis=-1, ddof=1)
    if usual is not None:
        variance = (variance * (n - 1) + usual**2 * KNOWN) / (n - 1 + KNOWN)
    return np.sqrt(np.maximum(variance, 1e-18) * (1 + 1 / n))  # type: ignore[no-any-return]


def shared_budget(explored: Array, budget: int, most: int, usual: float | None) -> Counts:
    """How many further answers each prompt of a batch gets (AdaBoN: Raman et al. 2025, arXiv 2505.12050).

    The distribution of each prompt's rewards is estimated by Gaussian kernels at the explored ones, or as a normal one
    with a spread that is drawn to the usual one. The expected gain of the maximum falls with every further answer, so
    that giving each one to the prompt that gains most is optimal.

    Args:
        explored: rewards, ``(prompts, answers)``.
        budget: further answers of all prompts together.
        most: further answers of one prompt.
        usual: spread of other prompts' rewards; ``None`` for kernels.
    """
    seen = explored.shape[1]
    spread = predictive(explored, usual)
    grid = explored.max(axis=1)[:, None] + np.linspace(0.0, 5.0, 65) * spread[:, None]
    if usual is None:
        width = 1.06 * np.maximum(explored.std(axis=1, ddof=1), 1e-9) * seen**-0.2  # Silverman's rule
        below = ndtr((grid[:, :, None] - explored[:, None, :]) / width[:, None, None]).mean(axis=2)
    else:
        below = ndtr((grid - explored.mean(axis=1)[:, None]) / spread[:, None])
    gains = [np.trapezoid(1 - below**k, grid, axis=1) for k in range(most + 1)]  # of k further answers
    marginal = np.diff(np.stack(gains, axis=1), axis=1)
    given = np.argsort(-marginal, axis=None, kind="stable")[:budget]
    return np.bincount(given // most, minlength=len(explored))


def saved_by_stopping(scored: Sequence[Scored], seed: int) -> list[dict[str, Any]]:
    """Stopping by value at several costs, by a prompt's own spread alone and drawn to the usual one."""
    spread = median(stdev(one.rewards) for one in scored)
    rewards, verdicts = shuffles(scored, seed)
    found = []
    for name, usual in (("own spread", None), ("usual spread", spread)):
        for cost in COSTS:
            taken = answers_until_stop(rewards, cost * spread, usual)
            found.append({"estimate": name, **against_best(rewards, verdicts, taken, cost, seed)})
    return found


def saved_by_sharing(scored: Sequence[Scored], seed: int) -> list[dict[str, Any]]:
    """Sharing several budgets over all prompts as one batch."""
    spread = median(stdev(one.rewards) for one in scored)
    rewards, verdicts = shuffles(scored, seed)
    most = rewards.shape[2] - EXPLORED
    found = []
    for name, usual in (("kernels", None), ("usual spread", spread)):
        for share in SHARES:
            budget = round((share - EXPLORED) * len(scored))
            columns = [shared_budget(rewards[:, d, :EXPLORED], budget, most, usual) for d in range(SHUFFLES)]
            taken = EXPLORED + np.stack(columns, axis=1)
            found.append({"estimate": name, **against_best(rewards, verdicts, taken, share, seed)})
    return found


def shuffles(scored: Sequence[Scored], seed: int) -> tuple[Array, Array]:
    """Rewards and verdicts, ``(prompts, shuffles, answers)``."""
    orders = np.array([one.shuffled(seed, SHUFFLES) for one in scored])
    rewards = np.array([one.rewards for one in scored])
    verdicts = np.array([one.prompt.verdicts for one in scored])
    rows = np.arange(len(scored))[:, None, None]
    return rewards[rows, orders], verdicts[rows, orders]


def against_best(rewards: Array, verdicts: Array, taken: Counts, setting: float, seed: int) -> dict[str, Any]:
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
