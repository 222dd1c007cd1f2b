"""What a scorer and a choice make of a pool: verdict, reward and length of the chosen answer against n.

An answer's index may go with its length or its quality (a sampler with a growing temperature, a log in order of time):
each prompt's answers are shuffled by a seed, several times, and of each shuffle the first n are chosen from. A drawn
choice counts by its probabilities, not by one draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Self

from darwin_align.core import SearchConfig
from darwin_align.core.choice import DRAWN, chances
from darwin_align.core.config import Choice
from darwin_align.core.errors import ConfigError
from darwin_align.core.seeds import derive
from darwin_align.evaluation.intervals import Bootstrap, Estimate
from darwin_align.evaluation.options import need_packages
from darwin_align.evaluation.pools.records import PooledPrompt
from darwin_align.langchain.assignments import settings_of

__all__ = ["POOL_NEEDS", "Chooser", "Overoptimisation", "PoolFigures", "Row", "Scored", "pool_figures", "widths"]

POOL_NEEDS = ("numpy", "scipy")
"""Modules that the figures take, of the extra ``eval``."""
_BEST = "best"


@dataclass(frozen=True)
class Chooser:
    """A choice among n answers.

    >>> Chooser.of("soft reward_temperature=0.5").temperature
    0.5
    """

    text: str
    choice: Choice
    temperature: float

    @classmethod
    def of(cls, text: str) -> Self:
        """Read ``CHOICE [reward_temperature=VALUE]``.

        Raises:
            ConfigError: an unknown choice or setting, or an impossible value.
        """
        choice, *given = text.split() or [""]
        if alien := [pair for pair in given if not pair.startswith("reward_temperature=")]:
            raise ConfigError(
                f"{alien[0]!r} is no setting of a choice among given answers: reward_temperature alone is"
            )
        config, _ = settings_of("best_of_n", [f"choice={choice}", *given])
        return cls(text, config.choice, config.reward_temperature)

    @classmethod
    def of_settings(cls, name: str, settings: dict[str, Any]) -> Self:
        """A choice of the settings of a search, under a name."""
        config = SearchConfig.preset("best_of_n", **settings)
        return cls(name, config.choice, config.reward_temperature)

    def chances(self, rewards: Sequence[float]) -> list[float]:
        """The probability with which each answer is chosen."""
        return chances(rewards, self.choice, self.temperature)


@dataclass(frozen=True)
class Scored:
    """A prompt's answers with rewards, verdicts and lengths in characters."""

    prompt: PooledPrompt
    rewards: tuple[float, ...]

    @cached_property
    def lengths(self) -> tuple[float, ...]:
        """Characters of each answer."""
        return tuple(float(len(answer)) for answer in self.prompt.answers)

    def shuffled(self, seed: int, draws: int) -> list[list[int]]:
        """Orders of the answers' indices."""
        key, indices = self.prompt.key, range(len(self.rewards))
        return [sorted(indices, key=lambda i: derive(seed, "pool", draw, key, i)) for draw in range(draws)]


@dataclass(frozen=True)
class Row:
    """What one choice among n answers is worth."""

    choice: str
    n: int
    verdict: Estimate
    reward: float
    """Mean reward of the chosen answers."""
    characters: float
    """Mean length of the chosen answers."""
    gain: Estimate | None
    """Verdict less that of the best of the same n; ``None`` for that one itself."""


@dataclass(frozen=True)
class Overoptimisation:
    """Whether more answers make a choice worse, while its reward rises."""

    choice: str
    peak: int
    """The n with the largest verdict."""
    last: int
    """The largest n."""
    fall: Estimate
    """Verdict at the largest n less that at the peak."""
    rise: float
    """The same of the reward."""

    @property
    def found(self) -> bool:
        """Whether the verdict falls by more than chance while the reward rises."""
        return self.peak < self.last and self.fall.high < 0 < self.rise


