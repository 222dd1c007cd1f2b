"""The optimiser, schedule and log that both models share."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Schedule:
    """Steps under one learning rate curve and one seed."""

    steps: int
    rate: float
    warm_up: int
    seed: int


def make_optimizer(model: torch.nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def rate_at(step: int, steps: int, *, warm_up: int, floor: float = 0.03) -> float:
    """Linear warm-up, then a cosine down to ``floor`` of the peak."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def update(model: torch.nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Clip, step, and clear the gradients."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class Log:
    """Prints a running mean of named figures every ``every`` steps."""

    def __init__(self, steps: int, every: int = 50) -> None:
        self.steps, self.every, self.began = steps, every, time.monotonic()
        self.sums: dict[str, float] = {}

    def add(self, step: int, **figures: float) -> None:
        """Take the figures of one step."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            count = (step % self.every) + 1
            means = " ".join(f"{name} {value / count:.4f}" for name, value in self.sums.items())
            print(f"step {step + 1}/{self.steps} {means} {time.monotonic() - self.began:.0f}s", flush=True)
            self.sums = {}


def batches_of(pool: list[list[int]], size: int) -> Iterator[list[list[int]]]:
    """Cut a pool, sorted by length, into batches."""
    ordered = sorted(pool, key=len)
    for start in range(0, len(ordered) - size + 1, size):
        yield ordered[start : start + size]


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    """Right-pad rows of ids, shape (rows, longest, rounded up).

    Few different widths keep torch's cache of compiled matrix products, and so the memory, small.
    """
    width = -max(map(len, rows)) // 16 * -16
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])
