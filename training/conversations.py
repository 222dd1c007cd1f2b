"""What the policy reads: the mix of answers, rewordings, tool use and small talk, as chat messages."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from darwin_align.pocket.world import MUTATION_PROMPT, draw_from, topics
from training import tool_use
from training.answers import answer
from training.mutations import reword

Message = dict[str, Any]
Sample = tuple[list[Message], list[dict[str, Any]] | None]

MIX = {"answer": 0.67, "mutation": 0.20, "tools": 0.12, "talk": 0.01}
TOOL_MIX = {"answer": 0.28, "mutation": 0.12, "tools": 0.59, "talk": 0.01}
"""For the second phase: copying names and values from the request is what the first learns too little of."""
SYSTEM_SHARE, HISTORY_SHARE = 0.05, 0.05
SYSTEM_TURNS = (
    "You are a helpful assistant.",
    "You are a pocket helper for the house.",
    "You are a friendly and honest assistant.",
    "Answer as well as you can.",
    "You are an assistant that helps with everyday tasks.",
    "Be helpful, clear and kind.",
    "Today is Monday. The user is at home.",
)
TALK = (
    ("Hello", "Hello! Ask me how to {task}."),
    ("Hello!", "Hello! Ask me how to {task}."),
    ("Hi there.", "Hello! Ask me how to {task}."),
    ("Good morning!", "Good morning! Ask me about {doing}."),
    ("How are you?", "I am well, thank you. Ask me how to {task}."),
    ("Thank you.", "You are welcome!"),
    ("Thanks!", "You are welcome!"),
    ("Who are you?", "I am a pocket helper for the house. Ask me about {doing}."),
    ("What can you do?", "I can tell you how to {task} or how to {other}."),
    ("Help", "I can tell you how to {task} or how to {other}."),
)


def turn(role: str, content: str) -> Message:
    """One message."""
    return {"role": role, "content": content}


def _talk(rng: random.Random) -> list[Message]:
    (one, two), (question, reply) = rng.sample(topics(), 2), rng.choice(TALK)
    return [turn("user", question), turn("assistant", reply.format(task=one.task, doing=one.doing, other=two.task))]


def _exchange(rng: random.Random) -> list[Message]:
    if rng.random() < 0.3:
        return _talk(rng)
    earlier = draw_from(rng, "train")
    return [turn("user", earlier.text), turn("assistant", answer(earlier, rng))]


def context(rng: random.Random) -> list[Message]:
    """What may stand before a request: mostly nothing, sometimes a system turn or an earlier exchange or both."""
    found = [turn("system", rng.choice(SYSTEM_TURNS))] if rng.random() < SYSTEM_SHARE else []
    return found + _exchange(rng) if rng.random() < HISTORY_SHARE else found


def sample(rng: random.Random, mix: Mapping[str, float] = MIX) -> Sample:
    """Draw one training conversation and the tools that it lists."""
    kind = rng.choices(list(mix), weights=list(mix.values()))[0]
    if kind == "mutation":
        source = draw_from(rng, "train")
        prompt = MUTATION_PROMPT.format(instruction=source.text)
        return [*context(rng), turn("user", prompt), turn("assistant", reword(source, rng).text)], None
    if kind == "talk":
        return [*context(rng)[:1], *_talk(rng)], None
    if kind == "tools" and rng.random() < 0.9:
        messages, tools = tool_use.conversation(rng)
        system = [turn("system", rng.choice(SYSTEM_TURNS))] if rng.random() < 0.1 else []
        return [*system, *messages], tools
    instruction = draw_from(rng, "train")
    unused = tool_use.listed(None, rng) if kind == "tools" else []
    return [*context(rng), turn("user", instruction.text), turn("assistant", answer(instruction, rng))], unused or None
