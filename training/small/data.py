"""Judged answers as groups of one prompt: PandaLM's votes, the recorded pool's verdicts, LLMBar, and their splits."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from training.small.contrasts import spoilt

DATA = Path(os.environ.get("DARWIN_ALIGN_JUDGED") or Path(__file__).parents[3] / "shared" / "data" / "real")
"""Where the judged answers lie: they are no part of the repository."""

Split = Literal["reward", "gold", "held_out"]
CLEAR = 0.5
"""Verdicts of the pool that differ by more make a pair."""
OTHER_CHARACTERS = 450
"""Of an answer to another prompt: its beginning shows already that it is one."""


@dataclass(frozen=True)
class Pair:
    """Two answers of a group, the better one first."""

    better: int
    worse: int
    weight: float = 1.0
    kind: str = "judged"
    """ "judged", or the kind of contrast: its name in the figures."""


@dataclass(frozen=True)
class Group:
    """A prompt and answers to it."""

    source: str
    prompt: str
    answers: tuple[str, ...]
    pairs: tuple[Pair, ...]
    wins: tuple[float, ...] = ()
    """Verdicts of the first answers, where the source has them."""
    beginnings: frozenset[int] = frozenset()
    """Answers that are judged as prefixes only, for they were cut here."""

    @property
    def split(self) -> Split:
        """By a hash of the prompt; LLMBar's prompts are all held out."""
        return split_of(self.prompt)

    @property
    def name(self) -> str:
        """Of the file with its states: changes with anything that they are made of."""
        text = json.dumps([self.prompt, self.answers, sorted(self.beginnings)])
        return f"{self.source}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _digest(prompt: str) -> bytes:
    plain = "".join(character for character in prompt.casefold() if character.isalnum())
    return hashlib.sha256(plain.encode()).digest()


def split_of(prompt: str) -> Split:
    """The split of a prompt: a third is held out, the rest is halved. White space and punctuation do not count.

    >>> split_of("How do I brew green tea?") == split_of("how do I brew green tea")
    True
    """
    digest = _digest(prompt)
    if digest[0] % 3 == 0 or digest in _llmbar_digests():
        return "held_out"
    return "reward" if digest[2] % 2 else "gold"


def _rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


@cache
def _llmbar_digests() -> frozenset[bytes]:
    return frozenset(_digest(row["instruction"]) for row in _rows("llmbar.jsonl.gz")) if DATA.is_dir() else frozenset()


# -- sources


def pandalm() -> list[Group]:
    """PandaLM's test set: one group a prompt, a pair for every majority that is no tie, weighted by agreement."""
    found: dict[str, tuple[list[str], dict[tuple[int, int], float]]] = {}
    for row in _rows("pandalm.jsonl.gz"):
        prompt = row["instruction"] + (f"\n\n{row['input']}" if row["input"] else "")
        answers, margins = found.setdefault(prompt, ([], {}))
        places = []
        for text in (row["response1"], row["response2"]):
            if text not in answers:
                answers.append(text)
            places.append(answers.index(text))
        margin = (row["votes"].count(1) - row["votes"].count(2)) / 3
        winner = _majority(row["votes"])
        if winner and places[0] != places[1]:
            better, worse = places if winner == 1 else places[::-1]
            margins[better, worse] = abs(margin)
    return [
        Group(
            "pandalm", prompt, tuple(answers), tuple(Pair(*pair, max(weight, 1 / 3)) for pair, weight in pairs.items())
        )
        for prompt, (answers, pairs) in found.items()
    ]


def _majority(votes: list[int]) -> int:
    """The answer that at least two of three prefer; 0 for a tie."""
    return next((choice for choice in (1, 2) if votes.count(choice) >= 2), 0)


def pool() -> list[Group]:
    """The recorded pool, all judged answers of every prompt; a pair where the verdicts differ clearly."""
    groups = []
    for row in _rows("bon_pool.jsonl.gz"):
        wins = tuple(row["win"])
        pairs = tuple(
            Pair(*((i, j) if wins[i] > wins[j] else (j, i)))
            for i, j in combinations(range(len(wins)), 2)
            if abs(wins[i] - wins[j]) > CLEAR and row["answers"][i] != row["answers"][j]
        )
        groups.append(Group("pool", row["instruction"], tuple(row["answers"][: len(wins)]), pairs, wins))
    return groups


