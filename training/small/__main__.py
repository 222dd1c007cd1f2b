"""The reward adapter of the small pair, from judged answers to the shipped file.

    python -m training.small states    # the frozen layers' states of all answers; goes on where it was killed
    python -m training.small train     # both adapters: the shipped one and the gold of experiments
    python -m training.small gates     # held-out figures: prints a table, writes metrics.json
    python -m training.small card      # the model card from metrics.json

Without a command all of them, in this order.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from darwin_align.small import ADAPTER
from darwin_align.small.adapter import read_adapter, write_adapter
from training.small import card, data, gates
from training.small.export import adapter_of, tower_of
from training.small.states import BOTTOM, TOP, Base, Cache, Known
from training.small.train import Plan, of_split, train

ROOT = Path(__file__).parents[2]
ADAPTERS = {"reward": ADAPTER, "gold": Path(__file__).parent / "gold.safetensors"}
"""The second one is for measuring alone: no search may see it."""
PLANS = {"reward": Plan(seed=1), "gold": Plan(seed=2)}
COMMANDS = ("states", "train", "gates", "card")


def cache_states(cache: Cache, seconds: float | None) -> None:
    """The training prompts' first, then the held-out ones'."""
    cache.fill([*data.training_groups(), *data.held_out_groups()], seconds=seconds)


def train_adapters(base: Base, cache: Cache, work: Path, only: str | None = None) -> None:
    """Both adapters on disjoint halves of the training prompts; those that exist in the work folder are kept.

    Every second prompt of the other half shows how a plan does; no weight and no epoch is chosen by them.
    """
    groups: list[Known] = []
    for name, plan in PLANS.items():
        path = work / f"{name}.safetensors"
        if path.is_file() or only not in (None, name):
            continue
        groups = groups or cache.load(data.training_groups())
        halves = [of_split(groups, split) for split in ("reward", "gold")]
        mine, others = halves if name == "reward" else halves[::-1]
        tower, lines = train(base, mine, others[::2], plan, log=name)
        write_adapter(adapter_of(tower), path)
        path.with_suffix(".log").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(base: Base, cache: Cache, work: Path) -> None:
    """All held-out figures of both adapters. They are shipped whatever comes out, for a missed gate is stated."""
    groups = cache.load(data.held_out_groups())
    found = {}
    for name, path in ADAPTERS.items():
        adapter = read_adapter(work / f"{name}.safetensors")
        found[name] = gates.judged(tower_of(adapter, base), groups)
        write_adapter(adapter, path)
    about = {
        "agreement": round(gates.agreement(found["reward"], found["gold"]), 4),
        "held_out": {
            source: sum(known.group.source == source for known in groups)
            for source in sorted({g.group.source for g in groups})
        },
        "layers": [BOTTOM, TOP],
        "plans": {name: asdict(plan) for name, plan in PLANS.items()},
    }
    gates.report({name: gates.figures(rows) for name, rows in found.items()}, about)


def main() -> None:
    """Run the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(COMMANDS))
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "small", help="folder for states, about 1 GB")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=None, help="end the step `states` after so many")
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.steps) - set(COMMANDS)):
        parser.error(f"there is no step {unknown[0]!r}: {', '.join(COMMANDS)}")
    torch.set_num_threads(chosen.threads)
    base, work = Base(), chosen.work
    cache = Cache(work / "states", base)
    run = {
        "states": lambda: cache_states(cache, chosen.seconds),
        "train": lambda: train_adapters(base, cache, work),
        "gates": lambda: measure(base, cache, work),
        "card": lambda: card.write(json.loads(gates.METRICS.read_text(encoding="utf-8"))),
    }
    for step in chosen.steps or COMMANDS:
        began = time.monotonic()
        run[step]()
        print(f"== {step}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
