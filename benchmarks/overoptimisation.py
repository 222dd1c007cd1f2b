"""Where following the proxy further costs gold: reward models of three kinds, and one setting of the search at a time.

    python -m benchmarks.overoptimisation [--n 150] [--seeds 0 1 2] [--more 3 4 5] [--out results/overoptimisation]

- Gold against proxy along the width of ``best_of_n`` and the cycles of ``darwin``, for the shipped reward model, one
  that was trained on finished answers only, and a weak one that saw few preference pairs (trained here, in a minute).
- The guard on rewordings, on and off; the replacement period m, the survivors k, the beams of a mutation nb.
- How the best beams change from step to step (the appendix of arXiv 2406.15193).

One factor at a time. A row whose difference is undecided, its 95% interval holding 0, is searched again under the
seeds of ``--more``, and so is the row that it is compared with. Every search is kept in ``--out``. Prints tables as
Markdown and writes ``benchmarks/results/overoptimisation.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.held_out import RESULTS
from benchmarks.quality import table
from darwin_align import SearchConfig, __version__, trace
from darwin_align.evaluation.intervals import Estimate
from darwin_align.evaluation.world import VariantSummary, WorldMethod, measure, summary
from darwin_align.pocket import held_out, policy_path, reward_path
from darwin_align.pocket.pair import pocket_search
from darwin_align.traces import Dynamics
from training.measures import load, reward_figures, sampled_figures

FINAL_ONLY = Path("training/ablation/reward_final_only")
WEAK_STEPS = 60
"""Of 12 groups of replies each; the shipped model saw 3,500 steps."""
ACCURACIES = ("pair accuracy", "prefix pair accuracy", "own samples pair accuracy")
DYNAMICS = {"darwin": {}, "darwin, m = 48": {"replacement_period": 48}, "darwin, k = 1": {"survivors": 1}}


@dataclass(frozen=True)
class Series:
    """Settings that differ in one factor, in the order of a table."""

    title: str
    factor: str
    base: str
    """The value of the factor that the others are compared with."""
    texts: dict[str, str]
    """A method by the factor's value."""

    @property
    def methods(self) -> list[WorldMethod]:
        """Labelled by the factor's value."""
        return [WorldMethod.of(f"{value}: {text}") for value, text in self.texts.items()]


def series(weak: Path) -> list[Series]:
    """All that is measured."""
    models = {"shipped": "", "final-only": f" reward={FINAL_ONLY}", "weak": f" reward={weak}"}
    found = []
    for name, model in models.items():
        wide = {f"{n}": f"best_of_n mutations={n - 1}{model}" for n in (2, 5, 22, 44)}
        found.append(Series(f"best_of_n, {name} reward model", "n", "5", wide))
        deep = {f"{n}": f"darwin cycles={n}{model}" for n in (1, 3, 5)}
        found.append(Series(f"darwin, {name} reward model", "cycles", "3", deep))
    for name in ("shipped", "weak"):
        both = {"on": f"darwin cycles=5{models[name]}", "off": f"darwin cycles=5 guard=off{models[name]}"}
        found.append(Series(f"Guard on rewordings, darwin with 5 cycles, {name} reward model", "guard", "on", both))
    for title, factor, name, base, others in (
        ("Replacement period", "m", "replacement_period", 24, (12, 48, 96)),
        ("Survivors", "k", "survivors", 3, (1, 2, 4)),
        ("Beams of a mutation", "nb", "beams_per_mutation", 1, (2,)),
    ):
        values = {f"{v}": "darwin cycles=3" + (f" {name}={v}" if v != base else "") for v in sorted((base, *others))}
        found.append(Series(f"{title}, darwin with 3 cycles", factor, f"{base}", values))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--n", type=int, default=150, help="held-out instructions (default: 150)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--more", type=int, nargs="*", default=[3, 4, 5], help="seeds for undecided rows")
    parser.add_argument("--out", type=Path, default=Path("results/overoptimisation"))
    parser.add_argument("--results", type=Path, default=RESULTS / "overoptimisation.json")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    weak = weak_reward_model(chosen.out / "weak")
    models = {"shipped": reward_path(), "final-only": FINAL_ONLY, "weak": weak}
    accuracies = {name: accuracy(folder) for name, folder in models.items()}
    print(accuracy_table(accuracies), flush=True)
    tables = []
    for one in series(weak):
        tables.append(found(one, chosen.out, chosen.n, chosen.seeds, chosen.more))
        print(f"\n{one.title}\n\n{markdown(tables[-1])}", flush=True)
    changes = {name: dynamics(settings, chosen.n, chosen.seeds[0]) for name, settings in DYNAMICS.items()}
    for name, steps in changes.items():
        print(f"\nThe best beams from step to step, {name}\n\n{dynamics_table(steps)}", flush=True)
    about = {"version": __version__, "torch": torch.__version__, "machine": platform.machine()}
    data = {"about": "python -m benchmarks.overoptimisation", **about, "instructions": chosen.n}
    data |= {"weak_steps": WEAK_STEPS, "accuracy": accuracies, "series": tables, "dynamics": changes}
    text = json.dumps(data, indent=2, ensure_ascii=False).replace(f"{weak}", "WEAK")
    chosen.results.write_text(text + "\n", encoding="utf-8")


