"""IFEval's prompts, and which of their instructions an answer follows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darwin_align.core.errors import ConfigError
from darwin_align.evaluation.ifeval.kinds import rules_of
from darwin_align.evaluation.official import digest, rows
from darwin_align.operators.scorers.rules import Rule, RuleScorer
from darwin_align.operators.scorers.rules.base import Decides

__all__ = ["Instruction", "Prompt", "followed", "read_prompts"]


@dataclass(frozen=True)
class Instruction:
    """One verifiable demand of a prompt."""

    kind: str
    """As IFEval names it, e.g. ``"length_constraints:number_words"``."""
    rules: tuple[Rule, ...]

    @property
    def decides(self) -> Decides:
        """What the beginning of an answer can settle about it."""
        return self.rules[0].decides

    def follows(self, answer: str) -> bool:
        """Whether an answer keeps all its rules."""
        return all(rule.judge(answer, finished=True).state == "kept" for rule in self.rules)


@dataclass(frozen=True)
class Prompt:
    """A prompt of IFEval with its instructions."""

    key: int | str
    text: str
    instructions: tuple[Instruction, ...]

    @property
    def scorer(self) -> RuleScorer:
        """The rules of all its instructions as a reward: each instruction counts the same."""
        return RuleScorer([rule for instruction in self.instructions for rule in instruction.rules])

    @property
    def digest(self) -> str:
        """A short name of everything in it."""
        return digest([self.text, [[one.kind, [rule.to_data() for rule in one.rules]] for one in self.instructions]])

    def strict(self, answer: str) -> list[bool]:
        """Whether an answer follows each instruction as it stands."""
        return [instruction.follows(answer) for instruction in self.instructions]

    def loose(self, answer: str) -> list[bool]:
        """Whether it does, or would without its first or last line, or without asterisks."""
        variants = tuple(_variants(answer))
        return [any(map(instruction.follows, variants)) for instruction in self.instructions]


def followed(prompt: Prompt, answer: str) -> dict[str, list[bool]]:
    r"""Which instructions an answer follows, by IFEval's two readings.

    >>> no_comma = Instruction("punctuation:no_comma", rules_of("punctuation:no_comma", {}))
    >>> followed(Prompt(1, "Say hello.", (no_comma,)), "Sure, here it is:\nHello there.")
    {'strict': [False], 'loose': [True]}
    """
    return {"strict": prompt.strict(answer), "loose": prompt.loose(answer)}


def _variants(answer: str) -> Iterator[str]:
    lines = answer.split("\n")
    shorter = ("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))
    for text in (answer, *shorter):
        yield text
        yield text.replace("*", "")


def read_prompts(path: str | Path) -> tuple[Prompt, ...]:
    """Read prompts in IFEval's form, JSONL or a JSON list.

    Each has ``key``, ``prompt``, ``instruction_id_list`` and ``kwargs``.

    Raises:
        ConfigError: the file cannot be read or holds none, or a line is no such prompt.
    """
    found = tuple(_prompt(row, f"{path}, entry {number}") for number, row in enumerate(rows(Path(path)), 1))
    keys = [prompt.key for prompt in found]
    if twice := next((key for number, key in enumerate(keys) if key in keys[:number]), None):
        raise ConfigError(f"{path}: the key {twice!r} is there twice; give every prompt its own")
    return found


def _prompt(row: Mapping[str, Any], where: str) -> Prompt:
    try:
        key, text = row["key"], row["prompt"]
        instructions = list(zip(row["instruction_id_list"], row["kwargs"], strict=True))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{where} is no prompt of IFEval ({type(error).__name__}: {error}): it needs key, prompt, "
            "instruction_id_list, and as many kwargs"
        ) from None
    if not isinstance(text, str) or not text.strip() or not instructions:
        raise ConfigError(f"{where}: a prompt needs a text and at least one instruction")
    try:
        return Prompt(key, text, tuple(Instruction(kind, rules_of(kind, kwargs)) for kind, kwargs in instructions))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
