"""A local reward model that is given its input as it is: token ids, or text that a client has rendered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from math import isfinite
from typing import Self

from darwin_align.backends.local import RewardModel

# The library has no call yet that takes a reward model's input as ids: this file alone reaches behind its doors.
from darwin_align.backends.local.reward import _Input
from darwin_align.core import Request, Response
from darwin_align.core.errors import RequestError, RewardError
from darwin_align.operators.policy import current_search

__all__ = ["ExactReward"]

_UNREAD = Request.of("unread")


class ExactReward(RewardModel):
    """The same weights and the same engine as another reward model's, without its chat template."""

    @classmethod
    def of(cls, model: RewardModel) -> Self | None:
        """Make it of a reward model; ``None`` where a text is not what the model reads."""
        if model.recipe.inputs != "chat" or model.recipe.reads == "get_score":
            return None
        exact = cls.__new__(cls)
        exact._setup(model._loaded, model._options)
        return exact

    def _inputs(self, request: Request, responses: Sequence[Response]) -> list[_Input]:  # noqa: ARG002
        return [_Input(response.tokens) for response in responses]

    def encoded(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text, with the tokenizer's special tokens or without."""
        return list(self._loaded.tokenizer.encode(text, add_special_tokens=special, verbose=False))

    async def rewards(self, rows: Sequence[Sequence[int]]) -> tuple[list[float], int]:
        """Reward rows of token ids.

        Returns:
            One reward a row, and the tokens in all rows.

        Raises:
            RequestError: a row is empty, or holds an id that the model does not have.
            ContextLengthError: a row is longer than the model's context.
            RewardError: the model gives something that is no number.
        """
        known = int(self._loaded.model.get_input_embeddings().num_embeddings)
        for row in rows:
            if not row:
                raise RequestError("an input has no tokens: there is nothing to reward")
            if min(row) < 0 or max(row) >= known:
                raise RequestError(f"an input has a token id outside of the model's 0 to {known - 1}")
        search_id = uuid.uuid4().hex
        token = current_search.set(search_id)
        try:
            responses = [Response(text="", tokens=tuple(row)) for row in rows]
            future = self.submit(_UNREAD, responses, lambda rewards, _: rewards)
            rewards = await asyncio.wrap_future(future)
        finally:
            current_search.reset(token)
            self.release(search_id)
        if not all(map(isfinite, rewards)):
            raise RewardError("the reward model gave something that is no finite number")
        return rewards, sum(map(len, rows))
