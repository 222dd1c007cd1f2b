"""A pool's prompts, each with several answers and what a judge made of them; and the files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any

from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.types import Message, Request
from darwin_align.evaluation.json_lines import numbered, read_text
from darwin_align.evaluation.pairs import messages_of

__all__ = ["PooledPrompt", "pooled_prompt", "read_pool", "request_of"]

_EXAMPLE = '{"prompt": "…", "answers": ["…", "…"], "verdicts": [0.2, 0.9]}'
_PROMPTS = ("prompt", "instruction", "messages")
_VERDICTS = ("verdicts", "win")


@dataclass(frozen=True)
class PooledPrompt:
    """A prompt with its judged answers."""

    request: Request
    answers: tuple[str, ...]
    verdicts: tuple[float, ...]
    """What a judge made of each answer: larger is better."""
    rewards: tuple[float, ...] | None = None
    """Rewards that were recorded with the answers."""
    picked: Mapping[str, int | None] = field(default_factory=dict)
    """Recorded choices: which answer each chooser took; ``None`` if that one was not judged."""
    unjudged: int = 0
    """Answers without a verdict, which are left out."""

    @cached_property
    def key(self) -> str:
        """A fingerprint of prompt and answers."""
        digest = blake2b(self.request.to_json().encode(), digest_size=12)
        for answer in self.answers:
            digest.update(b"\x1f" + answer.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def read_pool(path: str | Path) -> tuple[PooledPrompt, ...]:
    """Read a pool from a JSONL file, one prompt a line, packed or not (``.gz``), or from a JSON list. A line has

    * ``prompt`` or ``instruction``, a text, or ``messages``; ``system`` where wanted;
    * ``answers``, a list of texts;
    * ``verdicts`` or ``win``, a list of numbers, larger ones better: of the first answers, if there are fewer, and
      ``null`` where an answer was not judged;
    * where wanted ``rewards``, a list of numbers, and ``picked``, an object that names choosers and the index of the
      answer that each took. Other fields are left alone.

    Raises:
        ConfigError: the file cannot be read, or a line is no such thing; the message names the line and the remedy.
    """
    prompts = []
    for place, row in numbered(read_text(path, "a pool"), str(path), what="prompts", example=_EXAMPLE):
        try:
            prompts.append(pooled_prompt(row))
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
    with_rewards = sum(prompt.rewards is not None for prompt in prompts)
    if 0 < with_rewards < len(prompts):
        raise ConfigError(f"{path}: {with_rewards} of {len(prompts)} prompts have 'rewards': give them to all or none")
    return tuple(prompts)


def pooled_prompt(row: Json) -> PooledPrompt:
    """Read one prompt with its answers from an object.

    Raises:
        ConfigError: it is no such thing.

    >>> pooled_prompt({"prompt": "2 + 2?", "answers": ["4", "5", "6"], "verdicts": [1, 0]}).answers
    ('4', '5')
    """
    if not isinstance(row, Mapping):
        raise ConfigError(f"a prompt with its answers is an object such as {_EXAMPLE}, not {row!r:.60}")
    answers = row.get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ConfigError(f"'answers' must be a list of texts, not {answers!r:.60}; a line looks like {_EXAMPLE}")
    name = _one_of(row, _VERDICTS, "the verdicts are")
    verdicts = _numbers(row[name], name, len(answers), gaps=True)
    judged = [i for i, verdict in enumerate(verdicts) if verdict is not None]
    if len(judged) < 2:
        raise ConfigError(f"{len(judged)} of {len(answers)} answers have a verdict: there is nothing to choose from")
    rewards = None
    if row.get("rewards") is not None:
        given = _numbers(row["rewards"], "rewards", len(answers), gaps=False)
        if len(given) <= judged[-1]:
            raise ConfigError(f"there are {len(given)} 'rewards' and more judged answers: give one for each answer")
        rewards = tuple(float(given[i]) for i in judged)  # type: ignore[arg-type]  # there are no gaps
    return PooledPrompt(
        request=request_of(row),
        answers=tuple(answers[i] for i in judged),
        verdicts=tuple(verdict for verdict in verdicts if verdict is not None),
        rewards=rewards,
        picked=_picked(row, judged, len(answers)),
        unjudged=len(answers) - len(judged),
    )


def request_of(row: Mapping[str, Any]) -> Request:
    """Read a prompt: ``prompt`` or ``instruction``, a text, or ``messages``; with ``system`` where there is one.

    Raises:
        ConfigError: it is no such thing, or cannot be answered.

    >>> request_of({"instruction": "Add 2 and 2."}).instruction
    'Add 2 and 2.'
    """
    name = _one_of(row, _PROMPTS, "the prompt is")
    prompt = row[name]
    if not isinstance(prompt, list if name == "messages" else str) or not prompt:
        kind = "a list of messages" if name == "messages" else "a text"
        raise ConfigError(f"{name!r} must be {kind}, not {prompt!r:.60}")
    request = Request.of(prompt) if isinstance(prompt, str) else Request(conversation=messages_of(prompt))
    system = row.get("system")
    if system is not None:
        if not isinstance(system, str):
            raise ConfigError(f"'system' must be a text, not {system!r:.60}")
        turns = (Message(role="system", content=system), *request.conversation)
        request = request.model_copy(update={"conversation": turns})
    try:
        _ = request.turn
    except RequestError as error:
        raise ConfigError(str(error)) from None
    return request


def _one_of(row: Mapping[str, Any], names: Sequence[str], meant: str) -> str:
    given = [name for name in names if row.get(name) is not None]
    if len(given) != 1:
        found = f"{meant} missing" if not given else f"{' and '.join(map(repr, given))} are both given"
        raise ConfigError(f"{found}: give one of {', '.join(map(repr, names))}")
    return given[0]


def _numbers(values: Json, name: str, most: int, *, gaps: bool) -> list[float | None]:
    if not isinstance(values, list) or not all(_is_number(value) or (gaps and value is None) for value in values):
        raise ConfigError(f"{name!r} must be a list of finite numbers, not {values!r:.60}")
    if len(values) > most:
        raise ConfigError(f"there are {len(values)} {name!r} and {most} answers: give one for each answer")
    return [None if value is None else float(value) for value in values]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _picked(row: Mapping[str, Any], judged: Sequence[int], answers: int) -> dict[str, int | None]:
    picked = row.get("picked") or {}
    if not isinstance(picked, Mapping):
        raise ConfigError(f"'picked' must be an object of choosers and indices of answers, not {picked!r:.60}")
    for name, i in picked.items():
        if type(i) is not int or not 0 <= i < answers:
            raise ConfigError(f"'picked' says that {name!r} took answer {i!r:.60}: there are 0 to {answers - 1}")
    return {name: judged.index(i) if i in judged else None for name, i in picked.items()}
