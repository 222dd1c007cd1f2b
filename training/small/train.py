"""Trains an adapter of the upper layers and a scalar head on cached states, by Bradley-Terry on wholes and prefixes."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.optim import rate_at
from training.small.data import Pair, Split
from training.small.packing import Encoded
from training.small.states import BOTTOM, TOP, Base, Known
from training.small.tower import Tower

SQUARE_WEIGHT = 2e-3
CUT_WEIGHT = 0.1
"""Of an answer against its own beginnings: a little, for what is whole may be longer but is not better by that."""
PREFIX_WEIGHT = 0.5
CONTRAST_WEIGHT = 0.5
DOUBT = 0.35
"""Of a judged comparison of prefixes of which nothing is read yet: how much of it is taken the other way round."""
LONGEST_FACTOR = 3.0


@dataclass(frozen=True)
class Plan:
    """Settings of a training."""

    rank: int = 8
    epochs: int = 2
    batch: int = 2
    """Prompts a step."""
    rate: float = 5e-4
    head_rate: float = 6e-4
    decay: float = 0.02
    seed: int = 1
    votes: int = 2
    """How often an epoch takes PandaLM's prompts, whose answers are short."""
    dropout: float = 0.1
    """Of what the adapters read."""
    smoothing: float = 0.05
    """Of a comparison, how much of it is taken the other way round."""
    length: float = 0.5
    """Weight of :func:`length_penalty`."""


@dataclass(frozen=True)
class Term:
    """One comparison: the reward at one read is to be above that at another."""

    better: int
    worse: int
    weight: float
    kind: str
    share: float
    """How much of the longer answer is read: 1 for wholes."""


def reads_of(encoded: Encoded) -> list[dict[int, int]]:
    """For each answer its reads by the token count: indices into the packed row's reads."""
    found, at = [], 0
    for cuts in encoded.cuts:
        found.append({cut: at + number for number, cut in enumerate(cuts)})
        at += len(cuts)
    return found


def terms_of(known: Known, balance: dict[Pair, float]) -> Iterator[Term]:
    """All comparisons of a group: each pair whole, and at every token count that both have."""
    reads, lengths = reads_of(known.encoded), [len(ids) for ids in known.encoded.answers]
    for pair in known.group.pairs:
        one, other = reads[pair.better], reads[pair.worse]
        weight = pair.weight * (balance.get(pair, 1.0) if pair.kind == "judged" else CONTRAST_WEIGHT)
        longest = max(lengths[pair.better], lengths[pair.worse])
        shared = sorted(one.keys() & other.keys() - {lengths[pair.better], lengths[pair.worse]})
        total = sum(cut / longest for cut in shared) or 1.0
        for cut in shared:
            yield Term(
                one[cut], other[cut], PREFIX_WEIGHT * weight * cut / longest / max(1.0, total), pair.kind, cut / longest
            )
        # A spoilt copy that is longer would teach that long is bad: its beginning must do.
        fair = pair.kind in ("judged", "another prompt") or lengths[pair.worse] <= lengths[pair.better]
        if fair and known.encoded.whole[pair.better] and known.encoded.whole[pair.worse]:
            yield Term(one[lengths[pair.better]], other[lengths[pair.worse]], weight, pair.kind, 1.0)
    for place in {pair.better for pair in known.group.pairs}:
        if known.encoded.whole[place]:
            own = [read for cut, read in reads[place].items() if cut < 0.8 * lengths[place]]
            for read in own:
                yield Term(reads[place][lengths[place]], read, CUT_WEIGHT / len(own), "cut", 1.0)


def length_balance(groups: Sequence[Known]) -> list[dict[Pair, float]]:
    """Weights under which the longer answer of a pair is as often the better one as the shorter.

    Pairs are put into bins by source and by the ratio of their lengths; in each, the rarer direction weighs more.
    """
    sums: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    places = []
    for known in groups:
        mine = {}
        for pair in known.group.pairs:
            if pair.kind == "judged":
                better, worse = (len(known.encoded.answers[place]) for place in (pair.better, pair.worse))
                ratio = math.log((better + 5) / (worse + 5))
                mine[pair] = (known.group.source, min(3, int(abs(ratio) / 0.2))), int(ratio > 0)
                sums[mine[pair][0]][mine[pair][1]] += pair.weight
        places.append(mine)
    return [
        {
            pair: min(LONGEST_FACTOR, sum(sums[where]) / 2 / sums[where][side]) if min(sums[where]) else 0.3
            for pair, (where, side) in mine.items()
        }
        for mine in places
    ]


def loss_of(rewards: Tensor, terms: Sequence[Term], smoothing: float = 0.0) -> Tensor:
    """Weighted Bradley-Terry loss of a row, and a little of the rewards' squares."""
    better, worse = rewards[[term.better for term in terms]], rewards[[term.worse for term in terms]]
    weights = torch.tensor([term.weight for term in terms])
    # What a prefix becomes is open, the more so the less is read of it; a contrast shows at once.
    doubts = torch.tensor([DOUBT * (1.0 - term.share) if term.kind == "judged" else 0.0 for term in terms])
    margins = better - worse
    doubts = doubts + smoothing
    losses = -(1 - doubts) * functional.logsigmoid(margins) - doubts * functional.logsigmoid(-margins)
    return (weights * losses).sum() + SQUARE_WEIGHT * (rewards**2).sum() / 8


