"""Is DARWIN's answer better than a plain sample, by the gold rule that the search never sees?

The reward is higher by construction: the search keeps its best. The gold is not. Runs every held-out instruction of the
embedded world once and counts on how many the answer's gold is higher than, equal to and lower than the gold of the
first response, a plain sample of the same instruction.

    python -m benchmarks.held_out [--preset darwin] [--n 100] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from time import perf_counter, process_time

import numpy as np
import torch
from scipy.stats import binomtest, bootstrap

from darwin_align import SearchConfig, __version__
from darwin_align.pocket import gold, held_out
from darwin_align.pocket.pair import pocket_search

RESULTS = Path(__file__).parent / "results"


def measure(preset: str, n: int, seed: int) -> dict[str, object]:
    """Search all instructions one after another and compare with their first responses."""
    torch.set_num_threads(1)
    search = pocket_search(SearchConfig.preset(preset))
    search.invoke("How do I brew green tea?", seed=seed)  # loading and first-call costs stay out of the times
    differences, rewards, tokens, wall, cpu = [], [], [], [], []
    for instruction in held_out(n):
        clock, processor = perf_counter(), process_time()
        result = search.invoke(instruction, seed=seed)
        wall.append(perf_counter() - clock)
        cpu.append(process_time() - processor)
        differences.append(gold(instruction, result.text).total - gold(instruction, result.first_response.text).total)
        rewards.append((result.reward or 0.0) - (result.first_response.reward or 0.0))
        tokens.append(result.usage.decoded_tokens)
    counts = {
        "higher": sum(d > 0 for d in differences),
        "equal": sum(d == 0 for d in differences),
        "lower": sum(d < 0 for d in differences),
    }
    return {
        "preset": preset,
        "instructions": n,
        "seed": seed,
        **counts,
        "higher_95": list(binomtest(counts["higher"], n).proportion_ci(method="wilson")),
        "gold_difference": fmean(differences),
        "gold_difference_95": interval_95(differences),
        "reward_difference": fmean(rewards),
        "decoded_tokens": fmean(tokens),
        "median_seconds": median(wall),
        "median_cpu_seconds": median(cpu),
        "version": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, one thread",
    }


def interval_95(differences: Sequence[float]) -> list[float]:
    """Bootstrap interval of a mean."""
    interval = bootstrap((np.array(differences),), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return [float(interval.low), float(interval.high)]


def table(figures: dict[str, object]) -> str:
    """The figures as lines of text."""
    return "\n".join(f"{name:22} {_shown(value)}" for name, value in figures.items())


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{part:.2f}" for part in value) + "]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--preset", default="darwin")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    figures = measure(chosen.preset, chosen.n, chosen.seed)
    print(table(figures))
    RESULTS.mkdir(exist_ok=True)
    name = f"held_out_{chosen.preset}.json"
    (RESULTS / name).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
