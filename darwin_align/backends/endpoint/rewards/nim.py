"""NVIDIA's reward models behind NIM's chat completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from darwin_align.backends.endpoint.rewards.base import (
    Form,
    Item,
    RewardDialect,
    UnexpectedReply,
    Wire,
    found,
    number,
    rows,
)
from darwin_align.core.json_types import Json
from darwin_align.core.record import did_you_mean

__all__ = ["NIM"]


@dataclass(frozen=True)
class NIM(RewardDialect):
    """``POST /v1/chat/completions`` with the answer as the last message; one response in a request.

    The reward comes in one of two forms, and whichever is there is read:

    * as content: ``"reward:-25.6"``, or ``"helpfulness:1.25,correctness:0.4,…"`` of models with several attributes;
    * as ``logprobs.content``, where each "token" is an attribute's name and its "logprob" the attribute's value.
      (NVIDIA's client, ``nemo_curator/services/openai_client.py``, reads this; the documentation shows the content.)

    The server rewards closed turns only: of a partial answer it sees an answer that ends there. What
    ``NIM_REWARD_LOGITS_RANGE`` does to the numbers is not documented. Not run against a server.

    Source: https://docs.nvidia.com/nim/large-language-models/latest/reward-model.html

    Args:
        attribute: which of several attributes is the reward, or weights by attribute for their sum; the card of
            Nemotron-4-340B-Reward gives such weights.

    >>> NIM("helpfulness").read({"choices": [{"message": {"content": "helpfulness:1.25,verbosity:0.5"}}]})
    [1.25]
    """

    attribute: str | Mapping[str, float] | None = None
    name: ClassVar[str] = "nim"
    forms: ClassVar[tuple[Form, ...]] = ("messages",)

    def request(self, model: str, items: Sequence[Item]) -> Wire:
        """One conversation."""
        (item,) = items
        return "/v1/chat/completions", {"model": model, "messages": list(item.messages)}

    def read(self, data: Json) -> list[float]:
        """One choice, one reward."""
        choices = rows(data, "choices")
        return [self._reward(_attributes(choice)) for choice in choices]

    def _reward(self, values: Mapping[str, float]) -> float:
        if isinstance(self.attribute, Mapping):
            return sum(weight * self._named(values, name) for name, weight in self.attribute.items())
        if self.attribute is not None:
            return self._named(values, self.attribute)
        if len(values) != 1:
            raise UnexpectedReply(f"it has {', '.join(values)}, of which one must be chosen: dialect=NIM(attribute=…)")
        return next(iter(values.values()))

    @staticmethod
    def _named(values: Mapping[str, float], name: str) -> float:
        if name not in values:
            raise UnexpectedReply(f"it has no attribute {name!r}: {did_you_mean(name, values)}")
        return values[name]


def _attributes(choice: Json) -> dict[str, float]:
    logprobs = choice.get("logprobs") if isinstance(choice, Mapping) else None
    entries = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if isinstance(entries, list) and entries:
        return {str(found(entry, "token")): number(found(entry, "logprob")) for entry in entries}
    content = found(choice, "message", "content")
    if not isinstance(content, str):
        raise UnexpectedReply("its message has no content")
    try:
        return {name.strip(): float(value) for name, value in (pair.split(":") for pair in content.split(","))}
    except ValueError:
        raise UnexpectedReply(
            f"the content {content[:80]!r} is no reward: does the server serve a reward model?"
        ) from None
