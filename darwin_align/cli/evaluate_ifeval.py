"""``darwin-align eval ifeval``: methods of the search on IFEval, with its rules as the reward."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from darwin_align.cli.activity import working
from darwin_align.cli.comparison_options import add_comparison, check_comparison, method_texts, search_maker, seeds_of
from darwin_align.cli.options import (
    check_models,
    model_name,
)
from darwin_align.cli.parsing import Commands, examples
from darwin_align.core.terminal import printable, printable_json
from darwin_align.evaluation.options import count

if TYPE_CHECKING:
    from darwin_align.evaluation.ifeval import Prompt
    from darwin_align.evaluation.methods import Method
    from darwin_align.search import DarwinSearch

__all__ = ["add_ifeval"]

RULES = "rules"
"""The ``--reward`` that is made of each prompt's own instructions."""
_METHODS = ("sample", "best_of_n", "sample_replace", "darwin")


def add_ifeval(benchmarks: Commands) -> None:
    """Add ``ifeval`` to the benchmarks of ``eval``."""
    parser = benchmarks.add_parser(
        "ifeval",
        help="IFEval: verifiable instructions, whose rules are also the reward",
        usage="%(prog)s [options] FILE ['[LABEL: ]PRESET [NAME=VALUE …]' …]",
        description="Methods of the search compared on IFEval's prompts. A search may decode --tokens tokens for a "
        "prompt, rewordings\nincluded, and ends with the first answer that keeps all rules. --set and --clauses hold "
        "for every method that does not say\notherwise itself. A run that was interrupted goes on when it is started "
        "again.",
        epilog=examples("""
            darwin-align eval ifeval ifeval.jsonl --policy model.gguf --limit 50 --set max_tokens=256
            darwin-align eval ifeval ifeval.jsonl best_of_n 'often: darwin replacement_period=10' --against best_of_n
        """),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="IFEval's prompts, JSONL (google/IFEval on the hub)")
    add_comparison(
        parser,
        _METHODS,
        out="results/ifeval",
        tokens="that a search may decode for a prompt (default: those of 16 answers of full length)",
    )
    parser.epilog = f"--reward {RULES}, the default, rewards the share of a prompt's rules.\n\n{parser.epilog}"
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N prompts; may be raised later")
    parser.set_defaults(run=_ifeval, parser=parser)


def _ifeval(arguments: argparse.Namespace) -> int:
    by_rules = _check(arguments)
    with working("starting"):
        from darwin_align.evaluation.ifeval import measure, plain, read_prompts, summary, table
        from darwin_align.evaluation.methods import Method, check_labels, with_defaults
        from darwin_align.storage.atomic import write_atomically
    texts = method_texts(arguments, _METHODS)
    ends = 1.0 if by_rules else None
    methods = [
        Method.of(with_defaults(text, arguments.set, arguments.clauses)).until_spent(arguments.tokens, reward_ends=ends)
        for text in texts
    ]
    labels = [one.label for one in methods]
    against = arguments.against or [one for one in labels if one.split()[0] == "best_of_n"][:1]
    check_labels(methods, against)
    prompts = read_prompts(arguments.file)[: arguments.limit]
    models = {
        "policy": model_name(arguments, "policy"),
        "reward": RULES if by_rules else model_name(arguments, "reward"),
    }
    records = measure(
        methods,
        prompts,
        _searches(arguments, by_rules),
        arguments.out,
        settings={"models": models},
        seeds=seeds_of(arguments),
        concurrency=arguments.concurrency,
    )
    found = summary(methods, prompts, records, against)
    shown = {"models": models, **plain(found)}
    write_atomically(arguments.out / "results.json", json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
    text = printable_json(shown, indent=2) if arguments.json else printable(f"{table(found)}\n\nfiles: {arguments.out}")
    sys.stdout.write(f"{text}\n")
    return 0


def _check(arguments: argparse.Namespace) -> bool:
    """Refuse options that contradict each other; whether the reward is that of the rules."""
    by_rules = arguments.reward == RULES or (arguments.reward is None and arguments.reward_url is None)
    check_models(arguments, own_reward=by_rules)
    check_comparison(arguments)
    return by_rules


def _searches(arguments: argparse.Namespace, by_rules: bool) -> Callable[[Method, Prompt], DarwinSearch]:
    """What makes a method's search for a prompt: the rules are the prompt's own."""
    make = search_maker(arguments)
    return lambda method, prompt: make(method, prompt.scorer if by_rules else None)
