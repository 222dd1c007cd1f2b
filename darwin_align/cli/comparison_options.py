"""Options of the commands that compare methods of the search on prompts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darwin_align.cli.options import (
    UsageError,
    add_models,
    add_settings,
    has_own_policy,
    load_policy,
    load_scorer,
)
from darwin_align.evaluation.options import count

if TYPE_CHECKING:
    from darwin_align.evaluation.methods import Method
    from darwin_align.operators.coerce import PolicyLike, PopulationRunnable
    from darwin_align.search import DarwinSearch

__all__ = ["SearchMaker", "add_comparison", "check_comparison", "method_texts", "search_maker", "seeds_of"]

SearchMaker = Callable[["Method", "PopulationRunnable | None"], "DarwinSearch"]
"""Makes a method's search, with a scorer where the options' own reward is not to be used."""


def add_comparison(parser: argparse.ArgumentParser, methods: Sequence[str], *, out: str, tokens: str) -> None:
    """Add the methods, the models, the settings, and how a comparison is run.

    Args:
        parser: of the command.
        methods: those that are compared by default.
        out: the default folder.
        tokens: what ``--tokens`` means, for the help.
    """
    parser.add_argument(
        "methods",
        nargs="*",
        metavar="METHOD",
        help=f"methods to compare, e.g. 'darwin cycles=2'; also clauses=FILE (default: {', '.join(methods)})",
    )
    add_models(parser)
    add_settings(parser, seed="0; for several give --seeds")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="several seeds, in place of --seed")
    parser.add_argument("--tokens", type=count, metavar="N", help=tokens)
    parser.add_argument(
        "--against", action="append", default=[], metavar="LABEL", help="compare all with this method (may be repeated)"
    )
    parser.add_argument(
        "--concurrency",
        type=count,
        default=1,
        metavar="N",
        help="searches at a time; more than 1 measures no seconds (default: 1)",
    )
    parser.add_argument("--out", type=Path, default=Path(out), metavar="DIR", help=f"(default: {out})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def check_comparison(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: methods and a preset are given, or one seed and several.
    """
    if arguments.methods and arguments.preset:
        raise UsageError("--preset gives one method to measure, and others are given by themselves: give one of them")
    if arguments.seeds and arguments.seed is not None:
        raise UsageError("--seed and --seeds are both given: give one of them")


def method_texts(arguments: argparse.Namespace, methods: Sequence[str]) -> Sequence[str]:
    """The methods that are compared."""
    return arguments.methods or ([arguments.preset] if arguments.preset else methods)


def seeds_of(arguments: argparse.Namespace) -> Sequence[int]:
    """The seeds."""
    return arguments.seeds or [arguments.seed or 0]


def search_maker(arguments: argparse.Namespace) -> SearchMaker:
    """What makes the searches over the options' models; each is loaded when the first search needs it."""

    @cache
    def policy() -> PolicyLike:
        return load_policy(arguments)

    @cache
    def reward() -> PopulationRunnable:
        return load_scorer(arguments)

    def search_of(method: Method, scorer: PopulationRunnable | None) -> DarwinSearch:
        if has_own_policy(arguments):
            from darwin_align.search import DarwinSearch

            judge = reward() if scorer is None else scorer
            return DarwinSearch(policy=policy(), scorer=judge, config=method.config, sampling=method.sampling)
        from darwin_align.pocket.pair import pocket_search

        if scorer is None and arguments.reward is not None:
            scorer = reward()
        given: dict[str, Any] = {} if scorer is None else {"scorer": scorer}
        return pocket_search(method.config, sampling=method.sampling, **given)

    return search_of
