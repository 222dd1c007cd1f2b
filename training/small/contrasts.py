"""Spoilt copies of an answer: it repeats itself, its words are shuffled, or it is garbled."""

from __future__ import annotations

import random

WORDS = 70
"""Of a spoilt copy, at most."""


def repeated(text: str, rng: random.Random) -> str:
    """A few words of an answer, said again and again."""
    words = text.split()
    length = min(len(words), rng.randint(5, 18))
    start = rng.randint(0, min(len(words) - length, 12))
    piece = words[start : start + length]
    return " ".join([*words[:start], *(piece * (WORDS // max(1, length) + 1))][:WORDS])


def shuffled(text: str, rng: random.Random) -> str:
    """Its words in another order within a window, so that no sentence holds together."""
    words = text.split()[:WORDS]
    for start in range(0, len(words), 12):
        window = words[start : start + 12]
        rng.shuffle(window)
        words[start : start + 12] = window
    return " ".join(words)


def garbled(text: str, rng: random.Random) -> str:
    """A third of its words with letters swapped, dropped or doubled."""
    words = text.split()[:WORDS]
    for place, word in enumerate(words):
        if len(word) > 2 and rng.random() < 1 / 3:
            at = rng.randrange(len(word) - 1)
            words[place] = rng.choice(
                (
                    word[:at] + word[at + 1] + word[at] + word[at + 2 :],
                    word[:at] + word[at + 1 :],
                    word[:at] + word[at:] * 2,
                )
            )
    return " ".join(words)


KINDS = {"repetition": repeated, "shuffled words": shuffled, "garbled words": garbled}


def spoilt(text: str, rng: random.Random) -> tuple[str, str]:
    """Spoil an answer in one of the ways; returns the kind and the text.

    >>> kind, text = spoilt("Boil the water, wait a minute, then pour it over the leaves.", random.Random(1))
    >>> kind in KINDS, text != "Boil the water, wait a minute, then pour it over the leaves."
    (True, True)
    """
    for kind in rng.sample(sorted(KINDS), len(KINDS)):
        if (made := KINDS[kind](text, rng)) != text:
            return kind, made
    return "repetition", f"{text} {text}"
