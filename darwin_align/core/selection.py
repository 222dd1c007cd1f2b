"""Selection: from rewards to ancestors, as pure functions.

Each takes, for every contender, its reward, whether it is finished and the weight it carries, and returns for every
contender the index of the one whose state it goes on with: its own to stay as it is, ``None`` to be dropped.
A finished beam always keeps its own state; it may be a donor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from math import ceil, exp, floor, log
from typing import NamedTuple

from darwin_align.core.seeds import below, gumbel, uniform

__all__ = [
    "LAWS",
    "Law",
    "Selection",
    "no_selection",
    "one_for_all",
    "speculative_rejection",
    "systematic_resampling",
    "top_k_replacement",
    "tournament",
    "winners_of",
]


class Law(StrEnum):
    """Promises that a selector may keep; the contract tests hold it to those that it declares."""

    FINISHED_STAY = "a finished beam keeps its state"
    BEST_STAYS = "the best beam keeps its state"
    NONE_DROPPED = "every beam goes on"
    NEVER_WORSE = "no beam goes on with a lower reward than it had"
    DONORS_STAY = "a donor keeps its own state"
    ORDER_BLIND = "rewards matter by their order only"
    BALANCED = "expected copies follow the weights, and no count is off by one or more"


class Selection(NamedTuple):
    """Who goes on with whose state."""

    ancestors: tuple[int | None, ...]
    log_weights: tuple[float, ...]
    winners: frozenset[int]
    """The beams that count this step as a win."""


def ranked(rewards: Sequence[float]) -> list[int]:
    """Indices from best to worst; ties keep their order."""
    return sorted(range(len(rewards)), key=lambda i: -rewards[i])


def top_k_replacement(
    rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int, *, k: int
) -> Selection:
    """The paper's rule: an unfinished beam outside the k best takes the state of one of them, drawn uniformly.

    >>> top_k_replacement([3.0, 1.0, 2.0], [False] * 3, [0.0] * 3, seed=1, k=1).ancestors
    (0, 0, 0)
    """
    best = ranked(rewards)[:k]
    survivors = frozenset(best)
    ancestors = tuple(
        i if i in survivors or finished[i] else best[below(len(best), seed, i)] for i in range(len(rewards))
    )
    return Selection(ancestors, tuple(weights), survivors)


def tournament(
    rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int, *, size: int
) -> Selection:
    """Every unfinished beam meets ``size`` random others and goes on with the best state of them all.

    >>> tournament([3.0, 1.0], [False, False], [0.0, 0.0], seed=1, size=8).ancestors
    (0, 0)
    """
    n = len(rewards)

    def winner(i: int) -> int:
        met = {below(n, seed, i, bout) for bout in range(size)}
        best = min(met, key=lambda j: (-rewards[j], j))
        return best if rewards[best] > rewards[i] else i

    ancestors = tuple(i if finished[i] else winner(i) for i in range(n))
    return Selection(ancestors, tuple(weights), winners_of(ancestors, finished))


def systematic_resampling(
    rewards: Sequence[float],
    finished: Sequence[bool],
    weights: Sequence[float],
    seed: int,
    *,
    temperature: float = 1.0,
    threshold: float = 0.5,
) -> Selection:
    """Twisted sequential Monte Carlo: unfinished beams are resampled in proportion to ``exp(reward / temperature)``.

    With twists ``exp(reward / temperature)`` and the policy as proposal, every step multiplies a particle's weight by
    ``exp((reward - reward before) / temperature)`` (Zhao et al. 2024, arXiv 2404.17546). These factors telescope: a
    beam's weight is the growth of its twisted reward since it was last resampled; it carries the negative reference
    in ``log_weight``. Unfinished beams are redrawn with one uniform number once their effective sample size
    falls under ``threshold`` times their count; then they share their mean weight, so their total is kept.

    >>> systematic_resampling([0.0, 0.0, 20.0], [False] * 3, [0.0] * 3, seed=1).ancestors
    (2, 2, 2)
    """
    slots = [i for i, done in enumerate(finished) if not done]
    log_w = [rewards[i] / temperature + weights[i] for i in slots]
    top = max(log_w, default=0.0)
    w = [exp(value - top) for value in log_w]
    total, own = sum(w), tuple(range(len(rewards)))
    if not slots or total**2 / sum(value * value for value in w) >= threshold * len(slots):
        return Selection(own, tuple(weights), winners_of(own, finished))
    ancestors, carried = list(own), list(weights)
    mean = top + log(total / len(slots))
    for slot, donor in zip(slots, _systematic([value / total for value in w], uniform(seed, "resample")), strict=True):
        ancestors[slot] = slots[donor]
        carried[slot] = mean - rewards[slots[donor]] / temperature
    return Selection(tuple(ancestors), tuple(carried), winners_of(ancestors, finished))


REJECTED = -1e9
"""Log-weight of a finished beam that was rejected: it costs nothing more and stays, but is never drawn."""


def speculative_rejection(
    rewards: Sequence[float],
    finished: Sequence[bool],
    weights: Sequence[float],
    seed: int,  # noqa: ARG001 - every selection is called alike
    *,
    alpha: float,
) -> Selection:
    """Give up the share ``alpha`` of the beams that is rewarded worst, never the last one (Sun et al. 2024).

    ``floor(alpha * n)`` of the ``n`` beams that were not rejected before go, finished ones among them: these are only
    marked. So how many are left does not depend on when they end.

    >>> speculative_rejection([3.0, 1.0, 2.0, 0.0], [False] * 4, [0.0] * 4, seed=1, alpha=0.5).ancestors
    (0, None, 2, None)
    """
    batch = [i for i in ranked(rewards) if weights[i] > REJECTED]
    # 0.29 * 100 is a little less than 29.
    kept = frozenset(batch[: max(1, len(batch) - floor(alpha * len(batch) + 1e-9))])
    ancestors = tuple(i if i in kept or done else None for i, done in enumerate(finished))
    return Selection(ancestors, tuple(weights[i] if i in kept else REJECTED for i in range(len(rewards))), kept)


def one_for_all(
    rewards: Sequence[float],
    finished: Sequence[bool],
    weights: Sequence[float],
    seed: int,
    *,
    temperature: float,
) -> Selection:
    """All unfinished beams go on with one state: the best of theirs, or one drawn by ``softmax(reward / temperature)``.

    >>> one_for_all([3.0, 1.0, 4.0], [False] * 3, [0.0] * 3, seed=1, temperature=0.0).ancestors
    (2, 2, 2)
    """
    slots = [i for i, done in enumerate(finished) if not done]

    def drawn(i: int) -> float:
        return rewards[i] / temperature + gumbel(seed, i) if temperature else rewards[i]

    chosen = max(slots, key=drawn, default=0)
    ancestors = tuple(i if done else chosen for i, done in enumerate(finished))
    return Selection(ancestors, tuple(weights), winners_of(ancestors, finished))


def no_selection(
    rewards: Sequence[float],
    finished: Sequence[bool],  # noqa: ARG001 - every selection is called alike
    weights: Sequence[float],
    seed: int,  # noqa: ARG001
) -> Selection:
    """Every beam goes on alone: best-of-n.

    >>> no_selection([1.0, 2.0], [False, False], [0.0, 0.0], seed=1).ancestors
    (0, 1)
    """
    own = tuple(range(len(rewards)))
    return Selection(own, tuple(weights), frozenset(own))


def _systematic(probabilities: Sequence[float], start: float) -> list[int]:
    # One offset, evenly spaced teeth. Beams that survive stay in their own slot, so that few states move.
    n = len(probabilities)
    counts, edge, drawn = [0] * n, 0.0, 0
    for i, p in enumerate(probabilities):
        edge += p
        upto = n if i == n - 1 else min(n, max(drawn, ceil(edge * n - start)))
        counts[i], drawn = upto - drawn, upto
    spare = [i for i in range(n) for _ in range(counts[i] - 1)]
    return [i if counts[i] else spare.pop() for i in range(n)]


def winners_of(ancestors: Sequence[int | None], finished: Sequence[bool]) -> frozenset[int]:
    """The winners of a step, where a selector names none: unfinished beams that stayed, and donors."""
    return frozenset(a for i, a in enumerate(ancestors) if a is not None and not (finished[i] and a == i))


LAWS: dict[Callable[..., Selection], frozenset[Law]] = {
    top_k_replacement: frozenset(
        {Law.FINISHED_STAY, Law.BEST_STAYS, Law.NONE_DROPPED, Law.NEVER_WORSE, Law.DONORS_STAY, Law.ORDER_BLIND}
    ),
    tournament: frozenset({Law.FINISHED_STAY, Law.BEST_STAYS, Law.NONE_DROPPED, Law.NEVER_WORSE, Law.ORDER_BLIND}),
    systematic_resampling: frozenset({Law.FINISHED_STAY, Law.NONE_DROPPED, Law.BALANCED, Law.DONORS_STAY}),
    speculative_rejection: frozenset({Law.FINISHED_STAY, Law.BEST_STAYS, Law.DONORS_STAY, Law.ORDER_BLIND}),
    one_for_all: frozenset({Law.FINISHED_STAY, Law.NONE_DROPPED, Law.DONORS_STAY}),
    no_selection: frozenset(
        {Law.FINISHED_STAY, Law.BEST_STAYS, Law.NONE_DROPPED, Law.NEVER_WORSE, Law.DONORS_STAY, Law.ORDER_BLIND}
    ),
}
"""What each built-in promises."""
