"""Fusion: the policy sees the best answers so far and writes one (FusioN 2510.00931, RSA 2509.26626)."""

from __future__ import annotations

from pydantic import Field

from darwin_align.operators.context import MutationContext
from darwin_align.operators.mutators.evolution.base import Evolved
from darwin_align.operators.prompts import delimited

__all__ = ["FusionMutator"]

_REQUEST = (
    "Below are drafts of an answer to the request above. Some of what they say may be wrong. Write one answer that is "
    "better than each of them: keep what is right and useful, leave out what is wrong or missing the point, and do not "
    "mention the drafts. Write in the language of the request."
)


class FusionMutator(Evolved):
    """One place's instruction shows the best answers so far and requests one that unites their strengths.

    Its answer is scored against the original conversation like any other, so it never replaces a better one. The first
    cycle has no answers to show. The drafts make the prompt longer by their lengths.
    """

    places: int = Field(1, gt=0)
    answers: int = Field(3, gt=1)
    """Drafts that are shown at most: the best ones, with different texts. With fewer than two nothing is fused."""
    characters: int = Field(4000, gt=0)
    """Of one draft: longer ones are not shown."""

    def mutate(self, context: MutationContext) -> list[str]:
        """Show the drafts; further places show them in other orders."""
        texts = dict.fromkeys(answer.text for answer in context.answers if 0 < len(answer.text) <= self.characters)
        drafts = list(texts)[: self.answers]
        if len(drafts) < 2:
            return []
        turns = [drafts[i:] + drafts[:i] for i in range(min(context.n, len(drafts)))]
        made = [self._request(context, turn) for turn in turns]
        return [one for one in made if one not in context.tried]

    def _request(self, context: MutationContext, drafts: list[str]) -> str:
        shown = "\n\n".join(delimited(draft, "draft", context.seed) for draft in drafts)
        return f"{context.request.instruction}\n\n{_REQUEST}\n\n{shown}"
