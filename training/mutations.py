"""Rewordings: a request in, another request about the same topic out."""

from __future__ import annotations

import random

from darwin_align.pocket.world import (
    BAD_CLAUSES,
    CLAUSES,
    GOOD_CLAUSES,
    MAX_CLAUSES,
    PHRASINGS,
    Instruction,
    draw_from,
    fits,
)

DRIFT = 0.003
"""Share of mutations that leave the topic: noise of the kind that real mutators show."""


def _attempt(source: Instruction, rng: random.Random) -> Instruction:
    kept = [(name, wording) for name, wording in source.clauses if rng.random() < 0.82]
    kept = [(name, rng.randrange(len(CLAUSES[name])) if rng.random() < 0.5 else wording) for name, wording in kept]
    for _ in range(rng.choices((0, 1, 2, 3), weights=(10, 40, 35, 15))[0]):
        name = rng.choice(GOOD_CLAUSES if rng.random() < 0.78 else BAD_CLAUSES)
        names = frozenset(n for n, _ in kept)
        if len(kept) < MAX_CLAUSES and name not in names and fits(names | {name}):
            kept.insert(rng.randint(0, len(kept)), (name, rng.randrange(len(CLAUSES[name]))))
    phrasing = source.phrasing if rng.random() < 0.15 else rng.randrange(len(PHRASINGS))
    return Instruction(source.topic, phrasing, tuple(kept))


def reword(source: Instruction, rng: random.Random) -> Instruction:
    """Reword a request: other phrasing, clauses dropped, reworded and added, good ones more often than bad ones."""
    if rng.random() < DRIFT:
        return draw_from(rng, "train")
    while (found := _attempt(source, rng)).split != "train" or found.text == source.text:
        pass
    return found
