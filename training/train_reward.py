"""Trains the reward model: the policy's embeddings and first layers under a scalar head, by Bradley-Terry.

The score is read at the end-of-turn token. For the prefix-trained model the same loss is also taken at four random
cuts of the group's replies, each closed by an end-of-turn token, because the search scores cut replies. A cut costs one
token instead of one sequence: its end token stands behind the row, at the cut's position, and sees no more of the row.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from training.annotator import preference, verdict
from training.comparisons import MORE_TWINS, REPLIES, TWINS, Group, Twins, groups
from training.optim import Log, Schedule, make_optimizer, padded, rate_at, update
from training.tokenizer import Codec
from training.train_policy import make_config, save_model

BATCH = 12


@dataclass(frozen=True)
class Phase(Schedule):
    """Steps under one schedule and one mix of groups."""

    twins: Twins


FIRST = Phase(2500, 1.2e-3, 150, 23, TWINS)
SECOND = Phase(1000, 5e-4, 100, 24, MORE_TWINS)
"""Without it the model reads the topic of a request, but hardly its clauses."""
LAYERS, CUTS, POOL = 3, 4, 12
PREFIX_WEIGHT, SQUARE_WEIGHT = 0.5, 1e-3
FINAL_SHARE = 0.5
"""A cut's value to the annotator: half the finished reply's verdict, half the cut's own."""
PAIRS = tuple(combinations(range(REPLIES), 2))


@dataclass(frozen=True)
class Row:
    """Token ids up to the closing end token, the cut positions, and the annotator's value at each cut and the end."""

    ids: list[int]
    cuts: list[int]
    values: list[float]


def _values(group: Group, reply: str, pieces: list[str], rng: random.Random) -> list[float]:
    """The annotator's values of a reply's cut pieces, then of the whole reply."""
    if group.instruction is None:
        final = (group.values or ())[group.replies.index(reply)]
        return [*(final * len(piece) / max(1, len(reply)) for piece in pieces), final]
    final = verdict(group.instruction, reply, rng)
    own = [final if piece == reply else verdict(group.instruction, piece, rng) for piece in pieces]
    return [*(FINAL_SHARE * final + (1.0 - FINAL_SHARE) * value for value in own), final]


def rows_of(group: Group, codec: Codec, rng: random.Random, cuts: int) -> list[Row]:
    """Encode a group; all its replies are cut after the same numbers of tokens."""
    prompt = codec.chat(group.messages, group.tools, prompt=True)
    replies = [codec.encode(text) for text in group.replies]
    longest = max(map(len, replies))
    drawn = sorted(rng.randint(1, max(1, longest - 1)) for _ in range(cuts))
    rows = []
    for text, reply in zip(group.replies, replies, strict=True):
        mine = [min(cut, len(reply)) for cut in drawn]
        values = _values(group, text, [codec.decode(reply[:cut]) for cut in mine], rng)
        rows.append(Row([*prompt, *reply, codec.end], [len(prompt) + cut for cut in mine], values))
    return rows


