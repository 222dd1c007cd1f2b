"""Built-in selectors: :mod:`darwin_align.core.selection` as operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from darwin_align.core.config import SearchConfig
from darwin_align.core.errors import OperatorError
from darwin_align.core.selection import (
    LAWS,
    Law,
    Selection,
    no_selection,
    one_for_all,
    speculative_rejection,
    systematic_resampling,
    top_k_replacement,
    tournament,
)
from darwin_align.core.types import Beam
from darwin_align.operators.base import Reply
from darwin_align.operators.selector import Selected, Selector
from darwin_align.operators.signatures import check_signature

__all__ = [
    "ARGSSelector",
    "FunctionSelector",
    "NoSelection",
    "SMCSelector",
    "SpeculativeRejection",
    "TopKReplacement",
    "Tournament",
    "selector_of",
]

SELECT = "select(rewards, finished, weights, seed) -> (ancestors, weights)"
"""The call of a selector's function."""


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


class SpeculativeRejection(Selector):
    """Gives up the worst beams after every step, never the last one (Sun et al. 2024, arXiv 2410.20290).

    >>> SpeculativeRejection(rejection=0.5).select([1.0, 3.0, 2.0], [False] * 3, [0.0] * 3, seed=0).ancestors
    (None, 1, 2)
    """

    laws: ClassVar[frozenset[Law]] = LAWS[speculative_rejection]
    rejection: float = Field(0.5, gt=0, lt=1)
    """Share of the beams that goes."""

    def select(
        self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
    ) -> Selection:
        """Drop the worst."""
        return speculative_rejection(rewards, finished, weights, seed, alpha=self.rejection)


class ARGSSelector(Selector):
    """All beams go on with the candidate of the largest ``log p + weight * reward`` (Khanov et al. 2024).

    Each beam holds a candidate for the next token, see ``SearchConfig.decoding``; their states are equal otherwise, so
    the log-probability of the whole state compares candidates as that of the last token does.

    >>> ARGSSelector().select([-1.0, -0.5], [False, False], [0.0, 0.0], seed=0).ancestors
    (1, 1)
    """

    laws: ClassVar[frozenset[Law]] = LAWS[one_for_all]
    weight: float = Field(1.0, gt=0)
    """What a unit of reward is worth in log-probabilities."""
    temperature: float = Field(0.0, ge=0)
    """0 takes the best candidate (ARGS-greedy), else one is drawn by the softmax of value over temperature."""

    def worth(self, beams: Sequence[Beam]) -> list[float]:
        """Log-probability and weighted reward.

        Raises:
            OperatorError: a beam has no log-probability.
        """
        if any(beam.logprob is None for beam in beams):
            raise OperatorError(
                "ARGS needs the log-probability of every state, and the policy reports none: use a policy that does"
            )
        return [
            (beam.logprob or 0.0) + self.weight * reward
            for beam, reward in zip(beams, super().worth(beams), strict=True)
        ]

    def select(
        self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
    ) -> Selection:
        """Choose one for all."""
        return one_for_all(rewards, finished, weights, seed, temperature=self.temperature)


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

    function: Callable[[Sequence[float], Sequence[bool], Sequence[float], int], Reply[Selected]]

    @field_validator("function")
    @classmethod
    def _callable_so(cls, function: Callable[..., object]) -> Callable[..., object]:
        check_signature("selector", function, SELECT)
        return function

    def select(
        self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
    ) -> Reply[Selected]:
        """Call the function."""
        return self.function(rewards, finished, weights, seed)


def selector_of(config: SearchConfig) -> Selector:
    """The built-in selector that a search's settings name.

    >>> selector_of(SearchConfig.preset("speculative_rejection", rejection=0.3)).get_name()
    'SpeculativeRejection'
    """
    made: dict[str, Callable[[], Selector]] = {
        "top_k": lambda: TopKReplacement(survivors=config.survivors),
        "tournament": Tournament,
        "smc": lambda: SMCSelector(temperature=config.reward_temperature, threshold=config.resample_below),
        "speculative_rejection": lambda: SpeculativeRejection(rejection=config.rejection),
        "args": lambda: ARGSSelector(weight=config.reward_weight, temperature=config.reward_temperature),
        "none": NoSelection,
    }
    return made[config.selector]()
