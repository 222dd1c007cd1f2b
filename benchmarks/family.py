"""What every member of the family costs on the embedded pair: tokens decoded and read, and seconds.

    python -m benchmarks.family [--n 100] [--seed 0]

Searches one after another, on one thread. Writes ``benchmarks/results/family.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
from statistics import fmean, median
from time import perf_counter, process_time
from typing import Any

import torch

from benchmarks.held_out import RESULTS
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


def measure(preset: str, changes: dict[str, Any], n: int, seed: int) -> dict[str, float]:
    """Run one member over held-out instructions: means, and medians of seconds."""
    search = pocket_search(SearchConfig.preset(preset, **changes))
    search.invoke("How do I brew green tea?", seed=seed)  # first-call costs stay out of the times
    results: list[SearchResult] = []
    wall, cpu = [], []
    for instruction in held_out(n):
        clock, processor = perf_counter(), process_time()
        results.append(search.invoke(instruction, seed=seed))
        wall.append(perf_counter() - clock)
        cpu.append(process_time() - processor)
    return {
        "gold": fmean(gold(i, result.text).total for i, result in zip(held_out(n), results, strict=True)),
        "reward": fmean(result.reward or 0.0 for result in results),
        "decoded_tokens": fmean(result.usage.decoded_tokens for result in results),
        "prefilled_tokens": fmean(result.usage.prefilled_tokens for result in results),
        "reward_tokens": fmean(result.usage.reward_tokens for result in results),
        "median_seconds": median(wall),
        "median_cpu_seconds": median(cpu),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, preset, changes in FAMILY:
        rows[name] = measure(preset, changes, chosen.n, chosen.seed)
        if len(rows) == 1:
            print(f"{'':18}" + "".join(f"{column:>20}" for column in rows[name]))
        print(f"{name:18}" + "".join(f"{value:20.2f}" for value in rows[name].values()), flush=True)
    about = {"instructions": chosen.n, "seed": chosen.seed, "version": __version__, "torch": torch.__version__}
    figures = {**about, "machine": f"{platform.machine()}, one thread", "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "family.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
