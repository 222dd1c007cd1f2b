"""The policy: the model that continues text. One object serves the decoder and the mutator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from darwin_align.core.budget import Usage
from darwin_align.core.config import SearchConfig
from darwin_align.core.errors import ConfigError
from darwin_align.core.json_types import Json
from darwin_align.core.presets import WHOLE_ANSWERS
from darwin_align.core.types import FinishReason, Request
from darwin_align.operators.portal import default_submit, start
from darwin_align.operators.report import Report

if TYPE_CHECKING:
    from darwin_align.formats.tool_syntax import ToolSyntax

__all__ = [
    "Allowance",
    "Capabilities",
    "Continuation",
    "Continuations",
    "Policy",
    "Row",
    "check_continues",
    "check_ranks",
    "current_allowance",
    "current_search",
    "has_tool_syntax",
    "usage_of",
]

current_search: ContextVar[str] = ContextVar("current_search", default="")
"""The search of the current question: an opaque hint for caches, like ``Row.search_id``."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """The rest of a search's budget for the current question; ``None`` is no limit."""

    tokens: int | None = None
    """Tokens to decode."""
    deadline: float | None = None
    """On the clock of :func:`time.monotonic`."""

    @classmethod
    def of(cls, tokens: int | None, seconds: float | None) -> Allowance:
        """An allowance of so many tokens, and of so many seconds from now on."""
        return cls(tokens, None if seconds is None else monotonic() + seconds)

    @property
    def seconds(self) -> float | None:
        """Seconds that are left."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.tokens == 0 or self.seconds == 0.0

    def each(self, most: int, rows: int) -> int:
        """Tokens for each of so many rows: at most ``most``, at least one."""
        return most if self.tokens is None else max(1, min(most, self.tokens // rows))

    def after(self, usage: Usage) -> Allowance:
        """What is left when so much more was spent."""
        return self if self.tokens is None else replace(self, tokens=max(0, self.tokens - usage.decoded_tokens))


_NO_LIMITS = Allowance()
current_allowance: ContextVar[Allowance] = ContextVar("current_allowance", default=_NO_LIMITS)
"""For operators that decode tokens besides the beams', e.g. to reword."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to continue: the answer to ``request``, of which ``tokens`` (or ``text``) is decoded already."""

    request: Request
    """The conversation under the row's own instruction, with tools, stop strings and sampling."""
    max_tokens: int
    """Decode at most so many tokens in this call."""
    seed: int
    """Names the row's noise. The draw for position ``p`` depends on ``(seed, p)`` alone, where ``p`` counts the new
    tokens of the whole answer: so one call for 80 tokens decodes the same as two calls for 40."""
    tokens: tuple[int, ...] = ()
    text: str = ""
    """The text so far, which is the state where the policy has no token ids."""
    thoughts: str = ""
    """What the model thought before the text; a part of the state, likewise."""
    thinking: bool = False
    """Whether the thoughts have not ended."""
    text_from: int = 0
    """Index of the text's first token among ``tokens``."""
    to_text: bool = False
    """End this call where the thoughts end, so that all rows begin their texts together. Only policies with
    ``Capabilities.stops_at_text`` heed it; others are called for short pieces."""
    search_id: str = ""
    """Opaque hint for caches."""
    rank: int | None = None
    """Take the token of this rank (0 is the most likely) instead of sampling, one token only, and report its
    log-probability under the model's own distribution. Only sent to policies with ``Capabilities.ranks_tokens``; one
    that has fewer tokens to offer repeats the last."""
    seconds: float | None = None
    """Stop after so many seconds with the tokens decoded by then, even if there are none. Only policies with
    ``Capabilities.stops_in_time`` heed it; others are called for short pieces."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A policy's continuation of one row."""

    text: str
    """The WHOLE answer so far, without special tokens, without the stop string, and without ``thoughts``."""
    tokens: tuple[int, ...] = ()
    """Token ids of the whole answer so far; empty where the policy has none."""
    new_tokens: int = 0
    """Number of tokens decoded in this call, an end-of-turn token included."""
    finish_reason: FinishReason | None = None
    """"stop" at an end token or stop string, "length" if the context is full, ``None`` at ``max_tokens``."""
    logprob: float | None = None
    """Sum of the log-probabilities of the tokens decoded in this call, under the distribution they were drawn from."""
    prefilled_tokens: int = 0
    """Prompt and state tokens that had to be read for this row."""
    thoughts: str = ""
    """What the model thought before the text, without the marks around it."""
    thinking: bool = False
    """Whether the thoughts have not ended, so that there is no text yet."""
    text_from: int = 0
    """Index of the text's first token among ``tokens``."""
    message: dict[str, Json] = field(default_factory=dict)
    """What the model's own message holds beside the text: see :attr:`Beam.message
    <darwin_align.core.types.Beam.message>`."""


Continuations = Sequence[Continuation] | Report[list[Continuation]]
"""A policy's reply: one continuation for each row, in order; a report adds further usage."""