@dataclass(frozen=True)
class PoolFigures:
    """What was found."""

    prompts: int
    seed: int
    draws: int
    rows: tuple[Row, ...]
    overoptimisation: tuple[Overoptimisation, ...]
    random: Estimate
    longest: Estimate
    """Verdict of the longest of the largest n, as is the next one."""
    oracle: Estimate
    """Verdict of the one with the best verdict."""
    picked: dict[str, tuple[int, Estimate, Estimate]]
    """By recorded choosers: prompts on which the choice was judged, its verdict, and that of a random answer there."""
    reward_and_verdict: Estimate | None
    """Spearman's correlation among a prompt's answers, mean over the prompts; ``None`` if one of them never varies."""
    reward_and_length: Estimate | None
    length_and_verdict: Estimate | None
    pairs: int
    """Pairs of answers whose verdicts are more than half of all verdicts' range apart."""
    pair_accuracy: Estimate | None
    """Share of them that the reward puts in order; ties count half."""
    pair_longer: Estimate | None
    """Share of them in which the longer answer is the better one."""

    def row(self, choice: str, n: int) -> Row:
        """The row of a choice among n answers."""
        return next(row for row in self.rows if (row.choice, row.n) == (choice, n))


def widths(pool: Sequence[PooledPrompt], wanted: Sequence[int] | None) -> list[int]:
    """The numbers of answers to choose among: those that are wanted, or powers of two up to what every prompt has.

    Raises:
        ConfigError: one is below 1, or no prompt has so many judged answers.
    """
    most = min(len(prompt.answers) for prompt in pool)
    if wanted is None:
        return sorted({*(2**i for i in range(most.bit_length()) if 2**i <= most), most})
    if min(wanted) < 1:
        raise ConfigError(f"n={min(wanted)} is impossible: choose among 1 answer or more")
    if max(wanted) > (largest := max(len(prompt.answers) for prompt in pool)):
        raise ConfigError(f"n={max(wanted)} is too many: no prompt has more than {largest} judged answers")
    return sorted(set(wanted))


def pool_figures(
    scored: Sequence[Scored], choosers: Sequence[Chooser], ns: Sequence[int], *, seed: int = 0, draws: int = 10
) -> PoolFigures:
    """Work out what a scorer and some choices are worth on a pool.

    Args:
        scored: prompts with at least ``max(ns)`` answers each.
        choosers: the choices; the best of n is always one of them.
        ns: how many answers are chosen among.
        seed: of the shuffles and of the bootstrap.
        draws: shuffles of each prompt's answers.

    Raises:
        ConfigError: a prompt has fewer answers than the largest n, there are fewer than two prompts, or the extra
            ``eval`` is not installed.
    """
    need_packages("a pool's figures", *POOL_NEEDS)
    if len(scored) < 2:
        raise ConfigError(f"{len(scored)} prompts tell nothing: give two at least")
    if draws < 1:
        raise ConfigError(f"draws={draws} is impossible: shuffle once at least")
    if any(len(one.rewards) < max(ns) for one in scored):
        raise ConfigError(f"a prompt has fewer than {max(ns)} judged answers: lower n, or leave the prompt out")
    everyone = {_BEST: Chooser(_BEST, "best", 1.0), **{one.text: one for one in choosers if one.choice in DRAWN}}
    bootstrap = Bootstrap(len(scored), seed)
    orders = [one.shuffled(seed, draws) for one in scored]
    worth = {(name, n): _worths(scored, orders, one, n) for name, one in everyone.items() for n in ns}
    rows = tuple(_row(bootstrap, name, n, worth) for name, n in worth)
    return PoolFigures(
        prompts=len(scored),
        seed=seed,
        draws=draws,
        rows=rows,
        overoptimisation=tuple(_overoptimised(bootstrap, name, ns, worth) for name in everyone if len(ns) > 1),
        random=bootstrap.mean([fmean(one.prompt.verdicts) for one in scored]),
        longest=bootstrap.mean(_of_first(scored, orders, max(ns), lambda one: one.lengths)),
        oracle=bootstrap.mean(_of_first(scored, orders, max(ns), lambda one: one.prompt.verdicts)),
        picked=_picked(scored, seed),
        **_correlations(scored, bootstrap),
        **_pairs(scored, bootstrap),
    )


Worth = tuple[list[float], list[float], list[float]]
"""Verdict, reward and length of what a choice takes, by prompt."""


def _worths(scored: Sequence[Scored], orders: Sequence[list[list[int]]], chooser: Chooser, n: int) -> Worth:
    found: Worth = ([], [], [])
    for one, own in zip(scored, orders, strict=True):
        shuffles = _shuffles(one, own, n)
        weights: dict[int, float] = {}
        for order in shuffles:
            first = order[:n]
            drawn = chooser.chances([one.rewards[i] for i in first]) if n > 1 else [1.0]
            for i, chance in zip(first, drawn, strict=True):
                weights[i] = weights.get(i, 0.0) + chance / len(shuffles)
        for column, values in zip(found, (one.prompt.verdicts, one.rewards, one.lengths), strict=True):
            column.append(sum(weight * values[i] for i, weight in weights.items()))
    return found


