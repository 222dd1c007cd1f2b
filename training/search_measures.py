"""What the search makes of the pair, by the library's own search: gold of several methods on the held-out requests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from darwin_align.core import SearchConfig
from darwin_align.pocket import gold, held_out
from darwin_align.pocket.pair import pocket_search
from darwin_align.search import DarwinSearch

METHODS: Mapping[str, Mapping[str, Any]] = {
    "sample": {"preset": "sample"},
    "best_of_5": {"preset": "best_of_n", "mutations": 4},
    "best_of_15": {"preset": "best_of_n", "mutations": 14},
    "best_of_22": {"preset": "best_of_n", "mutations": 21},
    "mutate_best_of_n_3": {"preset": "mutate_best_of_n"},
    "darwin_3": {"preset": "darwin"},
}
"""The first response counts: best_of_n with 4 mutations is best of 5. Best of 22 decodes as much as darwin_3."""
ABLATED = ("mutate_best_of_n_3", "darwin_3")
"""Run once more under the final-only reward model."""
COMPARED = (
    ("best_of_5", "sample"),
    ("best_of_15", "best_of_5"),
    ("darwin_3", "best_of_15"),
    ("darwin_3", "best_of_22"),
    ("darwin_3", "mutate_best_of_n_3"),
    ("mutate_best_of_n_3", "best_of_15"),
    ("darwin_3", "sample"),
)
RESAMPLES, SEED = 10_000, 0


def _preset(settings: Mapping[str, Any]) -> SearchConfig:
    rest = {name: value for name, value in settings.items() if name != "preset"}
    return SearchConfig.preset(str(settings["preset"]), **rest)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Bootstrap percentile interval (95%) of a mean of paired differences."""
    values, rng = np.asarray(differences), np.random.default_rng(SEED)
    means = rng.choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def run_method(search: DarwinSearch, instructions: Sequence[str]) -> dict[str, list[float]]:
    """Search every request once, each under its own seed."""
    found: dict[str, list[float]] = {"gold": [], "reward": [], "tokens": [], "reward tokens": [], "seconds": []}
    for seed, text in enumerate(instructions):
        began = time.perf_counter()
        result = search.invoke(text, seed=seed)
        found["seconds"].append(time.perf_counter() - began)
        found["gold"].append(gold(text, result.text).total)
        found["reward"].append(result.reward or 0.0)
        found["tokens"].append(result.usage.decoded_tokens)
        found["reward tokens"].append(result.usage.reward_tokens)
    return found


def search_figures(policy: Path, reward: Path, final_only: Path | None = None, count: int = 100) -> dict[str, float]:
    """Means of every method, and paired differences of gold with their 95% intervals."""
    instructions, runs = held_out(count), dict[str, dict[str, list[float]]]()
    for name, settings in METHODS.items():
        runs[name] = run_method(pocket_search(_preset(settings), policy=policy, reward=reward), instructions)
    pairs = list(COMPARED)
    if final_only is not None:
        for name in ABLATED:
            runs[f"final-only {name}"] = run_method(
                pocket_search(_preset(METHODS[name]), policy=policy, reward=final_only), instructions
            )
            pairs.append((name, f"final-only {name}"))
        pairs.append(("final-only darwin_3", "final-only mutate_best_of_n_3"))
    return summary(runs, pairs)


def summary(runs: Mapping[str, Mapping[str, list[float]]], pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Means of what every method gave and spent, and the differences of the given pairs."""
    figures = {
        f"search {what}, {name}": fmean(values) for name, found in runs.items() for what, values in found.items()
    }
    for one, other in pairs:
        differences = [a - b for a, b in zip(runs[one]["gold"], runs[other]["gold"], strict=True)]
        low, high = interval(differences)
        figures |= {f"{one} - {other}": fmean(differences)}
        figures |= {f"{one} - {other}, low": low, f"{one} - {other}, high": high}
    return figures