def usage_of(continuations: Sequence[Continuation]) -> Usage:
    """Add up a policy's usage for rows: one call each."""
    return Usage(
        prefilled_tokens=sum(c.prefilled_tokens for c in continuations),
        decoded_tokens=sum(c.new_tokens for c in continuations),
        policy_calls=len(continuations),
    )


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a policy can do beyond sampling."""

    ranks_tokens: bool = False
    """It heeds ``Row.rank``."""
    stops_in_time: bool = False
    """It heeds ``Row.seconds``."""
    enforces_formats: bool = False
    """It constrains tokens to a ``response_format`` and to a forced ``tool_choice``."""
    enforces_grounding: bool = False
    """It constrains values to those copied from the conversation."""
    supports_tools: bool = True
    """Its prompts show the model tools, calls of them and their results."""
    reads_tool_calls: bool = False
    """It has a ``tool_syntax``, by which calls are read from its answers."""
    continues: bool = True
    """It continues a partial answer. One that does not is given rows without a state, for whole answers."""
    stops_at_text: bool = False
    """It heeds ``Row.to_text``."""
    rewords: bool | None = None
    """Whether it can reword instructions; ``None`` leaves it to ``mutator="auto"`` to try that once."""


class Policy(ABC):
    """Continues rows: subclass it and override :meth:`generate`, which may be a coroutine function.

    Everything else has a default. An object with ``generate`` that is no subclass is adapted where a search, a decoder
    or a mutator is made of it (:func:`~darwin_align.operators.coerce.as_policy`).

    >>> class Echo(Policy):
    ...     def generate(self, rows: Sequence[Row]) -> list[Continuation]:
    ...         return [Continuation(row.request.instruction, new_tokens=1, finish_reason="stop") for row in rows]
    >>> Echo().generate([Row(Request.of("Hi"), max_tokens=9, seed=1)])[0].text, Echo().capabilities.ranks_tokens
    ('Hi', False)
    """

    context_length: int | None = None
    """Tokens of prompt and answer together; ``None`` if that is not known."""

    @abstractmethod
    def generate(self, rows: Sequence[Row]) -> Continuations | Awaitable[Continuations]:
        """Continue every row, in order.

        Raises:
            ContextLengthError: a row's prompt leaves no space in the context.
        """

    @default_submit
    def submit(self, rows: Sequence[Row]) -> Future[Any]:
        """Queue rows and return a future of what :meth:`generate` returns, at once.

        A search calls it instead of :meth:`generate` if a subclass overrides it, marked with
        :func:`~darwin_align.operators.portal.submits`. The default runs :meth:`generate` in the background.
        """
        return start(self.generate, rows)

    def refusal(self, request: Request, max_new_tokens: int) -> str | None:  # noqa: ARG002
        """Return why a request leaves too little of the context for an answer; ``None`` if it fits, or that is unknown.

        A search calls it for every mutation if a subclass overrides it.
        """
        return None

    def describe(self) -> str:
        """Say in a sentence which model this is and how answers are continued. May block, e.g. for a server's reply."""
        return repr(self)

    def release(self, search_id: str) -> None:  # noqa: B027
        """Free what is kept for a search that is over: a hint."""

    if TYPE_CHECKING:  # a policy that reads no calls has no such attribute

        @property
        def tool_syntax(self) -> ToolSyntax:
            """The form of the model's tool calls; reading it may need a request to a server."""

    def check_tools(self, request: Request) -> None:  # noqa: B027
        """Refuse tools that the chat template cannot show, as far as this needs no request to a server.

        Raises:
            RequestError: the template refuses the tools.
        """

    @property
    def capabilities(self) -> Capabilities:
        """What it can do beyond sampling."""
        return Capabilities(reads_tool_calls=self.reads_tool_calls)

    @property
    def model_name(self) -> str:
        """The model's name in telemetry; no request to a server is made for it."""
        return type(self).__name__

    @property
    def remembered_by(self) -> object:
        """The object that stands for the model: what was measured of the model is kept as long as this object lives."""
        return self

    @property
    def enforces_formats(self) -> bool:
        """One of its capabilities."""
        return self.capabilities.enforces_formats

    @property
    def enforces_grounding(self) -> bool:
        """One of its capabilities."""
        return self.capabilities.enforces_grounding

    @property
    def supports_tools(self) -> bool:
        """One of its capabilities."""
        return self.capabilities.supports_tools

    @property
    def reads_tool_calls(self) -> bool:
        """Whether it has a ``tool_syntax``."""
        return has_tool_syntax(self)

    @property
    def has_own_refusal(self) -> bool:
        """Whether :meth:`refusal` is overridden."""
        return type(self).refusal is not Policy.refusal


def has_tool_syntax(part: object) -> bool:
    """Whether an object has a ``tool_syntax``. The value is not read: that may need a request to a server."""
    return hasattr(type(part), "tool_syntax") or "tool_syntax" in getattr(part, "__dict__", {})


def check_ranks(policy: Policy) -> None:
    """Refuse a policy that does not rank tokens where candidates are to be decoded.

    Raises:
        ConfigError: its capabilities lack ``ranks_tokens``.
    """
    if not policy.capabilities.ranks_tokens:
        raise ConfigError(
            f"decoding='candidates' needs the most likely next tokens, which {policy!r:.80} does not rank: "
            "use a LocalPolicy (or a policy of your own with Capabilities(ranks_tokens=True)), or decoding='sample'"
        )


def check_continues(policy: Policy, config: SearchConfig) -> None:
    """Refuse a policy that writes whole answers where partial ones are to be compared and continued.

    Raises:
        ConfigError: its capabilities lack ``continues``, and the settings replace partial answers.
    """
    if policy.capabilities.continues or not config.replaces:
        return
    period = f"selector={config.selector!r} compares partial answers every {config.replacement_period} tokens"
    raise ConfigError(
        f"{policy!r:.80} writes whole answers and cannot continue a part of one, but {period}. Compare whole answers: "
        f"config=SearchConfig.preset(…) with {', '.join(map(repr, WHOLE_ANSWERS))}, or any settings with "
        "selector='none'. Or give a policy that continues: LocalPolicy, or EndpointPolicy(base_url=…) where the server "
        "takes token ids, prompts, or the beginning of an assistant's turn (prefill)"
    )
