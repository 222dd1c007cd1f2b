"""``darwin-align eval world``: settings of the search, compared on the embedded world."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from darwin_align.evaluation.options import count

__all__ = ["add_world"]

_FAMILY = ("sample", "best_of_n", "mutate_best_of_n", "darwin")


def add_world(benchmarks: Any) -> None:
    """Add ``world`` to the benchmarks of ``eval``."""
    parser = benchmarks.add_parser(
        "world", help="the embedded world: gold and reward of any settings, and what they cost", description=__doc__
    )
    parser.add_argument(
        "contenders",
        nargs="*",
        default=_FAMILY,
        metavar="'[LABEL: ]PRESET [NAME=VALUE …]'",
        help="settings to compare, e.g. 'darwin cycles=2' 'wide: best_of_n mutations=14 temperature=1.0'; also "
        f"guard=off, policy=FOLDER, reward=FOLDER, clauses=FILE (default: {', '.join(_FAMILY)})",
    )
    parser.add_argument("--temperatures", type=float, nargs="+", metavar="T", help="try each setting at each of these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="seeds (default: 0)")
    parser.add_argument("--n", type=count, default=100, metavar="N", help="instructions (default: 100)")
    parser.add_argument("--split", choices=("held_out", "dev"), default="held_out", help="(default: held_out)")
    parser.add_argument(
        "--against", action="append", default=[], metavar="LABEL", help="compare the gold of all with this one's"
    )
    parser.add_argument(
        "--concurrency",
        type=count,
        default=1,
        metavar="N",
        help="searches at a time; more than 1 is faster and measures no seconds (default: 1)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/world"), metavar="DIR", help="(default: results/world)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=_world)


def _world(arguments: argparse.Namespace) -> int:
    from darwin_align.evaluation.ledger import write_atomically
    from darwin_align.evaluation.world import Contender, check_labels, measure, summary
    from darwin_align.evaluation.world_page import page, plain, table

    contenders = [Contender.of(text) for text in _at_temperatures(arguments.contenders, arguments.temperatures)]
    check_labels(contenders, arguments.against)
    out: Path = arguments.out
    records = measure(
        contenders,
        out,
        n=arguments.n,
        seeds=arguments.seeds,
        split=arguments.split,
        concurrency=arguments.concurrency,
    )
    found = summary(contenders, records, split=arguments.split, against=arguments.against)
    data = json.dumps(plain(found), indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / "results.json", data)
    try:
        write_atomically(out / "page.html", page(found))
    except ModuleNotFoundError:
        sys.stderr.write("no page.html: it takes matplotlib, pip install 'darwin-align[bench]'\n")
    sys.stdout.write(data if arguments.json else f"{table(found)}\nfiles: {out}\n")
    return 0


def _at_temperatures(contenders: list[str], temperatures: list[float] | None) -> list[str]:
    if temperatures is None:
        return list(contenders)
    made = []
    for text in contenders:
        label, colon, rest = text.partition(": ")
        for temperature in temperatures:
            named = f"{label} T={temperature:g}: {rest}" if colon else text
            made.append(f"{named} temperature={temperature:g}")
    return made