def tensors(rows: list[Row], pad: int, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, positions, mask and the columns to read (cuts, then the end) of a batch of rows."""
    whole, cuts = padded([row.ids for row in rows], pad), len(rows[0].cuts)
    width = whole.shape[1]
    ids = torch.cat([whole, torch.full((len(rows), cuts), end)], dim=1)
    cut_at = torch.tensor([row.cuts for row in rows]).reshape(len(rows), cuts)
    positions = torch.cat([torch.arange(width).expand(len(rows), width), cut_at], dim=1)
    mask = torch.zeros(len(rows), width + cuts, width + cuts, dtype=torch.bool)
    mask[:, :width, :width] = torch.ones(width, width, dtype=torch.bool).tril()
    mask[:, width:, :width] = torch.arange(width) < cut_at[:, :, None]
    mask[:, width:, width:] = torch.eye(cuts, dtype=torch.bool)
    ends = torch.tensor([[len(row.ids) - 1] for row in rows])
    read = torch.cat([torch.arange(width, width + cuts).expand(len(rows), cuts), ends], dim=1)
    return ids, positions, mask[:, None], read


def scores(model: LlamaForSequenceClassification, rows: list[Row], pad: int, end: int) -> torch.Tensor:
    """Rewards at every cut and at the end, shape (rows, cuts + 1)."""
    ids, positions, mask, read = tensors(rows, pad, end)
    hidden = model.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state
    picked = hidden.gather(1, read[:, :, None].expand(-1, -1, hidden.shape[-1]))
    return torch.as_tensor(model.score(picked)[..., 0].float())


def loss_of(found: torch.Tensor, rows: list[Row], rng: random.Random) -> tuple[torch.Tensor, float]:
    """Bradley-Terry over all pairs of every group with the annotator's noisy choices; and the end's pair accuracy."""
    rewards = found.reshape(-1, REPLIES, found.shape[-1])
    left, right = [a for a, _ in PAIRS], [b for _, b in PAIRS]
    margins = rewards[:, left] - rewards[:, right]
    choices = [
        [
            [
                1.0 if rng.random() < preference(a - b) else -1.0
                for a, b in zip(rows[start + i].values, rows[start + j].values, strict=True)
            ]
            for i, j in PAIRS
        ]
        for start in range(0, len(rows), REPLIES)
    ]
    signs = torch.tensor(choices)
    losses = -torch.nn.functional.logsigmoid(signs * margins)
    total = losses[..., -1].mean() + SQUARE_WEIGHT * (found**2).mean()
    if found.shape[-1] > 1:
        total = total + PREFIX_WEIGHT * losses[..., :-1].mean()
    return total, float(((signs * margins)[..., -1] > 0).float().mean())


def batches(codec: Codec, rng: random.Random, cuts: int, twins: Twins = TWINS) -> Iterator[list[Row]]:
    """Batches of whole groups without end, similar lengths together."""
    source = groups(rng, twins=twins)
    while True:
        pool = [rows_of(next(source), codec, rng, cuts) for _ in range(BATCH * POOL)]
        pool.sort(key=lambda rows: max(len(row.ids) for row in rows))
        cut = [pool[start : start + BATCH] for start in range(0, len(pool), BATCH)]
        rng.shuffle(cut)
        for part in cut:
            yield [row for rows in part for row in rows]


def start_from(policy: LlamaForCausalLM, codec: Codec) -> LlamaForSequenceClassification:
    """A one-logit classifier with the policy's embeddings, first layers and final norm."""
    config = make_config(codec, LAYERS)
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)  # type: ignore[no-untyped-call]
    own = model.model.state_dict()
    model.model.load_state_dict({name: policy.model.state_dict()[name] for name in own})
    torch.nn.init.normal_(model.score.weight, std=0.02)
    return model


def train_phase(model: LlamaForSequenceClassification, codec: Codec, phase: Phase, *, prefixes: bool) -> None:
    """Train for one phase, in place."""
    torch.manual_seed(phase.seed)
    model.train()
    optimizer, log, rng = make_optimizer(model, phase.rate), Log(phase.steps), random.Random(phase.seed)
    source = batches(codec, rng, CUTS if prefixes else 0, phase.twins)
    for step in range(phase.steps):
        rows = next(source)
        # Entered per step: autocast that is entered once keeps stale bf16 copies of the weights.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = scores(model, rows, codec.pad, codec.end)
        loss, accuracy = loss_of(found, rows, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        update(model, optimizer, phase.rate * rate_at(step, phase.steps, warm_up=phase.warm_up))
        log.add(step, loss=loss.item(), accuracy=accuracy)


def train(
    folder: Path, start: Path, phase: Phase, *, from_policy: bool, threads: int = 1, prefixes: bool = True
) -> None:
    """Train a phase: the first starts from a policy's folder, the second from the first's folder."""
    torch.set_num_threads(threads)
    codec = Codec.load(start)
    if from_policy:
        torch.manual_seed(phase.seed)
        model = start_from(LlamaForCausalLM.from_pretrained(str(start), dtype=torch.float32), codec)
    else:
        model = LlamaForSequenceClassification.from_pretrained(str(start), dtype=torch.float32)
    train_phase(model, codec, phase, prefixes=prefixes)
    save_model(model, folder)
    codec.save(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("start", type=Path, help="folder of the policy, or of the first phase's model")
    parser.add_argument("--phase", choices=("first", "second"), default="first")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--final-only", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="another draw of data and noise; 0 is the shipped one")
    chosen = parser.parse_args()
    plan = FIRST if chosen.phase == "first" else SECOND
    plan = replace(plan, seed=plan.seed + 1000 * chosen.seed)
    train(
        chosen.folder,
        chosen.start,
        plan if chosen.steps is None else replace(plan, steps=chosen.steps),
        from_policy=chosen.phase == "first",
        threads=chosen.threads,
        prefixes=not chosen.final_only,
    )
