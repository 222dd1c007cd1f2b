"""Rules as a reward."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, PlainSerializer, SkipValidation, field_validator

from darwin_align.core.errors import ConfigError
from darwin_align.core.laws import is_ordered
from darwin_align.core.types import Request, Response
from darwin_align.operators.scorer import Scorer
from darwin_align.operators.scorers.rules.base import Rule, Verdict, rule_of

__all__ = ["RuleScorer"]


class RuleScorer(Scorer):
    """The share of rules that an answer keeps, by their weights: from 0 to 1.

    A finished answer gets 1 for a rule that it keeps and 0 for one that it breaks; a blank one keeps none. For an
    unfinished answer that is so as soon as nothing can change it any more. What is still open counts from 0.25 to 0.75:
    ``0.25 + 0.5 * progress``, where progress is the share of a count that is reached, or the allowance that is left.

    >>> from darwin_align.operators.scorers.rules import MaxWords, MustMention
    >>> scorer = RuleScorer([MaxWords(80), MustMention("refund", weight=3)])
    >>> answers = [Response(text="We refund you."), Response(text="We refund", finished=False), Response(text="No.")]
    >>> [round(reward, 2) for reward in scorer.score(Request.of("May I send it back?"), answers)]
    [1.0, 0.93, 0.25]
    >>> RuleScorer.from_json(scorer.rules_json) == scorer
    True
    """

    rules: tuple[Annotated[Rule, SkipValidation, PlainSerializer(Rule.to_data)], ...] = Field(min_length=1)

    def __init__(self, rules: Iterable[Rule | dict[str, Any]] = (), **settings: Any) -> None:
        given: dict[str, Any] = {"rules": rules, **settings}
        super().__init__(**given)

    @field_validator("rules", mode="before")
    @classmethod
    def _read(cls, given: object) -> tuple[Rule, ...]:
        if not is_ordered(given) or isinstance(given, str):
            raise ConfigError(f"rules={given!r:.80} is no list of rules: give RuleScorer([MaxWords(80), NoCommas()])")
        if not (rules := tuple(rule_of(one) for one in given)):  # type: ignore[attr-defined] # is_ordered: it is a sequence
            raise ConfigError("RuleScorer([]) has no rule to reward: give one or more, e.g. MaxWords(80)")
        return rules

    def verdicts(self, response: Response) -> tuple[Verdict, ...]:
        """What an answer means for each rule, in order."""
        return tuple(rule.judge(response.text, finished=response.finished) for rule in self.rules)

    def score(self, request: Request, responses: Sequence[Response]) -> list[float]:  # noqa: ARG002
        """The weighted mean of the rules' credits."""
        return [self._reward(response) for response in responses]

    def _reward(self, response: Response) -> float:
        credits = [verdict.credit for verdict in self.verdicts(response)]
        total = sum(rule.weight for rule in self.rules)
        return sum(rule.weight * credit for rule, credit in zip(self.rules, credits, strict=True)) / total

    @property
    def rules_json(self) -> str:
        """The rules as compact JSON, which :meth:`from_json` reads."""
        return json.dumps([rule.to_data() for rule in self.rules], ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what :attr:`rules_json` returned.

        Raises:
            ConfigError: it is no list of rules.
        """
        try:
            return cls(json.loads(text))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"these are no rules in JSON: {error}") from None
