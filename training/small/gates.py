"""Measures both adapters on held-out prompts, prints a table and writes ``metrics.json``.

No setting was chosen by these figures: what chose is the validation slice of the training prompts.
"""

from __future__ import annotations

import json
import platform
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from training.small.data import Pair
from training.small.packing import SHARES, shares_of
from training.small.states import Known
from training.small.tower import Tower
from training.small.train import reads_of

METRICS = Path(__file__).parent / "metrics.json"
DRAWS = 2000
"""Of the bootstrap, by prompts."""


@dataclass(frozen=True)
class Gate:
    """A lower bound on one figure."""

    figure: str
    bound: float


GATES = (
    Gate("PandaLM majority pairs", 0.72),
    Gate("pool pairs", 0.65),
    Gate("best of 11", 0.41),
    Gate("LLMBar natural", 0.60),
    Gate("another prompt", 0.80),
    Gate("pool pairs, 50% read", 0.60),
)
"""Missed ones are stated, in the model card too."""


@dataclass(frozen=True)
class Judged:
    """The rewards of one prompt's answers."""

    known: Known
    rewards: tuple[Mapping[int, float], ...]
    """Of each answer, by the token count at which it was read."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of the answers."""
        return [len(ids) for ids in self.known.encoded.answers]

    def whole(self, place: int) -> float:
        """The reward of a whole answer."""
        return self.rewards[place][self.lengths[place]]

    def at(self, place: int, count: int) -> float:
        """The reward after so many tokens, or of the whole answer if it is shorter."""
        return self.rewards[place][min(count, self.lengths[place])]


def judged(tower: Tower, groups: Sequence[Known]) -> list[Judged]:
    """Rewards of all groups."""
    found = []
    for known in groups:
        with torch.inference_mode():
            rewards = tower.rewards(known.states.float(), known.packed).tolist()
        reads = reads_of(known.encoded)
        found.append(Judged(known, tuple({cut: rewards[read] for cut, read in one.items()} for one in reads)))
    return found


def _accuracy(right: Callable[[Judged, Pair], bool | None], groups: Sequence[Judged], kind: str) -> list[list[float]]:
    """For each prompt, whether each of its pairs of a kind is judged rightly."""
    rows = []
    for one in groups:
        outcomes = [right(one, pair) for pair in one.known.group.pairs if pair.kind == kind]
        if kept := [float(outcome) for outcome in outcomes if outcome is not None]:
            rows.append(kept)
    return rows


def _by_whole(one: Judged, pair: Pair) -> bool:
    return one.whole(pair.better) > one.whole(pair.worse)


def _by_length(one: Judged, pair: Pair) -> bool | None:
    longer, other = one.lengths[pair.better], one.lengths[pair.worse]
    return None if longer == other else longer > other


def _by_share(number: int) -> Callable[[Judged, Pair], bool]:
    def right(one: Judged, pair: Pair) -> bool:
        beginnings = one.known.group.beginnings
        count = shares_of([length for place, length in enumerate(one.lengths) if place not in beginnings])[number]
        return one.at(pair.better, count) > one.at(pair.worse, count)

    return right


def _by_shared(one: Judged, pair: Pair) -> bool | None:
    """At the largest count at which both were read: of a whole answer and a beginning."""
    shared = one.rewards[pair.better].keys() & one.rewards[pair.worse].keys()
    if _both_whole(one, pair):
        return _by_whole(one, pair)
    return one.rewards[pair.better][max(shared)] > one.rewards[pair.worse][max(shared)] if shared else None


def _both_whole(one: Judged, pair: Pair) -> bool:
    return one.known.encoded.whole[pair.better] and one.known.encoded.whole[pair.worse]


def _picked(groups: Sequence[Judged], choose: Callable[[Judged], int]) -> list[list[float]]:
    """The verdict of the chosen answer of each prompt."""
    return [[one.known.group.wins[choose(one)]] for one in groups]


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else None


def _within(groups: Sequence[Judged], of: Callable[[Judged, int], float]) -> float:
    """Mean over prompts of the correlation of the rewards with another number of the answers."""
    found = []
    for one in groups:
        places = [place for place in range(len(one.rewards)) if place not in one.known.group.beginnings]
        value = _correlation([one.whole(place) for place in places], [of(one, place) for place in places])
        found += [] if value is None else [value]
    return mean(found)


