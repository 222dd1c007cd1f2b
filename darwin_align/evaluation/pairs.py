"""Pairs of answers of which the better one is known: built in, of the embedded world, or from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Self

from langchain_core.messages import convert_to_messages
from pydantic import model_validator

from darwin_align.core.errors import ConfigError
from darwin_align.core.json_types import Json
from darwin_align.core.record import Settings, did_you_mean
from darwin_align.core.types import Message, Request
from darwin_align.evaluation.json_lines import numbered, read_text
from darwin_align.evaluation.preference_sets import NoBetterAnswerError, is_preference, preference_of
from darwin_align.operators.messages import from_langchain

if TYPE_CHECKING:
    from darwin_align.pocket.world import Instruction, Topic

__all__ = [
    "Pair",
    "PairFile",
    "builtin_pairs",
    "embedded_pairs",
    "messages_of",
    "pair_of",
    "read_pair_file",
    "read_pairs",
]

_EXAMPLE = '{"prompt": "…", "better": "…", "worse": "…"}'


class Pair(Settings):
    """A conversation with two answers, of which the better one is known."""

    request: Request
    better: str
    worse: str
    about: str = ""
    """What the pair looks at, in a word or two, for readers of the report."""
    subset: str = ""
    """Part of a set of pairs: the report has figures of each by itself."""

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        _ = self.request.turn  # raises where the conversation cannot be answered
        if self.better == self.worse:
            raise ConfigError(f"both answers are {self.better!r:.60}: give a better and a worse one")
        if not self.better.strip():
            raise ConfigError("the better answer is blank: are the two answers in the wrong places?")
        return self

    @classmethod
    def of(
        cls,
        prompt: str | Request | Sequence[Any],
        better: str,
        worse: str,
        *,
        system: str | None = None,
        about: str = "",
        subset: str = "",
    ) -> Self:
        """Make a pair of a text, a request, or messages in any form that LangChain accepts.

        Raises:
            ConfigError: the answers are equal, the better one is blank, or the prompt cannot be read or answered.

        >>> Pair.of("What is 2 + 2?", "4", "5", system="Be brief.").request.conversation[0].text
        'Be brief.'
        """
        if isinstance(prompt, Request):
            request = prompt
        else:
            request = Request.of(prompt) if isinstance(prompt, str) else Request(conversation=messages_of(prompt))
        if system is not None:
            if any(turn.role == "system" for turn in request.conversation):
                raise ConfigError("the messages have a system message already: leave 'system' out")
            turns = (Message(role="system", content=system), *request.conversation)
            request = request.model_copy(update={"conversation": turns})
        return cls(request=request, better=better, worse=worse, about=about, subset=subset)

    @property
    def words(self) -> tuple[int, int]:
        """Words of the better and of the worse answer."""
        return len(self.better.split()), len(self.worse.split())


def builtin_pairs() -> tuple[Pair, ...]:
    """Return the built-in pairs: general questions on which any sane reward model or judge agrees.

    In half of them the better answer is the longer one. The embedded reward model covers its own world only: use
    :func:`embedded_pairs` for it.

    >>> sum(better > worse for better, worse in (pair.words for pair in builtin_pairs())) / len(builtin_pairs())
    0.5
    """
    return _parse((files(__package__) / "pairs.jsonl").read_text(encoding="utf-8"), "the built-in pairs").pairs


@dataclass(frozen=True)
class PairFile:
    """Pairs from a file."""

    pairs: tuple[Pair, ...]
    left_out: int = 0
    """Rows without a better answer: the people who voted on them did not agree, or were for a blank one."""


def read_pairs(path: str | Path) -> tuple[Pair, ...]:
    """Read pairs from a JSONL file, one object a line, packed or not (``.gz``), or from a JSON list. Understood are

    * ``{"prompt": "…", "better": "…", "worse": "…"}``, with ``"messages": […]`` in place of the prompt where there is
      more than one turn, and ``"system"``, ``"about"`` and ``"subset"`` where wanted;
    * the rows of preference datasets: ``chosen`` and ``rejected`` as texts behind a ``prompt``, or as lists of messages
      that share all but the last one (RewardBench, with its ``subset``). Their other columns are left alone;
    * the rows of PandaLM and LLMBar (:mod:`darwin_align.evaluation.preference_sets`). Rows whose votes have no
      majority, or are for a blank answer, are left out; :func:`read_pair_file` counts them.

    Raises:
        ConfigError: the file cannot be read, or a line is no pair; the message names the line and the remedy.
    """
    return read_pair_file(path).pairs


def read_pair_file(path: str | Path) -> PairFile:
    """Read pairs as :func:`read_pairs` does, and count the rows that are left out.

    Raises:
        ConfigError: as there.
    """
    return _parse(read_text(path, "pairs"), str(path))


def _parse(text: str, source: str) -> PairFile:
    pairs, undecided = [], 0
    for place, row in numbered(text, source, what="pairs", example=_EXAMPLE):
        try:
            pairs.append(pair_of(row))
        except NoBetterAnswerError:
            undecided += 1
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
    if not pairs:
        raise ConfigError(f"{source} holds no pair on which a majority agrees: give other rows")
    return PairFile(tuple(pairs), undecided)


def pair_of(row: Json) -> Pair:
    """Read one pair from an object, in our own form or in that of a preference dataset.

    Raises:
        NoBetterAnswerError: people voted, and do not agree on an answer that has a text.
        ConfigError: it is no pair.
    """
    if not isinstance(row, Mapping):
        raise ConfigError(f"a pair is an object such as {_EXAMPLE}, not {row!r:.60}")
    if is_preference(row):
        prompt, better, worse, subset = preference_of(row)
        return Pair.of(prompt, better, worse, subset=subset)
    return _own_or_chosen(row)


def _own_or_chosen(row: Mapping[str, Any]) -> Pair:
    dataset = bool({"chosen", "rejected"} & row.keys())
    names = ("chosen", "rejected") if dataset else ("better", "worse")
    if dataset and {"better", "worse"} & row.keys():
        raise ConfigError("'better' or 'worse' beside 'chosen' or 'rejected': use one pair of names")
    own = {"prompt", "messages", "system", "about", "subset", "better", "worse"}
    if not dataset and (alien := sorted(row.keys() - own)):
        raise ConfigError(f"unknown field {alien[0]!r}: {did_you_mean(alien[0], own)}")
    if missing := [name for name in names if name not in row]:
        raise ConfigError(f"the field {missing[0]!r} is missing; a pair looks like {_EXAMPLE}")
    better, worse = row[names[0]], row[names[1]]
    prompt: Json = ()
    if isinstance(better, list) and isinstance(worse, list):
        prompt, better, worse = _last_turns(better, worse, names)
    elif not (isinstance(better, str) and isinstance(worse, str)):
        raise ConfigError(f"{names[0]!r} and {names[1]!r} must be two texts, or two lists of messages")
    names_of_extra = ("subset",) if dataset else ("system", "about", "subset")
    extra = {name: row[name] for name in names_of_extra if row.get(name) is not None}
    if wrong := [name for name, value in extra.items() if not isinstance(value, str)]:
        raise ConfigError(f"{wrong[0]!r} must be a text")
    return Pair.of(prompt or _prompt(row, dataset), better, worse, **extra)


def _prompt(row: Mapping[str, Any], dataset: bool) -> Json:
    given = [name for name in ("prompt", "messages") if row.get(name) is not None]
    if not given:
        raise ConfigError("there is no prompt: give 'prompt' with a text, or 'messages'")
    if len(given) > 1 and not dataset:
        raise ConfigError("give 'prompt' or 'messages', not both")
    prompt = row[given[0]]
    if not isinstance(prompt, str | list):
        raise ConfigError(f"{given[0]!r} must be a text or a list of messages, not {prompt!r:.60}")
    return prompt


def _last_turns(better: list[Json], worse: list[Json], names: tuple[str, str]) -> tuple[tuple[Message, ...], str, str]:
    """Split two conversations into what they share and their two last answers."""
    sides = [messages_of(turns) for turns in (better, worse)]
    for name, turns in zip(names, sides, strict=True):
        if not turns or turns[-1].role != "assistant" or turns[-1].tool_calls:
            raise ConfigError(f"the last message of {name!r} must be the assistant's answer, in text")
    if sides[0][:-1] != sides[1][:-1]:
        raise ConfigError(f"{names[0]!r} and {names[1]!r} must share all messages but the last one")
    return sides[0][:-1], sides[0][-1].text, sides[1][-1].text


def messages_of(turns: Sequence[Any]) -> tuple[Message, ...]:
    """Read messages in any form that LangChain accepts.

    Raises:
        ConfigError: they cannot be read.
    """
    if turns and all(isinstance(turn, Message) for turn in turns):
        return tuple(turns)
    try:
        return from_langchain(convert_to_messages(turns))
    except (NotImplementedError, TypeError, ValueError) as error:
        first = str(error).partition("\nFor troubleshooting")[0]
        raise ConfigError(f"cannot read the messages: {first}") from None


def embedded_pairs(n: int = 40, seed: int = 0) -> tuple[Pair, ...]:
    """Make pairs for the embedded reward model: held-out requests of its world, each with a careful answer.

    The worse answer is a careful one about another topic, or a careless one. In half of the pairs the better answer is
    the longer one.

    >>> [pair.about for pair in embedded_pairs(4)]
    ['on the topic', 'on the topic', 'careful', 'careful']
    """
    from darwin_align.pocket.world import draw_from, topics

    if n < 1:
        raise ConfigError(f"n={n} is impossible: ask for one pair at least")
    rng = Random(f"pairs {seed}")
    order = rng.sample(topics(), len(topics()))
    pairs = []
    for i in range(n):
        instruction, other = draw_from(rng, "held_out", topic=order[i % len(order)]), order[(i + 1) % len(order)]
        full, stray = i % 2 == 0, i % 4 < 2
        worse = (
            _careful(replace(instruction, topic=other), not full)
            if stray
            else _careless(instruction, other, rng, not full)
        )
        pairs.append(
            Pair.of(instruction.text, _careful(instruction, full), worse, about="on the topic" if stray else "careful")
        )
    return tuple(pairs)


def _careful(instruction: Instruction, full: bool) -> str:
    from darwin_align.pocket.gold import CAREFUL, TIP, WARM_CLOSINGS

    topic = instruction.topic
    before = [topic.opening, *([topic.needs] if full or "needs" in instruction.asks else [])]
    after = [
        *([topic.why] if full or "why" in instruction.asks else []),
        *([TIP + topic.tips[0]] if full or "tip" in instruction.asks else []),
        *([CAREFUL + topic.warning] if full or "warn" in instruction.asks else []),
        *([WARM_CLOSINGS[0]] if "warm" in instruction.asks else []),
    ]
    return "\n".join(
        filter(None, (" ".join(before), _steps(topic.steps, "steps" in instruction.asks), " ".join(after)))
    )


def _careless(instruction: Instruction, other: Topic, rng: Random, full: bool) -> str:
    from darwin_align.pocket.gold import CAREFUL, FILLER, RUDE, VAGUE

    topic = instruction.topic
    steps = [other.steps[2], rng.choice(VAGUE)]
    if not full:
        return f"{rng.choice(RUDE)}\n{_steps(steps, False)}"
    more = [topic.wrong[0][1], *other.steps[3:], rng.choice(VAGUE)]
    before, after = rng.sample(FILLER, 2), [other.why, CAREFUL + topic.careless, other.needs, *rng.sample(FILLER, 2)]
    return "\n".join((" ".join((*before, *rng.sample(RUDE, 2))), _steps([*steps, *more], False), " ".join(after)))


def _steps(steps: Sequence[str], numbered: bool) -> str:
    from darwin_align.pocket.gold import CONNECTORS

    if numbered:
        return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    marks = [CONNECTORS[min(i, 3)] for i in range(len(steps) - 1)] + [CONNECTORS[-1]]
    return " ".join(f"{mark}{step[0].lower()}{step[1:]}" for mark, step in zip(marks, steps, strict=True))
