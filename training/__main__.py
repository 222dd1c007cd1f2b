"""From nothing to the shipped pair: ``python -m training``. Fixed steps and seeds."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from training import gates
from training.cards import write_cards

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "darwin_align" / "pocket"
ABLATION = ROOT / "training" / "ablation" / "reward_final_only"


def _start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    # Two trainings share two cores: idle threads must sleep, or they take the other's time.
    surroundings = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", f"training.{module}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=surroundings)  # noqa: S603


def _finish(*running: subprocess.Popen[bytes]) -> None:
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("a training failed: see above")


def _ship(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)


def make(work: Path, steps: int | None) -> None:
    """Train policy, then both reward models side by side; measure; ship what passed."""
    few = [] if steps is None else ["--steps", str(steps)]
    policy, reward, final_only = work / "policy", work / "reward", work / "reward_final_only"
    began = time.monotonic()

    def report(what: str) -> None:
        print(f"== {what} after {(time.monotonic() - began) / 60:.1f} minutes", flush=True)

    def first(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}_first")

    _finish(_start("train_policy", str(first(policy)), "--threads", "2", *few))
    report("policy trained, first phase")
    # The reward models start from the first phase: the second one's tool calls would teach them nothing.
    _finish(
        _start("train_reward", str(first(reward)), str(first(policy)), *few),
        _start("train_reward", str(first(final_only)), str(first(policy)), "--final-only", *few),
    )
    report("reward models trained, first phase")
    last = ("--phase", "second", *few)
    _finish(
        _start("train_reward", str(reward), str(first(reward)), *last),
        _start("train_reward", str(final_only), str(first(final_only)), "--final-only", *last),
    )
    report("reward models trained")
    _finish(_start("train_policy", str(policy), "--start", str(first(policy)), "--threads", "2", *few))
    report("policy trained")
    metrics = work / "metrics.json" if few else gates.METRICS
    good = gates.run(policy, reward, final_only, metrics, search=not few)
    report("gates measured")
    if few:
        return
    if not good:
        raise SystemExit(f"a gate was missed: nothing shipped, the models are in {work}")
    for source, target in ((policy, SHIPPED / "policy"), (reward, SHIPPED / "reward"), (final_only, ABLATION)):
        _ship(source, target)
    write_cards(metrics, SHIPPED, ABLATION)
    report("shipped")
    _finish(_start("clauses"))
    report("clauses learned")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "pair", help="folder for what is not yet shipped")
    parser.add_argument("--steps", type=int, default=None, help="a few steps each, nothing shipped: a smoke test")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    make(chosen.work.resolve(), chosen.steps)
