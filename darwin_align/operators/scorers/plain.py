"""Scorers that need no model of their own: functions, chains, and combinations of others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Annotated, Any, Protocol, Self

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from pydantic import Field, PrivateAttr, SkipValidation, ValidationInfo, field_validator, model_validator

from darwin_align.core.budget import Usage
from darwin_align.core.errors import ConfigError, DarwinError, ScoreReplyError
from darwin_align.core.laws import check_rewards, is_ordered
from darwin_align.core.types import Request, Response, ToolCall
from darwin_align.formats.request_formats import takes_calls
from darwin_align.formats.thoughts import without_thoughts
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.formats.verdicts import read_calls
from darwin_align.operators.base import Resource
from darwin_align.operators.messages import to_langchain
from darwin_align.operators.portal import call
from darwin_align.operators.report import Report
from darwin_align.operators.scorer import Scorer
from darwin_align.operators.signatures import check_signature, check_variables
from darwin_align.operators.tracing import cut
from darwin_align.operators.usage import counting

__all__ = ["ChainScorer", "Ensemble", "FunctionScorer", "LengthPenalty", "ToolCallScorer", "WeightedSum", "judges_of"]

SCORE = "score(request, responses) -> list[float]"
"""The call of a scorer's function."""
VARIABLES = ("instruction", "response", "messages", "finished")
"""What a scoring chain is given."""
SHORT_ANSWER = Response(text="Yes.", finished=True)
"""On which judges are tried."""

logger = logging.getLogger(__name__)


class FunctionScorer(Scorer):
    """A function ``(request, responses) -> rewards``, plain or ``async``.

    A call that fails is tried once more, unless the error is a bug or has been tried again already. Tokens of
    LangChain models that the function calls are counted.

    >>> short = FunctionScorer(function=lambda request, responses: [-len(r.text) for r in responses])
    >>> short.score(Request.of("Hi"), [Response(text="Hello")])
    [-5]
    """

    function: Callable[..., object]

    @field_validator("function")
    @classmethod
    def _callable_so(cls, function: Callable[..., object]) -> Callable[..., object]:
        check_signature("scorer", function, SCORE)
        return function

    def score(self, request: Request, responses: Sequence[Response]) -> Sequence[float] | Report[Sequence[float]]:
        """Call the function."""
        reply: Sequence[float] | Report[Sequence[float]]
        notes: tuple[str, ...] = ()
        with counting() as counter:
            try:
                reply = call(self.function, request, responses)
            except Exception as error:
                if not _worth_another_try(error):
                    raise
                notes = (_made_again("the scorer's function", error),)
                reply = call(self.function, request, responses)
        if isinstance(reply, Report):  # with its own usage
            return replace(reply, notes=(*notes, *reply.notes))
        spent = counter.as_reward
        return Report(reply, spent, notes) if notes or spent.reward_tokens else reply


class _Preflight:
    """Whether a chain has scored, and its preflight's usage until a search counts it.

    Ignored by a scorer's equality.
    """

    def __init__(self) -> None:
        self.done, self.usage = False, Usage()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Preflight)

    def __hash__(self) -> int:
        return hash(_Preflight)