def _row(bootstrap: Bootstrap, name: str, n: int, worth: dict[tuple[str, int], Worth]) -> Row:
    verdicts, rewards, lengths = worth[name, n]
    best = worth[_BEST, n][0]
    gain = None if name == _BEST else bootstrap.mean([a - b for a, b in zip(verdicts, best, strict=True)])
    return Row(name, n, bootstrap.mean(verdicts), fmean(rewards), fmean(lengths), gain)


def _overoptimised(
    bootstrap: Bootstrap, name: str, ns: Sequence[int], worth: dict[tuple[str, int], Worth]
) -> Overoptimisation:
    last = max(ns)
    peak = max(ns, key=lambda n: fmean(worth[name, n][0]))
    verdicts, rewards = (
        [a - b for a, b in zip(worth[name, last][column], worth[name, peak][column], strict=True)] for column in (0, 1)
    )
    return Overoptimisation(name, peak, last, bootstrap.mean(verdicts), fmean(rewards))


def _of_first(
    scored: Sequence[Scored],
    orders: Sequence[list[list[int]]],
    n: int,
    liking: Callable[[Scored], Sequence[float]],
) -> list[float]:
    """Verdict, by prompt, of the answer that is liked best of the first n of each shuffle."""
    found = []
    for one, own in zip(scored, orders, strict=True):
        liked = liking(one)
        best = (max(order[:n], key=liked.__getitem__) for order in _shuffles(one, own, n))
        found.append(fmean(one.prompt.verdicts[i] for i in best))
    return found


def _shuffles(one: Scored, orders: list[list[int]], n: int) -> list[list[int]]:
    """The shuffles that differ: the first n are the same ones in each, where these are all."""
    return orders[:1] if n == len(one.rewards) else orders


def _picked(scored: Sequence[Scored], seed: int) -> dict[str, tuple[int, Estimate, Estimate]]:
    found = {}
    for name in dict.fromkeys(name for one in scored for name in one.prompt.picked):
        judged = [one.prompt for one in scored if one.prompt.picked.get(name) is not None]
        if len(judged) > 1:
            bootstrap = Bootstrap(len(judged), seed)
            taken = [prompt.verdicts[prompt.picked[name] or 0] for prompt in judged]
            beside = [fmean(prompt.verdicts) for prompt in judged]
            found[name] = (len(judged), bootstrap.mean(taken), bootstrap.mean(beside))
    return found


def _correlations(scored: Sequence[Scored], bootstrap: Bootstrap) -> dict[str, Any]:
    sides: dict[str, Callable[[Scored], tuple[Sequence[float], Sequence[float]]]] = {
        "reward_and_verdict": lambda one: (one.rewards, one.prompt.verdicts),
        "reward_and_length": lambda one: (one.rewards, one.lengths),
        "length_and_verdict": lambda one: (one.lengths, one.prompt.verdicts),
    }
    return {name: bootstrap.mean_of_known([_spearman(*both(one)) for one in scored]) for name, both in sides.items()}


def _spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's correlation; ``None`` where one side is constant."""
    import numpy as np
    from scipy.stats import rankdata

    if len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _pairs(scored: Sequence[Scored], bootstrap: Bootstrap) -> dict[str, Any]:
    every = [verdict for one in scored for verdict in one.prompt.verdicts]
    apart = (max(every) - min(every)) / 2
    counts, ordered, longer = [], [], []
    for one in scored:
        pairs = list(_far_apart(one, apart))
        counts.append(float(len(pairs)))
        ordered.append(sum(_above(one.rewards[i], one.rewards[j]) for i, j in pairs))
        longer.append(sum(_above(one.lengths[i], one.lengths[j]) for i, j in pairs))
    return {
        "pairs": int(sum(counts)),
        "pair_accuracy": bootstrap.ratio(ordered, counts),
        "pair_longer": bootstrap.ratio(longer, counts),
    }


def _far_apart(one: Scored, apart: float) -> Iterator[tuple[int, int]]:
    """Pairs of a better and a worse answer."""
    verdicts = one.prompt.verdicts
    for i, better in enumerate(verdicts):
        for j, worse in enumerate(verdicts):
            if better - worse > apart:
                yield i, j


def _above(a: float, b: float) -> float:
    return 0.5 if a == b else float(a > b)