def length_penalty(rewards: Tensor, known: Known) -> Tensor:
    """How far the rewards of a prompt's judged answers follow their lengths: the square of their covariance.

    Lengths are logarithms, of mean 0 and spread 1, so that it is the square of a slope.
    """
    places = sorted(
        {place for pair in known.group.pairs if pair.kind == "judged" for place in (pair.better, pair.worse)}
    )
    reads, lengths = reads_of(known.encoded), [len(ids) for ids in known.encoded.answers]
    sizes = torch.tensor([math.log(lengths[place] + 5.0) for place in places])
    if len(places) < 2 or (spread := float(sizes.std(correction=0))) < 0.05:
        return rewards.new_zeros(())
    whole = rewards[[reads[place][lengths[place]] for place in places]]
    return ((whole - whole.mean()) * (sizes - sizes.mean()) / spread).mean() ** 2


@dataclass
class Tally:
    """Weighted losses and accuracies by kind."""

    def __post_init__(self) -> None:
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])

    def add(self, rewards: Tensor, known: Known, terms: Sequence[Term]) -> None:
        """Take a row's."""
        whole = f"whole {known.group.source}"
        for term in terms:
            margin = float(rewards[term.better] - rewards[term.worse])
            kind = term.kind if term.kind != "judged" else whole if term.share == 1.0 else "prefix"
            sums = self.sums[kind]
            sums[0] += term.weight
            sums[1] += term.weight * (margin > 0)
            sums[2] += term.weight * math.log1p(math.exp(-max(-30.0, margin)))

    def text(self) -> str:
        """One line."""
        return " ".join(
            f"{kind} {right / weight:.3f} ({loss / weight:.3f})"
            for kind, (weight, right, loss) in sorted(self.sums.items())
        )

    def loss(self, *kinds: str) -> float:
        """Mean loss over kinds."""
        weight = sum(self.sums[kind][0] for kind in kinds)
        return sum(self.sums[kind][2] for kind in kinds) / max(weight, 1e-9)


def train(
    base: Base, groups: Sequence[Known], others: Sequence[Known], plan: Plan, log: str = ""
) -> tuple[Tower, list[str]]:
    """Train on groups, and report after each epoch what that gets on others, which choose between plans.

    The last epoch is kept: nothing of the weights was chosen by ``others``.
    """
    torch.manual_seed(plan.seed)
    rng = random.Random(plan.seed)
    tower = Tower(base.model, BOTTOM, TOP, rank=plan.rank, dropout=plan.dropout, seed=plan.seed)
    taught, checks = _rows(groups), _rows(others)
    even_out(tower, [known for known, _ in taught if known.group.source == "pandalm"])
    adapted = [p for name, p in tower.named_parameters() if p.requires_grad and "lora" in name]
    head = [tower.score.weight, tower.norm.weight]
    optimizer = torch.optim.AdamW(
        [
            {"params": adapted, "peak": plan.rate, "weight_decay": plan.decay},
            {"params": head, "peak": plan.head_rate, "weight_decay": plan.decay},
        ],
        lr=plan.rate,
        betas=(0.9, 0.98),
    )
    taught += [row for row in taught if row[0].group.source == "pandalm"] * (plan.votes - 1)
    steps, step = plan.epochs * math.ceil(len(taught) / plan.batch), 0
    lines, began = [], time.monotonic()
    for epoch in range(plan.epochs):
        order, tally = rng.sample(taught, len(taught)), Tally()
        for start in range(0, len(order), plan.batch):
            batch = order[start : start + plan.batch]
            for known, terms in batch:
                rewards = tower.rewards(known.states.float(), known.packed)
                loss = loss_of(rewards, terms, plan.smoothing) + plan.length * length_penalty(rewards, known)
                (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
                tally.add(rewards.detach(), known, terms)
            torch.nn.utils.clip_grad_norm_([*adapted, *head], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate_at(step, steps, warm_up=max(4, steps // 20))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
        tower.eval()
        checked = evaluate(tower, checks)
        tower.train()
        measured = checked.loss("whole pandalm", "whole pool", "prefix", "another prompt")
        lines += [
            f"epoch {epoch + 1} taught: {tally.text()}",
            f"epoch {epoch + 1} on the other half {measured:.4f}: {checked.text()}",
        ]
        print(f"{log} {time.monotonic() - began:.0f}s\n  " + "\n  ".join(lines[-2:]), flush=True)
    return tower.eval(), lines


def even_out(tower: Tower, groups: Sequence[Known]) -> None:
    """Set the norm's weights so that every feature of the head varies alike over these groups' reads."""
    with torch.inference_mode():
        last = torch.cat([tower.run(known.states.float(), known.packed)[list(known.packed.reads)] for known in groups])
        spread = functional.rms_norm(last, last.shape[1:], eps=tower.norm.eps).std(dim=0)
    tower.norm.weight.data.copy_(1.0 / spread.clamp_min(float(spread.median()) / 10))


def _rows(groups: Sequence[Known]) -> list[tuple[Known, list[Term]]]:
    """Groups with their comparisons, those without any left out."""
    made = [(known, list(terms_of(known, mine))) for known, mine in zip(groups, length_balance(groups), strict=True)]
    return [row for row in made if row[1]]


def evaluate(tower: Tower, rows: Sequence[tuple[Known, list[Term]]]) -> Tally:
    """Losses and accuracies without training."""
    tally = Tally()
    with torch.inference_mode():
        for known, terms in rows:
            tally.add(tower.rewards(known.states.float(), known.packed), known, terms)
    return tally


def of_split(groups: Sequence[Known], split: Split) -> list[Known]:
    """The groups of one split."""
    return [known for known in groups if known.group.split == split]
