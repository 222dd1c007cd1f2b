"""Does ``learned_clauses`` beat the paper's family where it uses no more tokens and no more seconds?

    python -m benchmarks.learned_clauses MODELS [--n 100] [--seeds 0] [--timed 20] [--out results/learned_clauses]

The clauses were learned on dev instructions under the shipped reward model (``training/clauses.py``) and frozen. Here
other reward models choose, trained from other seeds, and another policy answers: ``MODELS`` holds the folders
``reward_1``, ``reward_2`` and ``policy_1``, made by ``training/train_reward.py`` and ``training/train_policy.py`` with
``--seed``. Every baseline decodes at least as many tokens (but for darwin's and mutate_best_of_n's own draws, to a few
in a hundred); which take at least as many seconds is in the table. ``unlearned`` adds clauses of the same world drawn
blindly. Prints a table a condition and writes ``benchmarks/results/learned_clauses.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.held_out import RESULTS
from benchmarks.quality import measured
from darwin_align import __version__
from darwin_align.core import Clause, write_clauses
from darwin_align.evaluation.world import WorldMethod
from darwin_align.evaluation.world_page import plain, table
from darwin_align.pocket.world import CLAUSES

OURS = "learned_clauses"
CONDITIONS = {
    "reward model of seed 1": " reward={models}/reward_1",
    "policy of seed 1, reward model of seed 1": " policy={models}/policy_1 reward={models}/reward_1",
    "reward model of seed 2": " reward={models}/reward_2",
}
BASELINES = {
    "darwin, 3 cycles": "darwin",
    "mutate_best_of_n, 3 cycles": "mutate_best_of_n",
    "best_of_n, 22": "best_of_n mutations=21",
    "best_of_n, 60": "best_of_n mutations=59",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("models", type=Path, help="folder of reward_1, reward_2 and policy_1")
    parser.add_argument("--n", type=int, default=100, help="held-out instructions (default: 100)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--timed", type=int, default=20, help="instructions that seconds are taken from (default: 20)")
    parser.add_argument("--out", type=Path, default=Path("results/learned_clauses"))
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen.out.mkdir(parents=True, exist_ok=True)
    unlearned = every_clause(chosen.out / "every_clause.json")
    found: dict[str, Any] = {}
    for name, models in CONDITIONS.items():
        methods = methods_of(models.format(models=chosen.models), unlearned)
        result = measured(methods, chosen.out, chosen.n, chosen.seeds, timed=chosen.timed, against=list(BASELINES))
        print(f"\n{name}\n{table(result)}", flush=True)
        found[name] = plain(result)
    about = {"version": __version__, "torch": torch.__version__, "machine": f"{platform.machine()}, one thread"}
    data = {"about": "python -m benchmarks.learned_clauses MODELS", **about, "timed_instructions": chosen.timed}
    text = json.dumps({**data, "conditions": found}, indent=2, ensure_ascii=False)
    text = text.replace(f"{chosen.models}", "MODELS").replace(f"{unlearned}", "every_clause.json")
    (RESULTS / "learned_clauses.json").write_text(text + "\n", encoding="utf-8")


def every_clause(file: Path) -> Path:
    """All clauses of the world, good and bad, none worth more than another."""
    write_clauses(file, [Clause(text=text) for texts in CLAUSES.values() for text in texts])
    return file


def methods_of(models: str, unlearned: Path) -> list[WorldMethod]:
    """Ours, the baselines and the control, under these models."""
    texts = {OURS: OURS, **BASELINES, "unlearned": f"learned_clauses clauses={unlearned}"}
    return [WorldMethod.of(f"{label}: {text}{models}") for label, text in texts.items()]


if __name__ == "__main__":
    main()
