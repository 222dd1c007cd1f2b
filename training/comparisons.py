"""What the reward model learns from: groups of four replies to one request, and the annotator's view of each.

A third of the groups come in twins that share their replies: only the request decides which reply is better. Without
them a reward model hardly reads the request, and mutations that leave the topic hack it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from darwin_align.pocket.gold import gold
from darwin_align.pocket.world import Instruction, Split, draw_from
from training import tool_use
from training.answers import answer, garble
from training.conversations import SYSTEM_TURNS, Message, context, turn
from training.mutations import reword

REPLIES = 4
OFF_TOPIC, GARBLED, TOOLS = 0.12, 0.06, 0.05


@dataclass(frozen=True)
class Twins:
    """How many of the draws are twins, and how many of these differ by topic (the others by clauses)."""

    share: float
    by_topic: float


TWINS, MORE_TWINS = Twins(0.22, 0.35), Twins(0.60, 0.15)
"""For the first phase and, heavier on the subtle kind, for the second."""


@dataclass(frozen=True)
class Group:
    """A conversation, four replies, and the value of any (cut) reply in the eyes of its judge."""

    messages: list[Message]
    replies: tuple[str, ...]
    instruction: str | None
    tools: list[dict[str, Any]] | None = None
    values: tuple[float, ...] | None = None


def _reply(instruction: Instruction, rng: random.Random) -> str:
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        instruction = reword(instruction, rng)
    text = answer(instruction, rng)
    return garble(text, rng) if rng.random() < GARBLED else text


def _plain(rng: random.Random, split: Split) -> Group:
    instruction = draw_from(rng, split)
    replies = tuple(
        answer(draw_from(rng, "train"), rng) if rng.random() < OFF_TOPIC else _reply(instruction, rng)
        for _ in range(REPLIES)
    )
    return Group([*context(rng), turn("user", instruction.text)], replies, instruction.text)


def topic_twins(rng: random.Random, split: Split) -> tuple[Instruction, Instruction, list[str]]:
    """Two requests that differ in topic only, and two replies to each of them."""
    one = draw_from(rng, split)
    while (two := Instruction(draw_from(rng, split).topic, one.phrasing, one.clauses)).topic is one.topic:
        pass
    return one, two, [answer(instruction, rng) for instruction in (one, one, two, two)]


def clause_twins(rng: random.Random, split: Split, margin: float = 0.5) -> tuple[Instruction, Instruction, list[str]]:
    """Two requests that differ in clauses only, and replies of which the first two swap places under gold."""
    while True:
        one = draw_from(rng, split)
        two = Instruction(one.topic, one.phrasing, draw_from(rng, split).clauses)
        if one.asks == two.asks:
            continue
        for _ in range(6):
            first, second = answer(one, rng), answer(two, rng)
            here = gold(one.text, first).total - gold(one.text, second).total
            there = gold(two.text, second).total - gold(two.text, first).total
            if min(here, there) >= margin:
                return one, two, [first, second, _reply(one, rng), _reply(two, rng)]


def _twins(rng: random.Random, split: Split, by_topic: float) -> list[Group]:
    make = topic_twins if rng.random() < by_topic else clause_twins
    one, two, replies = make(rng, split)
    before = context(rng)
    return [
        Group([*before, turn("user", instruction.text)], tuple(replies), instruction.text) for instruction in (one, two)
    ]


def _called(name: str, arguments: dict[str, Any]) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>{body}</tool_call>"


def _tools(rng: random.Random) -> Group:
    tool, arguments, words = tool_use.request(rng)
    other, strange, _ = tool_use.request(rng)
    tools = tool_use.listed(tool, rng)
    system = [turn("system", rng.choice(SYSTEM_TURNS))] if rng.random() < 0.1 else []
    replies = (
        _called(tool.name, arguments),
        _called(tool.name, tool.draw(rng)),
        _called(other.name, strange),
        rng.choice((tool_use.NO_TOOL, answer(draw_from(rng, "train"), rng))),
    )
    right = replies[0]
    values = tuple(5.0 if text == right else value for text, value in zip(replies, (5.0, 1.5, 0.0, -1.0), strict=True))
    return Group([*system, turn("user", words)], replies, None, tools, values)


def groups(rng: random.Random, split: Split = "train", twins: Twins = TWINS) -> Iterator[Group]:
    """Groups without end."""
    while True:
        roll = rng.random()
        if roll < TOOLS:
            yield _tools(rng)
        elif roll < TOOLS + twins.share:
            yield from _twins(rng, split, twins.by_topic)
        else:
            yield _plain(rng, split)
