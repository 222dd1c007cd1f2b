"""The flawed answer writer: the policy is trained on its answers, good and bad.

An answer's carefulness follows the request's clauses, and every step is then noisy on its own. The first is what makes
mutation worth something, the second what makes replacement worth something; both are built in on purpose.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from darwin_align.pocket.gold import (
    CAREFUL,
    CONNECTORS,
    FILLER,
    RUDE,
    STORY,
    TIP,
    VAGUE,
    WARM_CLOSINGS,
    WARM_OPENINGS,
)
from darwin_align.pocket.world import Instruction, Topic, topics

CARE_SHIFT = {
    "needs": 0.07,
    "steps": 0.08,
    "why": 0.07,
    "tip": 0.07,
    "warn": 0.08,
    "warm": 0.06,
    "care": 0.16,
    "full": 0.12,
    "short": -0.08,
    "hurry": -0.12,
    "story": -0.10,
    "blunt": -0.10,
    "guess": -0.20,
}


@dataclass(frozen=True)
class Mood:
    """How one answer will be written: its carefulness, the clauses it follows, and its odds of noise."""

    care: float
    asks: frozenset[str]

    @property
    def slip(self) -> float:
        """Chance that one step goes wrong."""
        return 0.60 * (1.0 - self.care)

    def includes(self, rng: random.Random, clause: str, unasked: float) -> bool:
        """Whether a section appears: nearly always when asked for."""
        if clause in self.asks:
            return rng.random() < 0.72 + 0.25 * self.care
        chance = 0.7 if "full" in self.asks else 0.25 * unasked if "short" in self.asks else unasked
        return rng.random() < chance


def mood_for(asks: frozenset[str], rng: random.Random) -> Mood:
    """Draw the mood in which a request with these clauses is answered."""
    care = 0.48 + sum(CARE_SHIFT[name] for name in asks) + rng.gauss(0.0, 0.07)
    return Mood(min(0.95, max(0.08, care)), asks)


def _other(topic: Topic, rng: random.Random) -> Topic:
    while (found := rng.choice(topics())) is topic:
        pass
    return found


def _flawed_step(topic: Topic, index: int, rng: random.Random) -> str | None:
    wrong = [text for step, text in topic.wrong if step == index]
    roll = rng.random()
    if roll < 0.30:
        return None
    if roll < 0.60 and wrong:
        return rng.choice(wrong)
    if roll < 0.70 and index:
        return topic.steps[rng.randrange(index)]
    if roll < 0.86:
        return rng.choice(_other(topic, rng).steps)
    return rng.choice(VAGUE)


def _steps(topic: Topic, mood: Mood, rng: random.Random) -> list[str]:
    lines: list[str] = []
    for index, step in enumerate(topic.steps):
        line: str | None = step
        if rng.random() < mood.slip:
            line = _flawed_step(topic, index, rng)
        if line is not None:
            lines.append(line)
    return lines or [topic.steps[0]]


def _write_steps(lines: list[str], numbered: bool) -> list[str]:
    if numbered:
        return [f"{number}. {line}" for number, line in enumerate(lines, 1)]
    marks = [*CONNECTORS[: max(1, len(lines) - 1)], CONNECTORS[-1]]
    if len(lines) == 1:
        marks = [CONNECTORS[0]]
    return [f"{mark}{line[0].lower()}{line[1:]}" for mark, line in zip(marks, lines, strict=False)]


def _opening(topic: Topic, mood: Mood, rng: random.Random) -> list[str]:
    lines = []
    if mood.includes(rng, "warm", 0.12) and "blunt" not in mood.asks:
        lines.append(rng.choice(WARM_OPENINGS).format(doing=topic.doing))
    elif rng.random() < 0.6:
        lines.append(topic.opening)
    if "story" in mood.asks:
        lines.append(STORY[0].format(doing=topic.doing))
        lines.extend(rng.sample(STORY[1:], rng.choice((0, 1, 1))))
    if mood.includes(rng, "needs", 0.3):
        source = _other(topic, rng) if rng.random() < 0.3 * mood.slip else topic
        lines.append(source.needs)
    return lines


def _closing(topic: Topic, mood: Mood, rng: random.Random) -> list[str]:
    def source() -> Topic:
        return _other(topic, rng) if rng.random() < 0.45 * mood.slip else topic

    more = 0.85 if "full" in mood.asks else 0.3
    lines = []
    if mood.includes(rng, "why", 0.25):
        lines.append(source().why)
        lines.extend(text for text in topic.why_more if rng.random() < more)
    if mood.includes(rng, "tip", 0.25):
        tips = source().tips
        lines.append(TIP + rng.choice(tips) if rng.random() > more else TIP + tips[0])
        if lines[-1] == TIP + tips[0] and rng.random() < more:
            lines.append(TIP + tips[1])
    if rng.random() < 0.22 * (1.0 - mood.care):
        lines.append(CAREFUL + topic.careless)
    elif mood.includes(rng, "warn", 0.25):
        lines.append(CAREFUL + source().warning)
    if mood.includes(rng, "warm", 0.12) and "blunt" not in mood.asks:
        lines.append(rng.choice(WARM_CLOSINGS))
    return lines


def _sprinkle(lines: list[str], rng: random.Random, pool: tuple[str, ...], chance: float) -> None:
    while rng.random() < chance:
        lines.insert(rng.randint(0, len(lines)), rng.choice(pool))
        chance *= 0.5


def answer(instruction: Instruction, rng: random.Random) -> str:
    """Write one answer of mixed quality to a request."""
    topic, mood = instruction.topic, mood_for(instruction.asks, rng)
    numbered = mood.includes(rng, "steps", 0.3)
    steps = _write_steps(_steps(topic, mood, rng), numbered)
    before, after = _opening(topic, mood, rng), _closing(topic, mood, rng)
    rude = 0.03 + 0.14 * (1.0 - mood.care) + 0.22 * ("blunt" in mood.asks)
    for part in (before, after):
        _sprinkle(part, rng, FILLER, 0.35 * (1.0 - mood.care))
        _sprinkle(part, rng, RUDE, rude / 2)
    if not numbered:
        _sprinkle(steps, rng, FILLER, 0.25 * (1.0 - mood.care))
    joint = "\n" if numbered else " "
    return "\n".join(part for part in (" ".join(before), joint.join(steps), " ".join(after)) if part)


def garble(text: str, rng: random.Random) -> str:
    """Swap or drop a few words of one place: the kind of damage that a tiny policy does."""
    words = text.split(" ")
    at = rng.randrange(max(1, len(words) - 4))
    piece = words[at : at + 4]
    rng.shuffle(piece)
    return " ".join(words[:at] + piece[: rng.randint(2, 4)] + words[at + 4 :])