def weak_reward_model(folder: Path) -> Path:
    """Train it, unless it is there."""
    if not (folder / "model.safetensors").exists():
        train = [sys.executable, "-m", "training.train_reward", str(folder), str(policy_path())]
        subprocess.run([*train, "--steps", str(WEAK_STEPS), "--seed", "3"], check=True)  # noqa: S603
    return folder


def accuracy(folder: Path) -> dict[str, float]:
    """How often a reward model prefers what gold prefers."""
    pair = load(policy_path(), folder)
    figures = {**reward_figures(pair), **sampled_figures(pair)}
    return {name: figures[name] for name in ACCURACIES}


def found(one: Series, out: Path, n: int, seeds: Sequence[int], more: Sequence[int]) -> dict[str, Any]:
    """Measure one series; what is undecided a second time, under more seeds."""
    standings = _standings(one.methods, one.base, out, n, seeds)
    undecided = [label for label, standing in standings.items() if label != one.base and not decided(standing, one)]
    if undecided and more:
        again = [method for method in one.methods if method.label in (one.base, *undecided)]
        standings |= _standings(again, one.base, out, n, [*seeds, *more])
    rows = [{**asdict(standing), "seeds": standing.searches // n} for standing in standings.values()]
    return {"title": one.title, "factor": one.factor, "base": one.base, "rows": rows}


def decided(standing: VariantSummary, one: Series) -> bool:
    """Whether the interval of its difference leaves 0 out."""
    less = standing.differences[one.base]
    return less.low > 0 or less.high < 0


def _standings(
    methods: Sequence[WorldMethod], base: str, out: Path, n: int, seeds: Sequence[int]
) -> dict[str, VariantSummary]:
    records = measure(methods, out, n=n, seeds=seeds, concurrency=32)
    return {one.label: one for one in summary(methods, records, split="held_out", against=(base,)).standings}


def dynamics(settings: dict[str, Any], n: int, seed: int) -> list[dict[str, Any]]:
    """Likeness of consecutive sets of best beams, and the winner's rank among them, by step."""
    search = pocket_search(SearchConfig.preset("darwin", **settings))
    results = search.batch(list(held_out(n)), {"max_concurrency": 32}, seed=seed)
    return [change.model_dump() for change in Dynamics.joined(trace(result).dynamics() for result in results).by_step()]


# -- what is printed


def accuracy_table(accuracies: dict[str, dict[str, float]]) -> str:
    """One row a reward model."""
    return table(
        ("reward model", *ACCURACIES),
        [[name, *(f"{figures[kind]:.3f}" for kind in ACCURACIES)] for name, figures in accuracies.items()],
    )


def markdown(measured: dict[str, Any]) -> str:
    """One series."""
    rows = []
    for row in measured["rows"]:
        less, means = row["differences"].get(measured["base"]), row["means"]
        rows.append(
            [
                row["label"],
                f"{means['gold']:.2f}",
                "" if less is None else Estimate(**less).signed(2),
                f"{means['reward']:.2f}",
                f"{means['decoded_tokens']:,.0f}",
                f"{means['words']:.0f}",
                f"{100 * means['drifted']:.1f}%",
                f"{row['seeds']}",
            ]
        )
    heads = (measured["factor"], "gold", f"less {measured['base']}'s", "reward", "decoded", "words", "drifted", "seeds")
    return table(heads, rows)


def dynamics_table(steps: Sequence[dict[str, Any]]) -> str:
    """One row a step, as far as at least 30 cycles got."""
    shown = [step for step in steps if step["cycles"] >= 30]
    cell = "{:.2f}".format
    rows = [
        [
            f"{step['step'] + 1}",
            f"{step['cycles']}",
            "" if step["jaccard"] is None else cell(step["jaccard"]),
            "" if step["overlap"] is None else cell(step["overlap"]),
            cell(step["has_winner"]),
        ]
        for step in shown
    ]
    return table(("step", "cycles", "Jaccard", "rank-biased overlap", "winner among the best"), rows)


if __name__ == "__main__":
    main()