def llmbar() -> list[Group]:
    """LLMBar: two answers a prompt, the better one known; for measuring alone."""
    groups = []
    for row in _rows("llmbar.jsonl.gz"):
        pair = Pair(0, 1) if row["label"] == 1 else Pair(1, 0)
        source = f"llmbar-{row['subset'].rpartition('/')[2].lower()}"
        groups.append(Group(source, row["instruction"], (row["output_1"], row["output_2"]), (pair,)))
    return groups


# -- what is trained on


def few_of(group: Group, reference: str) -> Group:
    """A pool group with the two answers that say most, and GPT-3.5's, against which all verdicts are.

    Of the pairs that differ clearly it takes the one that differs most while its lengths differ least. Where there is
    none, it takes the answer of the most decided verdict.
    """

    def value(pair: Pair) -> float:
        one, other = pair.better, pair.worse
        sizes = [len(group.answers[one]) + 50, len(group.answers[other]) + 50]
        return group.wins[one] - group.wins[other] - 0.5 * (max(sizes) / min(sizes) - 1.0)

    if group.pairs:
        best = max(group.pairs, key=value)
        kept = [best.better, best.worse]
    else:
        kept = [max(range(len(group.wins)), key=lambda i: abs(group.wins[i] - 0.5))]
    answers = (*(group.answers[i] for i in kept), reference)
    last = len(kept)
    pairs = [Pair(0, 1)] if group.pairs else []
    for place, i in enumerate(kept):
        decided = 2.0 * group.wins[i] - 1.0
        if abs(decided) > CLEAR and group.answers[i] != reference:
            pairs.append(Pair(place, last, decided) if decided > 0 else Pair(last, place, -decided))
    return replace(group, answers=answers, pairs=tuple(pairs), wins=tuple(group.wins[i] for i in kept))


def with_contrasts(groups: list[Group], seed: int) -> list[Group]:
    """Add to every group an answer to another prompt of its source and a spoilt copy of one of its own answers.

    Each text that is wrong under one prompt is the right one under its own, so that only the prompt tells.
    """
    rng = random.Random(seed)
    made = []
    for group in groups:
        own = max((pair.better for pair in group.pairs), default=0)
        other = group
        while other.prompt == group.prompt:
            other = rng.choice(groups)
        kind, bad = spoilt(group.answers[own], rng)
        extra = [rng.choice(other.answers), bad]
        first = len(group.answers)
        cut = {first + i for i, text in enumerate(extra) if len(text) > OTHER_CHARACTERS}
        judged = {place for pair in group.pairs for place in (pair.better, pair.worse)} or {own}
        pairs = [
            *group.pairs,
            *(Pair(place, first, 1.0 / len(judged), "another prompt") for place in sorted(judged)),
            Pair(own, first + 1, 1.0, kind),
        ]
        answers = (*group.answers, *(text[:OTHER_CHARACTERS] for text in extra))
        made.append(replace(group, answers=answers, pairs=tuple(pairs), beginnings=frozenset(cut)))
    return made


def training_groups() -> list[Group]:
    """Groups of both training splits, with contrasts; PandaLM's first, for they are short."""
    references: Mapping[str, str] = {row["instruction"]: row["reference"] for row in _rows("bon_pool.jsonl.gz")}
    made: list[Group] = []
    for split in ("reward", "gold"):
        votes = [group for group in pandalm() if group.split == split]
        judged = [few_of(group, references[group.prompt]) for group in pool() if group.split == split]
        made += [*with_contrasts(votes, 1), *with_contrasts(judged, 2)]
    return sorted(made, key=lambda group: (group.source != "pandalm", _digest(group.prompt)))


def held_out_groups() -> list[Group]:
    """What the gates are measured on, the small sets first; the pool's in the order of a hash: any part is fair.

    Answers to another prompt are added to PandaLM's, to measure whether they are told apart.
    """
    votes = [group for group in pandalm() if group.split == "held_out"]
    judged = [group for group in pool() if group.split == "held_out"]
    return [*with_contrasts(votes, 3), *llmbar(), *sorted(judged, key=lambda group: _digest(group.prompt))]
