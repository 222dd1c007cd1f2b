"""The archive: instructions worth descending from, with the reward that each reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from darwin_align.core.record import Record
from darwin_align.core.seeds import below

__all__ = ["Archive", "Entry"]


class Entry(Record):
    """An instruction and the best final reward seen under it."""

    instruction: str
    reward: float


class Archive(Record):
    """Instructions in the order in which they entered. Plain data: every change returns a new archive.

    >>> archive = Archive(entries=(Entry(instruction="a", reward=1.0),))
    >>> archive = archive.updated("a", [Entry(instruction="b", reward=2.0), Entry(instruction="c", reward=0.5)])
    >>> archive.rewards
    {'b': 2.0}
    """

    entries: tuple[Entry, ...]

    @property
    def rewards(self) -> dict[str, float]:
        """Instruction to reward."""
        return {entry.instruction: entry.reward for entry in self.entries}

    def sample(self, seed: int) -> str:
        """Draw the next parent (Alg. 1: ``parent ~ uniform(A)``)."""
        return self.entries[below(len(self.entries), seed)].instruction

    def updated(self, parent: str, champions: Sequence[Entry]) -> Self:
        """Let the champions that beat their parent in; the parent leaves when another one did (Alg. 1, last lines).

        A champion that is in already keeps the larger of its two rewards.
        """
        rewards = self.rewards
        bar = rewards[parent]
        better = [champion for champion in champions if champion.reward > bar]
        for champion in better:
            rewards[champion.instruction] = max(champion.reward, rewards.get(champion.instruction, champion.reward))
        if any(champion.instruction != parent for champion in better):
            del rewards[parent]
        return type(self)(entries=tuple(Entry(instruction=i, reward=r) for i, r in rewards.items()))