class ChainScorer(Scorer):
    """A LangChain chain from one response to one number, e.g. ``prompt | judge | parser``.

    The chain is given ``instruction``, ``response``, ``messages`` (the conversation) and ``finished``, and answers with
    a number, or with a text or message that is nothing but a number. A response whose call fails, or has no number as
    its answer, is tried once more by itself. Tokens that the chain's models report are counted.
    """

    chain: Runnable[Any, Any]
    trial: bool = True
    """Whether the chain is tried on a short answer at the start of its first search, before anything is decoded."""
    _preflight: _Preflight = PrivateAttr(default_factory=_Preflight)

    @field_validator("chain")
    @classmethod
    def _known_variables(cls, chain: Runnable[Any, Any]) -> Runnable[Any, Any]:
        check_variables("scoring", chain, VARIABLES)
        return chain

    @property
    def needs_preflight(self) -> bool:
        """Whether :meth:`try_out` would call the chain."""
        return self.trial and not self._preflight.done

    async def try_out(self, request: Request) -> None:
        """Score a short answer, unless this chain has scored before. Its tokens count with the next scoring's.

        Raises:
            ScoreReplyError: it does not answer with a number.
            Exception: whatever else the chain raises.
        """
        if not self.needs_preflight:
            return
        self._preflight.done = True  # at once: searches that begin at the same time need no preflight each
        try:
            report = await self.score(request, [SHORT_ANSWER])
        except BaseException:
            self._preflight.done = False
            raise
        self._preflight.usage += report.usage

    async def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Run the chain over all responses as one batch."""
        with counting() as counter:
            scores, notes = await self._scores(self.inputs(request, responses))
        earlier, self._preflight.usage, self._preflight.done = self._preflight.usage, Usage(), True
        return Report(scores, counter.as_reward + earlier, notes)

    @staticmethod
    def inputs(request: Request, responses: Sequence[Response]) -> list[dict[str, Any]]:
        """What the chain is given, for each response."""
        messages = to_langchain(request.conversation)
        return [
            {"instruction": request.instruction, "response": r.whole, "messages": messages, "finished": r.finished}
            for r in responses
        ]

    async def _scores(self, inputs: Sequence[dict[str, Any]]) -> tuple[list[float], tuple[str, ...]]:
        """A number for each input, and notes of calls that were made again."""
        outputs = await self._outputs(inputs)
        failed = {i: output for i, output in enumerate(outputs) if isinstance(output, Exception)}
        for error in failed.values():
            if not _worth_another_try(error):
                raise error
        for i, output in zip(failed, await self._outputs([inputs[i] for i in failed]), strict=True):
            if isinstance(output, Exception):
                raise output
            outputs[i] = output
        scores = [output for output in outputs if not isinstance(output, Exception)]
        return scores, tuple(dict.fromkeys(_made_again("the scoring chain", error) for error in failed.values()))

    async def _outputs(self, inputs: Sequence[dict[str, Any]]) -> list[float | Exception]:
        """A number or an error for each input."""
        outputs = await self.chain.abatch(list(inputs), return_exceptions=True)
        return [output if isinstance(output, Exception) else _number_or_error(output) for output in outputs]


class _Composite(Scorer):
    """A scorer made of scorers."""

    scorers: tuple[Scorer, ...] = Field(min_length=1)

    @field_validator("*", mode="before")
    @classmethod
    def _in_order(cls, value: object, info: ValidationInfo) -> object:
        if info.field_name in ("scorers", "weights") and not is_ordered(value):
            raise ConfigError(f"{info.field_name}={value!r:.80} has no order: give a list or a tuple")
        return value

    def max_response_tokens(self, request: Request) -> int | None:
        """The least of its parts."""
        return min(
            (most for scorer in self.scorers if (most := scorer.max_response_tokens(request)) is not None), default=None
        )

    @property
    def components(self) -> tuple[Scorer, ...]:
        """The scorers."""
        return self.scorers

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The scorers, and their resources."""
        return tuple(one for scorer in self.scorers for one in (scorer, *scorer.resources))

    def _all(self, request: Request, responses: Sequence[Response]) -> Report[list[list[float]]]:
        """Rewards by scorer, then by response."""
        reports = [Report.of(call(scorer.score, request, scorer.judgeable(responses))) for scorer in self.scorers]
        rewards = [check_rewards(report.answer, len(responses)) for report in reports]
        usage = sum((report.usage for report in reports), Usage())
        return Report(rewards, usage, tuple(note for report in reports for note in report.notes))


def judges_of(scorer: Scorer) -> list[Scorer]:
    """The scorers in a scorer, itself included, whose preflight is still to be run."""
    own = [scorer] if scorer.needs_preflight else []
    return own + [judge for part in scorer.components for judge in judges_of(part)]


class WeightedSum(_Composite):
    """The weighted sum of other scorers' rewards.

    >>> one = FunctionScorer(function=lambda request, responses: [1.0] * len(responses))
    >>> WeightedSum(scorers=(one, one), weights=(2.0, -0.5)).score(Request.of("Hi"), [Response(text="")]).answer
    [1.5]
    """

    weights: tuple[float, ...]

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.weights) != len(self.scorers):
            raise ConfigError(f"{len(self.scorers)} scorers but {len(self.weights)} weights: give one weight for each")
        return self

    def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Sum, weighted."""
        report = self._all(request, responses)
        sums = [
            sum(w * r for w, r in zip(self.weights, column, strict=True)) for column in zip(*report.answer, strict=True)
        ]
        return Report(sums, report.usage, report.notes)


class Ensemble(_Composite):
    """Pessimism under disagreement: the mean of several scorers minus ``caution`` standard deviations.

    It makes sense for scorers on one scale, e.g. reward models trained from different seeds.

    >>> low, high = (FunctionScorer(function=lambda q, r, x=x: [x] * len(r)) for x in (1.0, 3.0))
    >>> Ensemble(scorers=(low, high), caution=0.5).score(Request.of("Hi"), [Response(text="")]).answer
    [1.5]
    """

    caution: float = Field(1.0, ge=0)

    def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Mean minus caution times deviation (population standard deviation)."""
        report = self._all(request, responses)
        rewards = [fmean(column) - self.caution * pstdev(column) for column in zip(*report.answer, strict=True)]
        return Report(rewards, report.usage, report.notes)


