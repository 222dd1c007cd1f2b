"""How often the embedded policy calls the right tool with the right arguments, and what constraints add to that.

Requests that training never saw, for the household's tools and for tools whose names were made up for the occasion.
Answers are free, or calls are kept to their tools' schemas (as a local policy does by itself), or their values
are grounded as well: copied from the conversation. One sample, one greedy answer, or a search with a ToolCallScorer.

    python -m benchmarks.tools [--n 50] [--seed 0]

Runs on one thread and writes ``benchmarks/results/tools.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from time import process_time
from typing import Any

import torch
from scipy.stats import binomtest

from benchmarks.held_out import RESULTS
from darwin_align import DarwinSearch, Request, Sampling, SearchConfig, __version__
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.core.seeds import derive
from darwin_align.operators import ToolCallScorer, WeightedSum
from darwin_align.operators.policy import Policy, Row
from darwin_align.pocket import policy_path, reward_path
from darwin_align.pocket.pair import pocket_search
from training import measures
from training.conversations import turn
from training.measures import ToolCase

COLUMNS = ("free", "schema", "grounded")
"""Unconstrained, constrained to the tools' schemas, and with grounded values besides."""
GREEDY = Sampling(temperature=0)
SEARCH = SearchConfig.preset("darwin", max_new_tokens=96)

Answers = Callable[[Sequence[ToolCase], str, int], list[str]]
"""The answers to these cases in a column, with a seed."""


def decoded(policy: LocalPolicy, sampling: Sampling) -> Answers:
    """Plain answers of the policy."""
    pair = measures.load(policy_path(), None)

    def answers(cases: Sequence[ToolCase], column: str, seed: int) -> list[str]:
        if column == "free":
            prompts = [([turn("user", case.words)], case.tools) for case in cases]
            return pair.generate(prompts, seed=seed, temperature=sampling.temperature)
        requests = [_request(case, sampling, grounded=column == "grounded") for case in cases]
        rows = [Row(request, measures.MAX_NEW, derive(seed, i)) for i, request in enumerate(requests)]
        return [continuation.text for continuation in policy.generate(rows)]

    return answers


def searched(search: DarwinSearch) -> Answers:
    """Answers of a search; it has no unconstrained column."""

    def answers(cases: Sequence[ToolCase], column: str, seed: int) -> list[str]:
        requests = [_request(case, search.sampling, grounded=column == "grounded") for case in cases]
        return [search.invoke(request, seed=seed).text for request in requests]

    return answers


def _request(case: ToolCase, sampling: Sampling, *, grounded: bool) -> Request:
    return Request.of(case.words, tools=case.tools, sampling=sampling, grounded=grounded)


def judged(policy: Policy, cases: Sequence[ToolCase], answers: Sequence[str]) -> dict[str, float]:
    """Shares of answers that make one call of the right tool, and of those whose arguments are all right too."""
    found = [
        [(call.name, dict(call.arguments)) for call in policy.tool_syntax.parse(text, case.tools, finished=True).calls]
        for case, text in zip(cases, answers, strict=True)
    ]
    tool = sum([name for name, _ in calls] == [case.name] for case, calls in zip(cases, found, strict=True))
    right = sum(calls == [(case.name, case.arguments)] for case, calls in zip(cases, found, strict=True))
    interval = binomtest(right, len(cases)).proportion_ci(method="wilson")
    return {
        "right_tool": tool / len(cases),
        "all_right": right / len(cases),
        "all_right_low": float(interval.low),
        "all_right_high": float(interval.high),
    }


def measure(n: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """All rows, by tools and method; prints each as it is ready."""
    policy = LocalPolicy.from_pretrained(policy_path(), device="cpu", threads=1)
    scorers = (LocalScorer.from_pretrained(reward_path(), device="cpu", threads=1), ToolCallScorer(policy=policy))
    search = pocket_search(SEARCH, scorer=WeightedSum(scorers=scorers, weights=(1.0, 10.0)))
    methods: dict[str, tuple[Answers, tuple[str, ...]]] = {
        "sampled": (decoded(policy, Sampling()), COLUMNS),
        "greedy": (decoded(policy, GREEDY), COLUMNS),
        "darwin": (searched(search), COLUMNS[1:]),
    }
    print(f"{'':20}" + "".join(f"{column:>22}{'':6}" for column in COLUMNS))
    print(f"{'':20}" + f"{'tool':>9}{'all':>6}{'':13}" * len(COLUMNS), flush=True)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for label, made_up in (("household", False), ("invented", True)):
        cases = measures.tool_cases(n, made_up=made_up)
        for method, (answers, columns) in methods.items():
            name = f"{label}, {method}"
            rows[name] = {}
            for column in columns:
                clock = process_time()
                figures = judged(policy, cases, answers(cases, column, seed))
                rows[name][column] = {**figures, "cpu_seconds": process_time() - clock}
            print(f"{name:20}" + "".join(_shown(rows[name].get(column)) for column in COLUMNS), flush=True)
    return rows


def _shown(figures: dict[str, float] | None) -> str:
    if figures is None:
        return f"{'-':>9}{'-':>6}{'':13}"
    between = f"[{figures['all_right_low']:.2f}, {figures['all_right_high']:.2f}]"
    return f"{figures['right_tool']:9.2f}{figures['all_right']:6.2f} {between:12}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    clock = process_time()
    figures: dict[str, Any] = {
        "requests": chosen.n,
        "seed": chosen.seed,
        "rows": measure(chosen.n, chosen.seed),
        "cpu_seconds": process_time() - clock,
        "machine": f"{platform.machine()}, one thread",
        "version": __version__,
        "versions": {name: version(name) for name in ("torch", "transformers", "llguidance")},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tools.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