def figures(found: Sequence[Judged]) -> dict[str, list[float]]:
    """All figures with the ends of their 95% intervals (bootstrap by prompts) and the number of prompts."""
    sources = sorted({one.known.group.source for one in found})
    of = {source: [one for one in found if one.known.group.source == source] for source in sources}
    votes, judged_pool = of.get("pandalm", []), of.get("pool", [])
    rows: dict[str, list[list[float]]] = {
        "PandaLM majority pairs": _accuracy(_by_whole, votes, "judged"),
        "PandaLM majority pairs, longer": _accuracy(_by_length, votes, "judged"),
        "pool pairs": _accuracy(_by_whole, judged_pool, "judged"),
        "pool pairs, longer": _accuracy(_by_length, judged_pool, "judged"),
        "best of 11": _picked(judged_pool, lambda one: max(range(len(one.rewards)), key=one.whole)),
        "best of 11, random": [[mean(one.known.group.wins)] for one in judged_pool],
        "best of 11, longest": _picked(
            judged_pool, lambda one: max(range(len(one.rewards)), key=lambda i: one.lengths[i])
        ),
        "best of 11, oracle": [[max(one.known.group.wins)] for one in judged_pool],
    }
    for source in sources:
        if source.startswith("llmbar"):
            rows[f"LLMBar {source.removeprefix('llmbar-')}"] = _accuracy(_by_whole, of[source], "judged")
    for number, share in enumerate(SHARES):
        rows[f"PandaLM majority pairs, {share:.0%} read"] = _accuracy(_by_share(number), votes, "judged")
        rows[f"pool pairs, {share:.0%} read"] = _accuracy(_by_share(number), judged_pool, "judged")
    for kind in ("another prompt", "repetition", "shuffled words", "garbled words"):
        rows[kind] = _accuracy(_by_shared, votes, kind)
    made = {name: [*_interval(row), float(len(row))] for name, row in rows.items() if row}
    for name, groups in (("PandaLM", votes), ("pool", judged_pool)):
        if groups:
            made[f"correlation with length, {name}"] = [_within(groups, lambda one, place: one.lengths[place])]
    return made


def _interval(rows: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean over all values, and the ends of its interval."""
    rng = random.Random(0)
    sums = [(sum(row), len(row)) for row in rows]
    means = []
    for _ in range(DRAWS):
        drawn = rng.choices(sums, k=len(sums))
        means.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    means.sort()
    return (
        sum(total for total, _ in sums) / sum(count for _, count in sums),
        means[int(0.025 * DRAWS)],
        means[int(0.975 * DRAWS)],
    )


def agreement(one: Sequence[Judged], other: Sequence[Judged]) -> float:
    """Mean over the pool's prompts of the correlation of two models' rewards."""
    pairs = [
        _correlation([a.whole(i) for i in range(len(a.rewards))], [b.whole(i) for i in range(len(b.rewards))])
        for a, b in zip(one, other, strict=True)
        if a.known.group.source == "pool"
    ]
    return mean(value for value in pairs if value is not None)


def table(made: Mapping[str, Sequence[float]]) -> str:
    """The gates and all figures, as text."""
    lines = []
    for gate in GATES:
        value = made.get(gate.figure, [float("nan")])[0]
        lines.append(f"{gate.figure:44} >= {gate.bound:.2f} {value:7.3f}  {'ok' if value >= gate.bound else 'MISSED'}")
    for name, values in made.items():
        interval = f" [{values[1]:.3f}, {values[2]:.3f}] {values[3]:.0f} prompts" if len(values) == 4 else ""
        lines.append(f"{name:52} {values[0]:7.3f}{interval}")
    return "\n".join(lines)


def report(models: Mapping[str, Mapping[str, Sequence[float]]], about: Mapping[str, Any], path: Path = METRICS) -> None:
    """Print the figures of each model and write them."""
    for name, made in models.items():
        print(f"== {name}\n{table(made)}\n", flush=True)
    shown = {
        "models": {
            name: {figure: [round(value, 4) for value in values] for figure, values in made.items()}
            for name, made in models.items()
        },
        "gates": [
            {
                **asdict(gate),
                "value": round(models["reward"][gate.figure][0], 4),
                "holds": holds(models["reward"], gate),
            }
            for gate in GATES
            if gate.figure in models["reward"]
        ],
        **about,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    path.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")


def holds(made: Mapping[str, Sequence[float]], gate: Gate) -> bool:
    """Whether a model passes a gate."""
    return made[gate.figure][0] >= gate.bound