class LengthPenalty(Scorer):
    """Another scorer's reward, less ``per_word`` for every word beyond ``free_words``.

    >>> zero = FunctionScorer(function=lambda request, responses: [0.0] * len(responses))
    >>> LengthPenalty(scorer=zero, per_word=0.5, free_words=1).score(Request.of("Hi"), [Response(text="a b c")]).answer
    [-1.0]
    """

    scorer: Scorer
    per_word: float = Field(0.01, ge=0)
    free_words: int = Field(0, ge=0)

    def max_response_tokens(self, request: Request) -> int | None:
        """The limit of the penalised scorer."""
        return self.scorer.max_response_tokens(request)

    @property
    def components(self) -> tuple[Scorer, ...]:
        """The penalised scorer."""
        return (self.scorer,)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The penalised scorer, and its resources."""
        return (self.scorer, *self.scorer.resources)

    def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Subtract the penalty."""
        report = Report.of(call(self.scorer.score, request, self.scorer.judgeable(responses)))
        rewards = check_rewards(report.answer, len(responses))
        excess = [max(0, len(response.text.split()) - self.free_words) for response in responses]
        penalised = [reward - self.per_word * words for reward, words in zip(rewards, excess, strict=True)]
        return Report(penalised, report.usage, report.notes)


class HasToolSyntax(Protocol):
    """A policy that reads tool calls."""

    @property
    def tool_syntax(self) -> ToolSyntax: ...


class ToolCallScorer(Scorer):
    """Rewards answers for tool calls that are right, to be added to a reward of the text by :class:`WeightedSum`.

    A call counts 1 if its arguments keep the tool's schema, 0 if they break it, and -1 if it cannot be made; an answer
    gets the mean of its calls, and 0 if it makes none. Calls that can be made may be scored further by a function:
    its result is added.

    >>> from darwin_align.formats.tool_syntax import ToolSyntax
    >>> from darwin_align.pocket import policy_path
    >>> from darwin_align.backends.local import LocalPolicy
    >>> scorer = ToolCallScorer(policy=LocalPolicy.from_pretrained(policy_path()))
    >>> kettle = {"name": "heat", "parameters": {"type": "object", "properties": {"to": {"type": "integer"}}}}
    >>> request = Request.of("Heat it to 80.", tools=[{"type": "function", "function": kettle}])
    >>> call = '<tool_call>{"name": "heat", "arguments": {"to": %s}}</tool_call>'
    >>> scorer.score(request, [Response(text=text) for text in (call % 80, call % '"hot"', call % "}", "Done.")])
    [1.0, 0.0, -1.0, 0.0]
    """

    policy: Annotated[HasToolSyntax, SkipValidation]
    """The policy of the search, whose ``tool_syntax`` reads calls."""
    function: Callable[[Request, Sequence[ToolCall]], object] | None = None
    """``function(request, calls)`` returns a number, or an awaitable of one, for answers with calls."""

    @field_validator("function")
    @classmethod
    def _callable_so(cls, function: Callable[..., object] | None) -> Callable[..., object] | None:
        if function is not None:
            check_signature("scorer of tool calls", function, "function(request, calls) -> float")
        return function

    def score(self, request: Request, responses: Sequence[Response]) -> list[float]:
        """Reward the calls of each response."""
        if not takes_calls(request):
            return [0.0] * len(responses)
        return [self._score(request, response) for response in responses]

    def _score(self, request: Request, response: Response) -> float:
        parsed = read_calls(self.policy.tool_syntax, request, response.text, finished=response.finished)
        if not (made := len(parsed.calls)) + len(parsed.invalid):
            return 0.0
        right = made - sum(map(bool, parsed.violations)) - len(parsed.invalid)
        own = _number(call(self.function, request, parsed.calls)) if self.function and made else 0.0
        return right / (made + len(parsed.invalid)) + own


def _number_or_error(output: object) -> float | ScoreReplyError:
    try:
        return _number(output)
    except ScoreReplyError as error:
        return error


_BUGS = (TypeError, NameError, AttributeError, ImportError, AssertionError, NotImplementedError)


def _worth_another_try(error: Exception) -> bool:
    """Whether the same call may succeed: no bug, and nothing that a client of this library has tried again itself."""
    return not isinstance(error, (*_BUGS, DarwinError)) or isinstance(error, ScoreReplyError)


def _made_again(who: str, error: Exception) -> str:
    note = f"{who} failed and was called once more: {cut(f'{type(error).__name__}: {error}', 300)}"
    logger.info("%s", note)
    return note


def _number(output: Any) -> float:
    value = output.text if isinstance(output, BaseMessage) else output
    value = without_thoughts(value) if isinstance(value, str) else value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ScoreReplyError(
            f"the scoring chain answered {value!r}, which is no number: end it with a parser that returns one"
        ) from None
