"""Methods that a comparison runs: a preset each, and what is set otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from darwin_align.core import PRESETS, Sampling, SearchConfig
from darwin_align.core.clauses import read_clauses
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.langchain.assignments import settings_of

__all__ = ["ANSWER_TOKENS", "Method", "check_labels", "method_parts", "with_defaults"]

ANSWER_TOKENS = 512
"""Length at which answers are cut, unless a method's ``max_new_tokens`` says otherwise."""
_DEFAULTS = {"max_new_tokens": ANSWER_TOKENS, "on_failure": "raise"}
_ANSWERS = 16
"""Answers of full length that a search may decode by default: as many as ``darwin`` has in its three cycles."""
_UNTIL_SPENT = 1000
"""Cycles: the tokens end a search long before."""


@dataclass(frozen=True)
class Method:
    """One setting of the search that takes part.

    >>> Method.of("wide: best_of_n mutations=8").label
    'wide'
    """

    label: str
    """What it is called in tables."""
    text: str
    """The preset and what is set otherwise: what its searches are known by."""
    config: SearchConfig
    sampling: Sampling

    @classmethod
    def of(cls, text: str, **defaults: Any) -> Self:
        """Read ``[LABEL:] PRESET [NAME=VALUE …]``; also ``clauses=FILE``.

        Args:
            text: the method.
            defaults: settings of the search, unless the text or the preset sets them.

        Raises:
            ConfigError: an unknown preset or setting, or an impossible value.
        """
        label, preset, given = method_parts(text)
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset {preset!r}: {did_you_mean(preset, PRESETS)}")
        clauses = [pair.partition("=")[2] for pair in given if pair.startswith("clauses=")]
        changes = [pair for pair in given if not pair.startswith("clauses=")]
        own = {name: value for name, value in defaults.items() if name not in PRESETS[preset]}
        config, sampling = settings_of(preset, changes, **_DEFAULTS | own)
        if clauses:
            config = config.replace(clauses=read_clauses(clauses[0]))
        return cls(label, " ".join([preset, *sorted(given)]), config, sampling)

    def until_spent(self, tokens: int | None = None, *, reward_ends: float | None = None) -> Self:
        """The method with one cycle after another until its tokens are spent; a plain sample stays one answer.

        Args:
            tokens: that a search may decode for a prompt; by default those of 16 answers of full length.
            reward_ends: the reward that ends a search.

        >>> Method.of("darwin max_new_tokens=100").until_spent(reward_ends=1.0).config.budget.tokens
        1600
        """
        config, set_by_hand = self.config, self.config.model_fields_set
        if not config.cycles:
            return self
        if not any(pair.startswith("cycles=") for pair in self.text.split()):
            config = config.replace(cycles=_UNTIL_SPENT)
        if config.choice != "soft" and "target_reward" not in set_by_hand:
            config = config.replace(target_reward=reward_ends)
        if not config.budget.limited:
            config = config.replace(budget={"tokens": tokens or _ANSWERS * config.max_new_tokens})
        return replace(self, config=config)


def method_parts(text: str) -> tuple[str, str, list[str]]:
    """Label, preset and settings of ``[LABEL:] PRESET [NAME=VALUE …]``; without a label it is all the rest in order.

    >>> method_parts("wide: best_of_n mutations=8"), method_parts("darwin seed=1 cycles=2")[0]
    (('wide', 'best_of_n', ['mutations=8']), 'darwin cycles=2 seed=1')
    """
    label, colon, rest = text.partition(": ")
    preset, *given = (rest if colon else text).split()
    return label if colon else " ".join([preset, *sorted(given)]), preset, given


def check_labels(methods: Sequence[Method], against: Sequence[str] = ()) -> None:
    """Refuse labels that are ambiguous or name no method.

    Raises:
        ConfigError: there are no methods, two share a label, or none has one of ``against``.
    """
    labels = [one.label for one in methods]
    if not labels:
        raise ConfigError("there are no methods: give one at least")
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ConfigError(
            f"two methods are called {twice[0]!r}: leave one out, or give each a label, 'LABEL: PRESET …'"
        )
    for label in against:
        if label not in labels:
            raise ConfigError(f"no method is called {label!r}: {did_you_mean(label, labels)}")


def with_defaults(text: str, changes: Sequence[str], clauses: str | None = None) -> str:
    """A method's text with settings that hold for all, where it has none of that name itself; its label stays.

    >>> with_defaults("wide: best_of_n mutations=8", ["mutations=4", "temperature=0.7"])
    'wide: best_of_n mutations=8 temperature=0.7'
    """
    own = {pair.partition("=")[0] for pair in text.split()}
    given = [f"clauses={clauses}"] if clauses and "learned_clauses" in text.split() else []
    added = [pair for pair in (*given, *changes) if pair.partition("=")[0] not in own]
    labelled = text if ": " in text or not added else f"{text}: {text}"
    return " ".join([labelled, *added])
