"""What every setting of the family is worth on the embedded world, and what it costs: the table of the README.

    python -m benchmarks.quality [--n 100] [--seeds 0 1] [--timed 20] [--out results/quality]

Gold, rewards and tokens are means over held-out instructions and seeds, searched side by side. Seconds come from the
first ``--timed`` instructions, searched again one after another on one thread. Every search is kept in ``--out``, so a
run that was cut goes on. Prints the table as Markdown; writes ``benchmarks/results/quality.json``, and ``page.html``
with plots to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.held_out import RESULTS
from darwin_align import __version__
from darwin_align.evaluation.intervals import Estimate
from darwin_align.evaluation.world import Summary, VariantSummary, WorldMethod, measure, summary
from darwin_align.evaluation.world_page import page, plain

BESIDE = "darwin"
"""The label whose gold all others' is compared with."""

METHODS: tuple[str, ...] = (
    "sample: sample",
    "best_of_n, 5: best_of_n",
    "best_of_n, 22: best_of_n mutations=21",
    "best_of_n, 80: best_of_n mutations=79",
    "soft_best_of_n, 22: soft_best_of_n mutations=21",
    "sample_replace, 22: sample_replace mutations=21 survivors=10",
    "speculative_rejection, 60: speculative_rejection mutations=60",
    "smc, 22: smc mutations=21",
    "args: args",
    "mutate_best_of_n, 3 cycles: mutate_best_of_n",
    "mutate_best_of_n, 5 cycles: mutate_best_of_n cycles=5",
    "learned_clauses: learned_clauses",
    "darwin: darwin",
    "darwin, 5 cycles: darwin cycles=5",
)

_COLUMNS = {
    "gold": "gold",
    "reward": "reward",
    "decoded_tokens": "decoded",
    "prefilled_tokens": "read by the policy",
    "reward_tokens": "read by the reward model",
    "seconds": "seconds",
    "words": "words",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--n", type=int, default=100, help="held-out instructions (default: 100)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--timed", type=int, default=20, help="instructions that seconds are taken from (default: 20)")
    parser.add_argument("--out", type=Path, default=Path("results/quality"))
    parser.add_argument("--results", type=Path, default=RESULTS / "quality.json")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    methods = [WorldMethod.of(text) for text in METHODS]
    found = measured(methods, chosen.out, chosen.n, chosen.seeds, timed=chosen.timed, against=(BESIDE,))
    print(markdown(found), flush=True)
    about = {"version": __version__, "torch": torch.__version__, "machine": f"{platform.machine()}, one thread"}
    data = {"about": "python -m benchmarks.quality", **about, "timed_instructions": chosen.timed, **plain(found)}
    chosen.results.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (chosen.out / "page.html").write_text(page(found), encoding="utf-8")


def measured(
    methods: Sequence[WorldMethod], out: Path, n: int, seeds: Sequence[int], *, timed: int, against: Sequence[str]
) -> Summary:
    """Search side by side, and the first ``timed`` instructions again one after another, for the seconds."""
    found = summary(methods, measure(methods, out, n=n, seeds=seeds, concurrency=12), split="held_out", against=against)
    clocked = summary(methods, measure(methods, out / "timed", n=timed, seeds=seeds[:1]), split="held_out")
    return with_seconds(found, clocked)


def with_seconds(found: Summary, timed: Summary) -> Summary:
    """Put the seconds of one run beside the figures of another, method by method."""
    clocks = {one.label: {name: one.means[name] for name in ("seconds", "cpu_seconds")} for one in timed.standings}
    standings = [replace(one, means={**one.means, **clocks[one.label]}) for one in found.standings]
    return replace(found, standings=tuple(standings))


def markdown(found: Summary) -> str:
    """The table as the README shows it.

    >>> one = VariantSummary("darwin", "darwin", 1, {"gold": 9.8, "decoded_tokens": 2351.0}, {}, {})
    >>> print(markdown(Summary("held_out", 1, (0,), ("darwin",), (one,))))
    | setting | gold | less darwin's | decoded |
    |---|---|---|---|
    | darwin | 9.80 |  | 2,351 |
    """
    shown = [name for name in _COLUMNS if any(name in one.means for one in found.standings)]
    first, *rest = (_COLUMNS[name] for name in shown)
    heads = ["setting", first, f"less {BESIDE}'s", *rest]
    return table(heads, [_row(one, shown) for one in found.standings])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells as a table of Markdown."""
    return "\n".join(
        [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def _row(one: VariantSummary, shown: Sequence[str]) -> list[str]:
    first, *rest = (_figure(name, one.means[name]) for name in shown)
    less = one.differences.get(BESIDE)
    return [one.label, first, "" if less is None else less.signed(2), *rest]


def _figure(name: str, value: float) -> str:
    return f"{value:.2f}" if name in ("gold", "reward", "seconds") else f"{value:,.0f}"


def read(file: Path) -> Summary:
    """What a file of results holds."""
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    standings = [
        VariantSummary(
            one["label"],
            one["text"],
            one["searches"],
            one["means"],
            {name: (low, high) for name, (low, high) in one["intervals"].items()},
            {label: Estimate(**difference) for label, difference in one["differences"].items()},
        )
        for one in data["standings"]
    ]
    return Summary(data["split"], data["instructions"], tuple(data["seeds"]), (BESIDE,), tuple(standings))


if __name__ == "__main__":
    main()
