"""Built-in selectors: :mod:`darwin_align.core.selection` as operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from pydantic import Field

from darwin_align.core.selection import (
    LAWS,
    Law,
    Selection,
    no_selection,
    systematic_resampling,
    top_k_replacement,
    tournament,
)
from darwin_align.operators.base import Selector

__all__ = ["FunctionSelector", "NoSelection", "SMCSelector", "TopKReplacement", "Tournament"]


class TopKReplacement(Selector):
    """The paper's: beams outside the k best take the state of one of them.

    >>> TopKReplacement(survivors=1).select([1.0, 2.0], [False, False], [0.0, 0.0], seed=0).ancestors
    (1, 1)
    """

    laws: ClassVar[frozenset[Law]] = LAWS[top_k_replacement]
    survivors: int = Field(3, gt=0)

    def select(
        self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
    ) -> Selection:
        """Replace what is not among the best."""
        return top_k_replacement(rewards, finished, weights, seed, k=self.survivors)


class Tournament(Selector):
    """Every unfinished beam meets ``size`` random others and goes on with the best state of them all.

    >>> Tournament(size=9).select([1.0, 2.0], [False, False], [0.0, 0.0], seed=0).ancestors
    (1, 1)
    """

    laws: ClassVar[frozenset[Law]] = LAWS[tournament]
    size: int = Field(2, gt=0)

    def select(
        self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
    ) -> Selection:
        """Let every beam meet others."""
        return tournament(rewards, finished, weights, seed, size=self.size)


class SMCSelector(Selector):
    """Systematic resampling in proportion to ``exp(reward / temperature)``, when the weights have grown uneven.

    >>> SMCSelector(temperature=0.1).select([1.0, 1.0, 9.0], [False] * 3, [0.0] * 3, seed=0).ancestors
    (2, 2, 2)
    """

    laws: ClassVar[frozenset[Law]] = LAWS[systematic_resampling]
    temperature: float = Field(1.0, gt=0)
    """Reward units: the smaller, the greedier."""
    threshold: float = Field(0.5, ge=0, le=1)
    """Resample when the effective sample size falls under this share of the unfinished beams."""

    def select(
        self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
    ) -> Selection:
        """Resample the unfinished beams."""
        return systematic_resampling(
            rewards, finished, weights, seed, temperature=self.temperature, threshold=self.threshold
        )


class NoSelection(Selector):
    """Every beam goes on alone.

    >>> NoSelection().select([1.0, 2.0], [False, False], [0.0, 0.0], seed=0).ancestors
    (0, 1)
    """

    laws: ClassVar[frozenset[Law]] = LAWS[no_selection]

    def select(
        self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
    ) -> Selection:
        """Keep everyone."""
        return no_selection(rewards, finished, weights, seed)


class FunctionSelector(Selector):
    """A function ``(rewards, finished, weights, seed) -> (ancestors, weights)``, plain or ``async``."""

    function: Callable[..., Any]

    def select(self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int) -> Any:
        """Call the function."""
        return self.function(rewards, finished, weights, seed)
