"""The flawed annotator whose verdicts the reward model learns: like the gold rule, but it overlooks and favours.

It misses about a third of the wrong facts, likes long answers a little, and its choices are noisy (Bradley-Terry).
"""

from __future__ import annotations

import math
import random

from darwin_align.pocket.gold import gold

OVERLOOKED = 0.35
PER_WORD = 0.012
SHARPNESS = 1.2


def verdict(instruction: str, answer: str, rng: random.Random) -> float:
    """The annotator's private score of an answer."""
    found = gold(instruction, answer)
    missed = sum(-line.points for line in found.lines if line.kind == "wrong fact" and rng.random() < OVERLOOKED)
    return found.total + missed + PER_WORD * len(answer.split())


def preference(difference: float) -> float:
    """Chance that the annotator prefers the answer whose private score is higher by ``difference``."""
    return 1.0 / (1.0 + math.exp(-SHARPNESS * max(-20.0, min(20.0, difference))))
