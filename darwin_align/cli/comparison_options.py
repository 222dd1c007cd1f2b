"""Options of the commands that compare methods of the search on prompts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from darwin_align.cli.options import UsageError, add_models, add_settings
from darwin_align.evaluation.options import count

__all__ = ["add_comparison", "check_comparison", "method_texts", "seeds_of"]


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
