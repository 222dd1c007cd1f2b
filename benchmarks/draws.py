"""What drawing a token costs at wide vocabularies: ``python -m benchmarks.draws`` prints milliseconds a step.

The baseline makes noise for every token and sorts the vocabulary for top-p, by transformers' own warper; both draw the
same tokens. The least of several tries counts, for other work may share the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from darwin_align.backends.local.noise import gumbel_noise, seed_keys
from darwin_align.backends.local.sampling import Sampler, warpers
from darwin_align.core.types import Sampling

__all__ = ["main"]

ROWS, TRIES = 6, 8
SETTINGS = {
    "top_k=40": Sampling(temperature=0.7, top_k=40),
    "no top_k": Sampling(temperature=0.7, top_k=None),
    "top_p=0.95": Sampling(temperature=0.7, top_k=None, top_p=0.95),
}


def over_all_columns(sampling: Sampling, logits: Tensor, keys: Tensor) -> Tensor:
    """The baseline's tokens, (rows,)."""
    scores = logits
    for warper in warpers(sampling):
        scores = warper(None, scores)
    scores.log_softmax(dim=-1)
    return (scores + gumbel_noise(keys[:, None], torch.arange(scores.shape[-1]))).argmax(dim=-1)


def milliseconds(step: Callable[[], object]) -> float:
    """The least time of a step."""
    least = float("inf")
    for _ in range(TRIES):
        start = perf_counter()
        step()
        least = min(least, perf_counter() - start)
    return 1000 * least


def logits_like(kind: str, vocabulary: int) -> Tensor:
    """Logits of a model that is sure of a few tokens ("peaked"), or of none ("flat"): (rows, vocabulary)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, vocabulary, generator=generator)
    if kind == "peaked":
        logits[:, ::997] += 12 * torch.rand(ROWS, len(range(0, vocabulary, 997)), generator=generator)
    return logits


def main() -> None:
    """Measure and print."""
    keys = seed_keys(range(ROWS))
    print(f"{'vocabulary':>10}  {'logits':<7} {'sampling':<11} {'before':>8} {'now':>8}  ms for {ROWS} rows")
    for vocabulary in (152_000, 262_000):
        for kind in ("peaked", "flat"):
            logits = logits_like(kind, vocabulary)
            for name, sampling in SETTINGS.items():
                sampler = Sampler([sampling] * ROWS)
                before = milliseconds(lambda: over_all_columns(sampling, logits, keys))  # noqa: B023 - called at once
                now = milliseconds(lambda: sampler.draw(logits, keys))  # noqa: B023
                print(f"{vocabulary:>10}  {kind:<7} {name:<11} {before:>8.1f} {now:>8.1f}")


if __name__ == "__main__":
    main()
