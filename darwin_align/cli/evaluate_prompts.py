"""``darwin-align eval prompts``: methods of the search on one's own prompts, judged by a second scorer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darwin_align.cli.activity import working
from darwin_align.cli.comparison_options import add_comparison, check_comparison, method_texts, search_maker, seeds_of
from darwin_align.cli.options import (
    check_models,
    is_small,
    load_reward,
    model_name,
)
from darwin_align.cli.parsing import Commands, examples
from darwin_align.core.terminal import printable, printable_json
from darwin_align.evaluation.options import count, need_packages

if TYPE_CHECKING:
    from darwin_align.evaluation.methods import Method
    from darwin_align.operators.coerce import PopulationRunnable

__all__ = ["add_prompts"]

_METHODS = ("sample", "best_of_n", "sample_replace", "mutate_best_of_n cycles=1", "darwin cycles=1")


def add_prompts(benchmarks: Commands) -> None:
    """Add ``prompts`` to the benchmarks of ``eval``."""
    parser = benchmarks.add_parser(
        "prompts",
        help="your own prompts: methods of the search, judged by a second scorer",
        usage="%(prog)s [options] FILE ['[LABEL: ]PRESET [NAME=VALUE …]' …]",
        description='Methods of the search compared on prompts, one a line: {"prompt": …}, or with "messages". '
        "--gold names a scorer that no\nsearch sees: the reward that is followed says little about what was gained. "
        "--set and --clauses hold for every method that\ndoes not say otherwise itself. A run that was interrupted "
        "goes on when it is started again.",
        epilog=examples("""
            darwin-align eval prompts mine.jsonl --policy FOLDER --reward FOLDER --gold ANOTHER --n 50
            darwin-align eval prompts mine.jsonl 'five: best_of_n' 'wide: best_of_n mutations=12' darwin --pair small
        """),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the prompts, JSONL (.gz) or a JSON list")
    add_comparison(
        parser,
        _METHODS,
        out="results/prompts",
        tokens="let every search but a plain sample spend so many tokens, in one cycle after another",
    )
    parser.add_argument(
        "--gold",
        metavar="MODEL",
        help="what judges the answers: as --reward; with --pair small also an adapter, FILE.safetensors",
    )
    parser.add_argument("--n", type=count, metavar="N", help="so many prompts, drawn; may be raised later")
    parser.set_defaults(run=_prompts, parser=parser)


def _prompts(arguments: argparse.Namespace) -> int:
    check_models(arguments)
    check_comparison(arguments)
    with working("starting"):
        from darwin_align.evaluation.methods import check_labels
        from darwin_align.evaluation.prompts import measure, page, plain, read_prompts, summary, table
        from darwin_align.storage.atomic import write_atomically
    need_packages("the figures", "numpy")
    plots = find_spec("matplotlib") is not None
    if not plots:
        sys.stderr.write("there will be no page.html: it takes matplotlib, pip install 'darwin-align[plots]'\n")
    methods = [_method(text, arguments) for text in method_texts(arguments, _METHODS)]
    check_labels(methods, arguments.against)
    prompts = read_prompts(arguments.file)[: arguments.n]
    models = {role: model_name(arguments, role) for role in ("policy", "reward")} | {"gold": arguments.gold}
    make = search_maker(arguments)
    records = measure(
        methods,
        prompts,
        lambda method: make(method, None),
        None if arguments.gold is None else lambda: _gold(arguments),
        arguments.out,
        settings={"models": models},
        seeds=seeds_of(arguments),
        concurrency=arguments.concurrency,
    )
    found = summary(methods, records, arguments.against)
    shown = {"models": models, "file": arguments.file.name, **plain(found)}
    write_atomically(arguments.out / "results.json", json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
    if plots:
        write_atomically(arguments.out / "page.html", page(found))
    text = printable_json(shown, indent=2) if arguments.json else printable(f"{table(found)}\n\nfiles: {arguments.out}")
    sys.stdout.write(f"{text}\n")
    return 0


def _method(text: str, arguments: argparse.Namespace) -> Method:
    from darwin_align.evaluation.methods import Method, with_defaults
    from darwin_align.small import DEFAULTS

    defaults: Mapping[str, Any] = DEFAULTS if is_small(arguments) else {}
    method = Method.of(with_defaults(text, arguments.set, arguments.clauses), **defaults)
    return method if arguments.tokens is None else method.until_spent(arguments.tokens)


def _gold(arguments: argparse.Namespace) -> PopulationRunnable:
    with working("loading the gold scorer"):
        if is_small(arguments) and arguments.gold.endswith(".safetensors"):
            from darwin_align.small import small_scorer

            return small_scorer(arguments.gold, threads=arguments.threads)
        return load_reward(arguments.gold)
