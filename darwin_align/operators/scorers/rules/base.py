"""What a rule is: a demand on an answer that can be checked exactly, on the whole answer and on any beginning of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from inspect import isabstract
from typing import Any, ClassVar, Literal

from darwin_align.core.errors import ConfigError
from darwin_align.core.suggestions import did_you_mean

__all__ = ["BROKEN", "KEPT", "CountRule", "Decides", "Rule", "State", "Verdict", "check_text", "rule_of", "still_open"]

State = Literal["broken", "kept", "open"]
Decides = Literal["broken", "kept", "end"]
"""What the beginning of an answer can settle about a rule: that it is broken, that it is kept, or nothing."""

_LOWEST, _SPAN = 0.25, 0.5


@dataclass(frozen=True)
class Verdict:
    """What an answer, or the beginning of one, means for a rule."""

    state: State
    """``"broken"`` and ``"kept"`` are final: nothing that follows changes them."""
    credit: float
    """0 where it is broken, 1 where it is kept, and from 0.25 to 0.75 where it is open."""


BROKEN, KEPT = Verdict("broken", 0.0), Verdict("kept", 1.0)


def still_open(progress: float) -> Verdict:
    """The verdict on a beginning that settles nothing: ``0.25 + 0.5 * progress``.

    >>> still_open(0.6).credit
    0.55

    Args:
        progress: from 0 to 1: the share of a count that is reached, or how much of an allowance is left.
    """
    return Verdict("open", _LOWEST + _SPAN * min(max(progress, 0.0), 1.0))


@dataclass(frozen=True)
class Rule(ABC):
    """A demand on an answer: override :meth:`holds`, and :meth:`on_prefix` where a beginning tells something.

    Subclasses are frozen dataclasses. Their verdicts on the beginnings of one answer must agree: what is broken or kept
    stays so, however the answer goes on.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Rhymes(Rule):
    ...     sound: str
    ...
    ...     def holds(self, text):
    ...         return text.rstrip(".!").endswith(self.sound)
    >>> Rhymes("ight").judge("Good night.", finished=True).state, Rhymes("ight").judge("Good", finished=False).state
    ('kept', 'open')
    """

    weight: float = field(default=1.0, kw_only=True)
    """What the rule counts beside the others."""

    named: ClassVar[dict[str, type[Rule]]] = {}
    """All rules, by the names of their classes."""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if not cls.__name__.startswith("_"):
            Rule.named[cls.__name__] = cls

    def __post_init__(self) -> None:
        weight = self.weight
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not (0 < weight < math.inf):
            raise ConfigError(f"{type(self).__name__}(weight={weight!r}): a weight is a positive number")

    @property
    def decides(self) -> Decides:
        """What the beginning of an answer can settle; where it may be either, ``"broken"``."""
        return "end"

    @abstractmethod
    def holds(self, text: str) -> bool:
        """Whether a whole answer, which is not blank, keeps the rule."""

    def on_prefix(self, text: str) -> Verdict:
        """The verdict on an unfinished answer; by default open, with full progress while it would be kept as it is."""
        return still_open(float(self.holds(text)))

    def judge(self, text: str, *, finished: bool) -> Verdict:
        """The verdict on an answer.

        A finished one is kept or broken. A blank one keeps no rule: it says nothing.

        Args:
            text: the answer so far.
            finished: whether nothing will follow.
        """
        if finished:
            return KEPT if text.strip() and self.holds(text) else BROKEN
        verdict = self.on_prefix(text)
        return still_open(1.0) if verdict.state == "kept" and not text.strip() else verdict

    def to_data(self) -> dict[str, Any]:
        """Plain JSON data that :func:`rule_of` reads."""
        given = {
            one.name: list(value) if isinstance(value, tuple) else value
            for one in fields(self)
            if (value := getattr(self, one.name)) != one.default
        }
        return {"rule": type(self).__name__, **given}


def rule_of(data: object) -> Rule:
    """Make a rule of the data that :meth:`Rule.to_data` returns.

    Raises:
        ConfigError: it is no such data, the rule is not known, or its settings are refused.
    """
    if isinstance(data, Rule):
        return data
    if not isinstance(data, Mapping) or not isinstance(data.get("rule"), str):
        raise ConfigError(f"{data!r:.80} is no rule: give one of darwin_align.operators.scorers.rules: MaxWords(80)")
    name, known = data["rule"], [name for name, kind in Rule.named.items() if not isabstract(kind)]
    if name not in known:
        raise ConfigError(f"unknown rule {name!r}: {did_you_mean(name, known)}")
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key != "rule"
    }
    try:
        return Rule.named[name](**settings)
    except TypeError as error:
        raise ConfigError(f"the rule {name} has other settings: {error}") from None


@dataclass(frozen=True)
class CountRule(Rule):
    """A number of things in an answer: override :meth:`count` and :meth:`bounds`.

    The count must never fall as an answer grows; where its end may still change it, :meth:`settled` says how many
    things no continuation takes away.
    """

    @abstractmethod
    def count(self, text: str) -> int:
        """The number in a whole answer."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[int, int | None]:
        """The least number, and the most; ``None`` means no limit."""

    def settled(self, text: str) -> int:
        """The number that every continuation has at least."""
        return self.count(text)

    @property
    def decides(self) -> Decides:
        """Too many break a rule early; enough keep one that has no upper limit."""
        return "kept" if self.bounds[1] is None else "broken"

    def holds(self, text: str) -> bool:
        """Whether the number is within the bounds."""
        least, most = self.bounds
        count = self.count(text)
        return count >= least and (most is None or count <= most)

    def on_prefix(self, text: str) -> Verdict:
        """Too many are broken, enough without a limit kept; else the share that is reached, or that is left."""
        least, most = self.bounds
        count = self.settled(text)
        if most is not None and count > most:
            return BROKEN
        if count < least:
            return still_open(count / least)
        if most is None:
            return KEPT
        return still_open(1.0 if least else 1 - count / (most + 1))

    def _check_count(self, name: str, number: object, *, least: int = 1) -> None:
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ConfigError(f"{type(self).__name__}({name}={number!r}): give a whole number of {least} or more")

    def _check_bounds(self, least: int | None, most: int | None) -> None:
        if least is None and most is None:
            raise ConfigError(f"{type(self).__name__} counts without a bound: give least=…, most=…, or both")
        if least is not None:
            self._check_count("least", least)
        if most is not None:
            self._check_count("most", most, least=0)
        if least is not None and most is not None and least > most:
            raise ConfigError(f"{type(self).__name__}(least={least}, most={most}): no number is both")


@dataclass(frozen=True)
class AtMost(CountRule):
    """No more than so many."""

    most: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_count("most", self.most, least=0)

    @property
    def bounds(self) -> tuple[int, int | None]:
        """From none to the most."""
        return 0, self.most


@dataclass(frozen=True)
class AtLeast(CountRule):
    """So many or more."""

    least: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_count("least", self.least)

    @property
    def bounds(self) -> tuple[int, int | None]:
        """From the least."""
        return self.least, None


def check_text(rule: Rule, name: str, text: object) -> None:
    """Refuse what is no text, or a blank one.

    Raises:
        ConfigError: with the rule and the setting.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{type(rule).__name__}({name}={text!r}): give a text that is not blank")
