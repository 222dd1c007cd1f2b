"""The local scorer: a reward model as an operator of a search."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from darwin_align.backends.local.reward import RewardModel
from darwin_align.backends.request_bounds import takes_long
from darwin_align.core.budget import Usage
from darwin_align.core.types import Request, Response
from darwin_align.operators.base import Resource
from darwin_align.operators.portal import off_loop, submits, wait
from darwin_align.operators.report import Report
from darwin_align.operators.scorer import Scorer

__all__ = ["LocalScorer"]


class LocalScorer(Scorer):
    """Scores with a local reward model.

    >>> LocalScorer.from_pretrained("Skywork/Skywork-Reward-V2-Qwen3-0.6B")  # doctest: +SKIP
    """

    reward_model: RewardModel

    @classmethod
    def from_pretrained(cls, path: str | Path, *, score_thoughts: bool = False, **options: Any) -> Self:
        """Load a reward model; the options are those of :meth:`RewardModel.from_pretrained`, and ``score_thoughts``.

        Raises:
            ModelLoadError: there is no such model, it has not exactly one label, or it needs code of its own.
        """
        return cls(reward_model=RewardModel.from_pretrained(path, **options), score_thoughts=score_thoughts)

    def max_response_tokens(self, request: Request) -> int | None:
        """Tokens of an answer that the model can still read."""
        return self.reward_model.max_response_tokens(request)

    def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Score the responses and report how many tokens were read."""
        return wait(self.submit(request, responses))

    @submits
    def submit(self, request: Request, responses: Sequence[Response]) -> Future[Report[list[float]]]:
        """Queue the responses on the engine; the future's result is that of :meth:`score`."""
        notes = self.reward_model.notes(request)

        def queued() -> Future[Report[list[float]]]:
            return self.reward_model.submit(
                request, responses, lambda rewards, tokens: Report(rewards, Usage(reward_tokens=tokens), notes)
            )

        return off_loop(queued) if takes_long(request, (one.text for one in responses)) else queued()

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The reward model."""
        return (self.reward_model,)
