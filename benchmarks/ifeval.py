"""IFEval on SmolLM2-135M-Instruct, its rules as the reward: the methods of the search at equal tokens.

    python -m benchmarks.ifeval ifeval.jsonl [--n 100] [--out build/ifeval]

Runs ``darwin-align eval ifeval`` with the policy of the small pair (``make .venv/.small``), on the first ``--n``
prompts of the file, and keeps what that found as ``benchmarks/results/ifeval.json``. An interrupted run goes on when
it is started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.held_out import RESULTS
from benchmarks.prompts import keep
from benchmarks.quality import table

METHODS = ("sample", "best_of_n", "sample_replace", "darwin")
SETTINGS = ("max_tokens=192", "replacement_period=24")
TOKENS = 960
"""That a search may decode: five answers of full length."""


def markdown(found: Mapping[str, Any], *, short: bool = False) -> str:
    """The table as the documentation shows it, shares in percent; the README's is ``short``."""
    sizes = found["group_sizes"]
    names = {"broken": "a beginning can break", "kept": "can fulfil", "end": "whole answer decides"}
    heads = ["method", "prompts followed", "less best_of_n", "instructions followed"]
    groups = {} if short else {f"{name} ({sizes[group]})": group for group, name in names.items()}
    rows = [
        [
            *_cells(one),
            *(f"{100 * one['groups'][group]:.1f}" for group in groups.values()),
            f"{one['decoded_tokens']:,.0f}",
        ]
        for one in found["methods"]
    ]
    return table([*heads, *groups, "decoded tokens"], rows)


def _cells(one: Mapping[str, Any]) -> list[str]:
    less = one["differences"].get("best_of_n", {}).get("prompt_strict")
    shown = "" if less is None else f"{100 * less['mean']:+.1f} [{100 * less['low']:.1f}, {100 * less['high']:.1f}]"
    return [one["label"], f"{100 * one['prompt_strict']:.1f}", shown, f"{100 * one['instruction_strict']:.1f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and keep the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", type=Path, metavar="IFEVAL.jsonl")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--concurrency", type=int, default=2, help="prompts side by side (default: 2)")
    parser.add_argument("--set", action="append", help=f"settings of all methods (default: {' '.join(SETTINGS)})")
    parser.add_argument("--out", type=Path, default=Path("build/ifeval"))
    parser.add_argument("--results", type=Path, default=RESULTS / "ifeval.json")
    chosen = parser.parse_args(arguments)
    given = chosen.set or list(SETTINGS)
    options = ["--pair", "small", "--threads", str(chosen.threads), "--limit", str(chosen.n)]
    options += ["--tokens", str(chosen.tokens), "--concurrency", str(chosen.concurrency)]
    settings = [part for setting in given for part in ("--set", setting)]
    against = ["--against", "best_of_n", "--out", str(chosen.out)]
    line = ["eval", "ifeval", str(chosen.file), *METHODS, *options, *settings, *against]
    keep(chosen.results, line, chosen.out, settings=given, threads=chosen.threads)


if __name__ == "__main__":
    main()
