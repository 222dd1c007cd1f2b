"""``darwin-align eval world``: settings of the search, compared on the embedded world."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from darwin_align.cli.activity import working
from darwin_align.cli.options import UsageError, add_models, add_settings, check_models
from darwin_align.cli.parsing import Commands, examples
from darwin_align.core.terminal import printable, printable_json
from darwin_align.evaluation.options import count

__all__ = ["add_world"]

_ELSEWHERE = (
    *(f"{role}_{part}" for role in ("policy", "reward") for part in ("url", "model", "tokenizer", "dialect")),
    "pair", "api_key_env", "requests_in_flight", "device", "dtype", "threads",
)  # fmt: skip
"""Options of the other commands' models that have no meaning here."""
_FAMILY = ("sample", "best_of_n", "mutate_best_of_n", "darwin")


def add_world(benchmarks: Commands) -> None:
    """Add ``world`` to the benchmarks of ``eval``."""
    parser = benchmarks.add_parser(
        "world",
        help="the embedded world: gold and reward of any settings, and what they cost",
        usage="%(prog)s [options] ['[LABEL: ]PRESET [NAME=VALUE …]' …]",
        description="Settings of the search, compared on the embedded world. --policy, --reward, --set and --clauses "
        "hold for every\nsetting that does not say otherwise itself.",
        epilog=examples("""
            darwin-align eval world darwin 'wide: best_of_n mutations=14' --against darwin --seeds 0 1 2
            darwin-align eval world sample darwin --set max_tokens=160 --n 20
        """),
    )
    parser.add_argument(
        "methods",
        nargs="*",
        metavar="SETTING",
        help="settings to compare, e.g. 'darwin cycles=2' 'wide: best_of_n mutations=14 temperature=1.0'; also "
        f"guard=off, policy=FOLDER, reward=FOLDER, clauses=FILE (default: {', '.join(_FAMILY)})",
    )
    add_models(parser)
    add_settings(parser, seed="0; for several give --seeds")
    parser.add_argument("--temperatures", type=float, nargs="+", metavar="T", help="try each setting at each of these")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="several seeds, in place of --seed")
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
    parser.set_defaults(run=_world, parser=parser)


def _world(arguments: argparse.Namespace) -> int:
    _check(arguments)
    with working("starting"):
        from darwin_align.evaluation.methods import check_labels
        from darwin_align.evaluation.world import WorldMethod, measure, summary
        from darwin_align.evaluation.world_page import page, plain, table
        from darwin_align.storage.atomic import write_atomically
    if find_spec("matplotlib") is None:
        sys.stderr.write("there will be no page.html: it takes matplotlib, pip install 'darwin-align[plots]'\n")
    texts = arguments.methods or ([arguments.preset] if arguments.preset else _FAMILY)
    methods = [
        WorldMethod.of(_with_defaults(text, arguments)) for text in _at_temperatures(texts, arguments.temperatures)
    ]
    check_labels(methods, arguments.against)
    out: Path = arguments.out
    records = measure(
        methods,
        out,
        n=arguments.n,
        seeds=arguments.seeds or [arguments.seed or 0],
        split=arguments.split,
        concurrency=arguments.concurrency,
    )
    found = summary(methods, records, split=arguments.split, against=arguments.against)
    shown = plain(found)
    data = json.dumps(shown, indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / "results.json", data)
    try:
        write_atomically(out / "page.html", page(found))
    except ModuleNotFoundError:
        sys.stderr.write("no page.html: it takes matplotlib, pip install 'darwin-align[plots]'\n")
    text = printable_json(shown, indent=2) if arguments.json else printable(f"{table(found)}\nfiles: {out}")
    sys.stdout.write(f"{text}\n")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    for name in _ELSEWHERE:
        if getattr(arguments, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is not for the embedded world: it compares folders (--policy, --reward)")
    if arguments.policy is not None and arguments.reward is not None:
        check_models(arguments)
    if arguments.methods and arguments.preset:
        raise UsageError("--preset gives one setting to measure, and others are given by themselves: give one of them")
    if arguments.seeds and arguments.seed is not None:
        raise UsageError("--seed and --seeds are both given: give one of them")


def _with_defaults(text: str, arguments: argparse.Namespace) -> str:
    """A method's text with the options' settings, where it has none of that name itself."""
    own = {pair.partition("=")[0] for pair in text.split()}
    given = [f"{name}={value}" for name in ("policy", "reward", "clauses") if (value := getattr(arguments, name))]
    added = [pair for pair in (*given, *arguments.set) if pair.partition("=")[0] not in own]
    return " ".join([text, *added])


def _at_temperatures(methods: Sequence[str], temperatures: list[float] | None) -> list[str]:
    if temperatures is None:
        return list(methods)
    made = []
    for text in methods:
        label, colon, rest = text.partition(": ")
        for temperature in temperatures:
            named = f"{label} T={temperature:g}: {rest}" if colon else text
            made.append(f"{named} temperature={temperature:g}")
    return made
