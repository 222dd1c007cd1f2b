"""The scorer: rates beams against the original conversation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

from darwin_align.core.budget import Usage
from darwin_align.core.laws import check_rewards
from darwin_align.core.types import OperatorName, Population, Request, Response
from darwin_align.operators.base import Dialogue, Operator, Reply
from darwin_align.operators.portal import default_submit, has_own_submit, start
from darwin_align.operators.report import Report

__all__ = ["Scorer"]


class Scorer(Operator):
    """Rewards responses, partial or finished, against the ORIGINAL conversation: override :meth:`score`."""

    role: ClassVar[OperatorName] = "score"
    score_thoughts: bool = False
    """Whether responses come with the thoughts of a reasoning model, to be judged as well (``Response.thoughts``). An
    answer of which there are only thoughts is judged by no scorer."""

    @abstractmethod
    def score(
        self, request: Request, responses: Sequence[Response]
    ) -> Reply[Sequence[float] | Report[Sequence[float]]]:
        """Return one finite reward for each response, in order; larger is better."""

    @default_submit
    def submit(self, request: Request, responses: Sequence[Response]) -> Future[Any]:
        """Queue responses and return a future of what :meth:`score` returns, at once.

        A search calls it instead of :meth:`score` if a subclass overrides it, marked with
        :func:`~darwin_align.operators.portal.submits`. The default runs :meth:`score` in the background.
        """
        return start(self.score, request, responses)

    @property
    def components(self) -> tuple[Scorer, ...]:
        """The scorers that this one is made of."""
        return ()

    @property
    def compares(self) -> bool:
        """Whether rewards are relative to the other responses of one call, and say nothing about those of another."""
        return any(scorer.compares for scorer in self.components)

    @property
    def reads_thoughts(self) -> bool:
        """Whether this scorer, or one that it is made of, judges thoughts."""
        return self.score_thoughts or any(scorer.reads_thoughts for scorer in self.components)

    def judgeable(self, responses: Sequence[Response]) -> list[Response]:
        """The responses as this scorer is to see them."""
        if self.reads_thoughts:
            return list(responses)
        return [r.model_copy(update={"thoughts": ""}) if r.thoughts else r for r in responses]

    @property
    def needs_preflight(self) -> bool:
        """Whether :meth:`try_out` would score something."""
        return False

    async def try_out(self, request: Request) -> None:
        """Score a short answer, so that a scorer that cannot work fails before anything is decoded."""

    def max_response_tokens(self, request: Request) -> int | None:  # noqa: ARG002
        """Tokens of an answer that this scorer can read after the conversation; ``None`` means no limit."""
        return None

    def _dialogue(self, population: Population) -> Dialogue:
        indices = population.unscored
        # Beams that share a state are scored once.
        sharing: dict[Response, list[int]] = {}
        for i, response in zip(indices, self.judgeable([population.beams[i].response for i in indices]), strict=True):
            sharing.setdefault(response, []).append(i)
        if not sharing:
            return population
        responses = list(sharing)
        method = self.submit if has_own_submit(self) else self.score
        report = Report.of((yield method, (population.request, responses)))
        rewards = check_rewards(report.answer, len(responses))
        scored = {
            i: population.beams[i].model_copy(update={"reward": reward})
            for response, reward in zip(responses, rewards, strict=True)
            for i in sharing[response]
        }
        return (
            population.with_beams(scored).spend(report.usage + Usage(reward_calls=len(responses))).note(*report.notes)
        )
