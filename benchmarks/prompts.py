"""What the methods are worth on the small pair: real prompts, a reward of our own, and a second one as gold.

    python -m benchmarks.prompts [--n 100] [--out build/prompts]

Needs the judged answers that the pair was trained with (``DARWIN_ALIGN_JUDGED``) and the wheel of the small pair. It
takes the recorded pool's prompts that neither of the two reward models was trained on, writes them to a file, runs
``darwin-align eval prompts`` on them, and keeps what that found as ``benchmarks/results/prompts.json``. An interrupted
run goes on when it is started again; a larger ``--n`` adds prompts to those that are there, in an order drawn by a
fixed seed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.held_out import RESULTS
from benchmarks.quality import table
from darwin_align import __version__
from darwin_align.cli import main as command
from darwin_align.core.json_types import Json
from training.small import data

GOLD = Path("training/small/gold.safetensors")
METHODS = (
    "sample",
    "best of 5: best_of_n",
    "best of 13: best_of_n mutations=12",
    "sample and replace, 5: sample_replace",
    "guidance alone, 5: mutate_best_of_n cycles=1",
    "darwin, N=1: darwin cycles=1",
    "darwin, N=3: darwin cycles=3",
)
"""With four mutations a cycle: five answers, or thirteen with those of three cycles, the plain sample included."""
SETTINGS = ("max_tokens=96", "replacement_period=24")
AGAINST = ("best of 5", "best of 13")


def write_prompts(file: Path) -> Path:
    """The pool's prompts that were held out from both reward models."""
    prompts = [group.prompt for group in data.held_out_groups() if group.source == "pool"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    return file


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and keep the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, help="other prompts (default: the pool's held-out ones)")
    parser.add_argument("--set", action="append", help=f"settings of all methods (default: {' '.join(SETTINGS)})")
    parser.add_argument("--out", type=Path, default=Path("build/prompts"))
    parser.add_argument("--results", type=Path, default=RESULTS / "prompts.json")
    chosen = parser.parse_args(arguments)
    file = chosen.file or write_prompts(chosen.out / "held_out.jsonl")
    given = chosen.set or list(SETTINGS)
    options = [
        "--threads",
        str(chosen.threads),
        "--pair",
        "small",
        "--gold",
        str(GOLD),
        "--n",
        str(chosen.n),
        "--out",
        str(chosen.out),
    ]
    settings = [part for setting in given for part in ("--set", setting)]
    against = [part for label in AGAINST for part in ("--against", label)]
    line = ["eval", "prompts", str(file), *METHODS, *options, *settings, *against]
    keep(chosen.results, line, chosen.out, settings=given, threads=chosen.threads)


def markdown(found: Mapping[str, Any], *, short: bool = False) -> str:
    """The table as the documentation shows it; the README's is ``short``."""
    heads = {
        "gold": "gold",
        "tokens": "less best of n, at equal tokens",
        "seconds": "at equal seconds",
        "gold_at_length": "gold at equal length",
        "reward": "reward",
        "words": "words",
        "decoded_tokens": "decoded tokens",
        "reward_tokens": "read by the reward model",
        "took": "seconds",
    }
    shown = ["gold", "tokens", "seconds", "decoded_tokens", "took"] if short else list(heads)
    rows = [[one["label"], *(_cells(one)[name] for name in shown)] for one in found["methods"]]
    return table(["method", *(heads[name] for name in shown)], rows)


def _cells(one: Mapping[str, Any]) -> dict[str, str]:
    means = {name: estimate["mean"] for name, estimate in one["means"].items()}
    return {
        "gold": f"{means['gold']:.2f}",
        "tokens": _signed(one["at_equal"].get("decoded_tokens")),
        "seconds": _signed(one["at_equal"].get("seconds")),
        "gold_at_length": f"{means['gold_at_length']:.2f}",
        "reward": f"{means['reward']:.2f}",
        "words": f"{means['words']:.0f}",
        "decoded_tokens": f"{means['decoded_tokens']:,.0f}",
        "reward_tokens": f"{means['reward_tokens']:,.0f}",
        "took": f"{means['seconds']:.1f}",
    }


def _signed(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['mean']:+.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def keep(results: Path, line: Sequence[str], out: Path, **about: Json) -> None:
    """Run ``darwin-align`` and keep its results, with the version and the machine."""
    if code := command(line):
        raise SystemExit(code)
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    machine = {"version": __version__, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    text = json.dumps({**machine, **about, **found}, indent=2, ensure_ascii=False)
    results.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
