"""What a search has spent, and how much it may spend."""

from __future__ import annotations

from pydantic import Field

from darwin_align.core.record import Record, Settings

__all__ = ["Budget", "Usage"]


class Usage(Record):
    """What was spent so far. Token counts include the mutation prompts; ``seconds`` is the time operators took.

    >>> Usage(decoded_tokens=3) + Usage(decoded_tokens=4, reward_calls=1)
    Usage(prefilled_tokens=0, decoded_tokens=7, reward_tokens=0, policy_calls=0, reward_calls=1, seconds=0.0)
    """

    prefilled_tokens: int = 0
    """Prompt and state tokens that the policy read; tokens in its cache are not counted."""
    decoded_tokens: int = 0
    """Tokens that the policy decoded."""
    reward_tokens: int = 0
    """Tokens that the reward model read, likewise (0 where the scorer does not count)."""
    policy_calls: int = 0
    """Rows that were sent to the policy."""
    reward_calls: int = 0
    """Responses that were scored."""
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage.model_construct(**{name: mine + getattr(other, name) for name, mine in self})

    def __sub__(self, other: Usage) -> Usage:
        return Usage.model_construct(**{name: mine - getattr(other, name) for name, mine in self})


class Budget(Settings):
    """Limits after which a search ends with the best answer so far. ``None`` means no limit.

    A whole answer comes first: the plain sample is decoded and scored before anything else is spent. Only a budget that
    is smaller than that cuts it. What is left limits each question from within: rewordings and answers stop at a token;
    so one step is overshot at most, and seconds by 10% where an operator can be interrupted. A plain function cannot.

    >>> Budget(tokens=1000).spent(Usage(decoded_tokens=1200))
    'tokens'
    """

    tokens: int | None = Field(None, gt=0)
    """Tokens decoded by the policy, mutations included."""
    reward_calls: int | None = Field(None, gt=0)
    """Responses scored."""
    seconds: float | None = Field(None, gt=0)
    """Seconds spent in operators. Only a replay of such a run is exact."""

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return any(limit is not None for _, limit in self)

    def spent(self, usage: Usage) -> str | None:
        """Name the first limit that is reached, or ``None``."""
        used = {"tokens": usage.decoded_tokens, "reward_calls": usage.reward_calls, "seconds": usage.seconds}
        for name, amount in used.items():
            limit = getattr(self, name)
            if limit is not None and amount >= limit:
                return name
        return None
