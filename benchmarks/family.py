"""What every member of the family is worth and costs on the embedded pair: gold, tokens decoded and read, seconds.

    python -m benchmarks.family [--n 100] [--seed 0]

Searches one after another, on one thread; then the gold of ``darwin`` less that of each other, paired. Writes
``benchmarks/results/family.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
from statistics import fmean, median
from time import perf_counter, process_time
from typing import Any

import torch

from benchmarks.held_out import RESULTS, interval_95
from darwin_align import SearchConfig, SearchResult, __version__
from darwin_align.pocket import gold, held_out
from darwin_align.pocket.pair import pocket_search

FAMILY: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("sample", "sample", {}),
    ("best of 5", "best_of_n", {"mutations": 4}),
    ("best of 15", "best_of_n", {"mutations": 14}),
    ("best of 22", "best_of_n", {"mutations": 21}),
    ("mutate_best_of_n", "mutate_best_of_n", {}),
    ("darwin", "darwin", {}),
)


def measure(preset: str, changes: dict[str, Any], n: int, seed: int) -> tuple[dict[str, float], list[float]]:
    """Run one member over held-out instructions: means, medians of seconds, and the gold of every answer."""
    search = pocket_search(SearchConfig.preset(preset, **changes))
    search.invoke("How do I brew green tea?", seed=seed)  # first-call costs stay out of the times
    results: list[SearchResult] = []
    wall, cpu = [], []
    for instruction in held_out(n):
        clock, processor = perf_counter(), process_time()
        results.append(search.invoke(instruction, seed=seed))
        wall.append(perf_counter() - clock)
        cpu.append(process_time() - processor)
    golds = [gold(i, result.text).total for i, result in zip(held_out(n), results, strict=True)]
    figures = {
        "gold": fmean(golds),
        "reward": fmean(result.reward or 0.0 for result in results),
        "decoded_tokens": fmean(result.usage.decoded_tokens for result in results),
        "prefilled_tokens": fmean(result.usage.prefilled_tokens for result in results),
        "reward_tokens": fmean(result.usage.reward_tokens for result in results),
        "median_seconds": median(wall),
        "median_cpu_seconds": median(cpu),
    }
    return figures, golds


def less(one: list[float], other: list[float]) -> dict[str, Any]:
    """Mean difference of pairs and its 95% interval."""
    differences = [mine - its for mine, its in zip(one, other, strict=True)]
    return {"mean": fmean(differences), "interval_95": interval_95(differences)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows, golds = {}, {}
    for name, preset, changes in FAMILY:
        rows[name], golds[name] = measure(preset, changes, chosen.n, chosen.seed)
        if len(rows) == 1:
            print(f"{'':18}" + "".join(f"{column:>20}" for column in rows[name]))
        print(f"{name:18}" + "".join(f"{value:20.2f}" for value in rows[name].values()), flush=True)
    differences = {name: less(golds["darwin"], golds[name]) for name in rows if name != "darwin"}
    for name, difference in differences.items():
        low, high = difference["interval_95"]
        print(f"gold of darwin - {name}: {difference['mean']:+.2f} [{low:.2f}, {high:.2f}]")
    about = {"instructions": chosen.n, "seed": chosen.seed, "version": __version__, "torch": torch.__version__}
    figures = {**about, "machine": f"{platform.machine()}, one thread", "rows": rows}
    figures["gold_of_darwin_less"] = differences
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "family.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
