"""The judge: a chat model that rates answers by a rubric."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, ClassVar, Literal, Self, TypeVar

from langchain_core.runnables import Runnable
from pydantic import Field, field_validator, model_validator

from darwin_align.backends.endpoint.client import gather_all
from darwin_align.backends.endpoint.judge_calls import ChainJudge, EndpointJudge, Judge
from darwin_align.backends.endpoint.rewards.remote import RemoteScorer
from darwin_align.backends.endpoint.rubric import Question, Rubric
from darwin_align.core.budget import Usage
from darwin_align.core.errors import ConfigError, EndpointServerError
from darwin_align.core.types import Request, Response
from darwin_align.operators.portal import acall
from darwin_align.operators.report import Report
from darwin_align.operators.scorers.plain import SHORT_ANSWER

__all__ = ["JudgeScorer", "Rubric"]

T = TypeVar("T")

Mode = Literal["absolute", "pairwise", "listwise"]
_TRIAL = (SHORT_ANSWER, Response(text="No."))
"""For a preflight: a judge that compares needs two answers."""


class JudgeScorer(RemoteScorer):
    """Scores with the rating of a chat model: any chat endpoint, or any LangChain chat model.

    An endpoint is called at ``/v1/chat/completions``, with a JSON schema for its reply; a chat model is called with its
    structured output, where it has any. If a server refuses the schema (or, called by its URL, a seed or a
    temperature), that field is left out from then on, with a note. A reply that cannot be read is requested once more.
    Equal answers are judged once.

    Calls for n different answers, each ``samples`` times:

    =============  ========  ==============================================================================
    mode           calls     reward
    =============  ========  ==============================================================================
    "absolute"     n         the score of each answer by itself
    "listwise"     2         the mean of its scores beside all others, in this order and in the reversed one
    "pairwise"     n (n-1)   its share of wins over all others, each pair in both orders, on the rubric's scale
    =============  ========  ==============================================================================

    The last two compare whole answers to one request that are scored in one call, as those of ``best_of_n`` are: their
    rewards mean nothing beside those of another call. Other settings are refused.

    >>> JudgeScorer(base_url="https://api.mistral.ai", model="mistral-small-latest", api_key="secret")
    JudgeScorer('https://api.mistral.ai', model='mistral-small-latest')

    Raises:
        ConfigError: neither or both of a base URL and a LangChain model, or settings that contradict each other.
    """

    base_url: str | tuple[str, ...] | None = None
    """``http://host:port`` or a provider's address, with or without ``/v1``; or several with the same model."""
    model: str | Runnable[Any, Any] | None = None
    """The model's name on the server (``None`` takes the only one); or, without a base URL, a LangChain chat model, or
    any chain from a prompt text to a reply."""
    rubric: Rubric = Rubric()
    """The prompt and the scale; a text is the prompt's template alone."""
    mode: Mode = "absolute"
    """Whether answers are rated one by one, two by two, or all together."""
    samples: int = Field(1, gt=0)
    """Ratings of each response, each with another seed; the reward is their mean."""
    temperature: float = Field(0.0, ge=0)
    """Of an endpoint; a LangChain model has its own."""
    seed: int = 0
    """Of an endpoint: the first sample's; a LangChain model has its own."""
    max_tokens: int = Field(1024, gt=0)
    """Of an endpoint: length of a reply, including the model's thoughts before it."""
    server_role: ClassVar[str] = "judge"
    trial: bool = True
    """Whether the judge rates a short answer at the start of its first search, before anything is decoded."""

    @field_validator("base_url", mode="before")
    @classmethod
    def _urls_as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("rubric", mode="before")
    @classmethod
    def _of_template(cls, value: Any) -> Any:
        return Rubric(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        remote = bool(self._urls(self.base_url))
        if remote == isinstance(self.model, Runnable):
            given = "both were given" if remote else "there is none"
            raise ConfigError(
                "a judge is a LangChain model (model=…), or a chat endpoint (base_url=…, and the model's name): "
                + given
            )
        theirs = {"api_key", "headers", "temperature", "seed", "max_tokens"} & self.model_fields_set
        if not remote and theirs:
            raise ConfigError(f"{sorted(theirs)[0]} belongs to an endpoint: set it on the LangChain model itself")
        if remote and self.samples > 1 and self.temperature == 0:
            raise ConfigError(f"samples={self.samples} are all alike at temperature 0: set temperature too")
        return self._checked_template()

    def _checked_template(self) -> Self:
        """Refuse a template of one's own that another mode would leave unread."""
        written = {name for name in _TEMPLATES.values() if getattr(self.rubric, name) != getattr(_DEFAULT, name)}
        if written and _TEMPLATES[self.mode] not in written:
            raise ConfigError(
                f"rubric.{sorted(written)[0]} would be ignored: mode={self.mode!r} reads rubric.{_TEMPLATES[self.mode]}"
            )
        return self

    @property
    def compares(self) -> bool:
        """Whether answers are rated beside one another."""
        return self.mode != "absolute"

    @property
    def needs_preflight(self) -> bool:
        """Whether :meth:`try_out` would call the judge."""
        return self.trial and "tried" not in self._state.facts

    async def try_out(self, request: Request) -> None:
        """Judge a short answer, unless this judge has scored before. Its tokens count with the next scoring's.

        Raises:
            EndpointError: as :meth:`score` does.
        """
        facts = self._state.facts
        if not self.needs_preflight:
            return
        facts["tried"] = True  # before the call: searches that start at the same time need one preflight only
        try:
            facts["preflight usage"] = (await self.score(request, _TRIAL if self.compares else _TRIAL[:1])).usage
        except BaseException:
            facts.pop("tried", None)
            raise

    async def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Judge all responses at once, and report the tokens of the judge's prompts and replies.

        Raises:
            EndpointError: the judge cannot be used, every attempt failed, or two replies had no readable score.
            ConfigError: the mode compares whole answers, and one is not finished.
        """
        return await acall(self._score, request, responses)  # type: ignore[no-any-return]

    async def _score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        different = list({(one.whole, one.finished): one for one in responses}.values())
        if self.compares and not all(one.finished for one in different):
            raise ConfigError(
                f"mode={self.mode!r} compares whole answers, and some are not finished: use mode='absolute'"
            )
        scored = {"absolute": self._one_by_one, "listwise": self._all_together, "pairwise": self._two_by_two}[self.mode]
        scores, tokens = await scored(request, different)
        by_answer = {(one.whole, one.finished): score for one, score in zip(different, scores, strict=True)}
        self._state.facts["tried"] = True
        usage = Usage(reward_tokens=tokens) + self._state.facts.pop("preflight usage", Usage())
        notes = self._state.notes(*self._judge.dropped.values())
        return Report([by_answer[one.whole, one.finished] for one in responses], usage, notes)

    async def _one_by_one(self, request: Request, responses: Sequence[Response]) -> tuple[list[float], int]:
        questions = [self.rubric.question(request, response, self.seed) for response in responses]
        answers, tokens = await self._sampled(questions)
        return [fmean(samples) for samples in answers], tokens

    async def _all_together(self, request: Request, responses: Sequence[Response]) -> tuple[list[float], int]:
        orders = [responses] if len(responses) == 1 else [responses, responses[::-1]]
        answers, tokens = await self._sampled([self.rubric.ranking(request, order, self.seed) for order in orders])
        lists = answers[0] + [scores[::-1] for samples in answers[1:] for scores in samples]
        return [fmean(column) for column in zip(*lists, strict=True)], tokens

    async def _two_by_two(self, request: Request, responses: Sequence[Response]) -> tuple[list[float], int]:
        pairs = [pair for i, j in combinations(range(len(responses)), 2) for pair in ((i, j), (j, i))]
        questions = [self.rubric.pair(request, responses[i], responses[j], self.seed) for i, j in pairs]
        answers, tokens = await self._sampled(questions)
        wins: list[list[float]] = [[] for _ in responses]
        for (i, j), samples in zip(pairs, answers, strict=True):
            wins[i] += samples
            wins[j] += [1 - win for win in samples]
        low, high = self.rubric.low, self.rubric.high
        return [low + (high - low) * (fmean(share) if share else 0.5) for share in wins], tokens

    async def _sampled(self, questions: Sequence[Question[T]]) -> tuple[list[list[T]], int]:
        """The answers to each question, one a sample, and the tokens of all prompts and replies."""
        seeds = [self.seed + i for i in range(self.samples)]
        answered = await gather_all([self._asked(question, seed) for question in questions for seed in seeds])
        tokens = sum(spent for _, spent in answered)
        groups = [answered[at : at + self.samples] for at in range(0, len(answered), self.samples)]
        return [[answer for answer, _ in group] for group in groups], tokens

    async def _asked(self, question: Question[T], seed: int) -> tuple[T, int]:
        """A judge's answer, and the tokens of prompts and replies."""
        reply, tokens = await self._judge.reply(question.text, question.schema, seed)
        try:
            return question.read(reply), tokens
        except ValueError as unreadable:
            reply, more = await self._judge.reply(question.again(str(unreadable)), question.schema, seed)
        try:
            return question.read(reply), tokens + more
        except ValueError as unreadable:
            raise EndpointServerError(
                f"{self._judge.name} twice returned no readable score: {unreadable}. Its reply was "
                f"{str(reply)[:200]!r}. Use a model that follows the rubric, or another rubric"
            ) from None

    @property
    def _judge(self) -> Judge:
        facts = self._state.facts
        if "judge" not in facts:
            facts["judge"] = self._new_judge()
        judge: Judge = facts["judge"]
        return judge

    def _new_judge(self) -> Judge:
        if isinstance(self.model, Runnable):
            return ChainJudge(self.model, self.limits)
        endpoint = self._state.endpoint
        assert endpoint is not None  # noqa: S101 - without one the model is a chain
        return EndpointJudge(
            endpoint,
            self.model,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            without_secrets=self._without_secrets,
        )


_DEFAULT = Rubric()
_TEMPLATES = {"absolute": "template", "pairwise": "pairwise", "listwise": "listwise"}
"""The rubric's template that a mode reads."""
