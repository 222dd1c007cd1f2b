"""``darwin-align check-scorer``: pairs whose better answer is known show whether a scorer is wired rightly."""

from __future__ import annotations

import argparse

from darwin_align.cli.activity import working
from darwin_align.cli.parsing import Commands, examples
from darwin_align.cli.scorer_options import add_scorer, build_scorer, check_scorer_options
from darwin_align.core.terminal import printable, printable_json

__all__ = ["add_check_scorer"]


def add_check_scorer(commands: Commands) -> None:
    """Add the command to the program's."""
    check = commands.add_parser(
        "check-scorer",
        help="is a scorer wired rightly? Pairs whose better answer is known tell",
        usage="%(prog)s [options]",
        description="Check a scorer on pairs whose better answer is known.",
        epilog=examples("""
            darwin-align check-scorer --reward FOLDER
            darwin-align check-scorer --reward scorer.py:score
            darwin-align check-scorer --url http://127.0.0.1:8001 --pairs mine.jsonl
            darwin-align check-scorer --reward FOLDER --pairs rewardbench.jsonl.gz
            darwin-align check-scorer --url https://api.openai.com --judge --model gpt-4o --api-key-env OPENAI_API_KEY
        """),
    )
    add_scorer(check)
    check.add_argument(
        "--pairs",
        metavar="FILE",
        help='JSONL (.gz), a line: {"prompt": …, "better": …, "worse": …}, or rows of PandaLM, LLMBar or RewardBench',
    )
    check.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffled prompts (default: 0)")
    check.add_argument("--json", action="store_true", help="print JSON instead of text")
    check.set_defaults(run=_check_scorer, parser=check)


def _check_scorer(arguments: argparse.Namespace) -> int:
    check_scorer_options(arguments)
    with working("starting"):
        from darwin_align.evaluation import check, embedded_pairs
        from darwin_align.evaluation.pairs import read_pair_file

    file = None if arguments.pairs is None else read_pair_file(arguments.pairs)
    pairs = None if file is None else file.pairs
    own = pairs is None and arguments.url is None and arguments.reward is None
    if own:
        pairs = embedded_pairs(seed=arguments.seed)
    with working("loading the scorer"):
        scorer = build_scorer(arguments)
    with working("checking the scorer"):
        report = check(scorer, pairs, seed=arguments.seed)
    if arguments.json:
        findings = [found._asdict() for found in report.findings]
        shown = {**report.model_dump(mode="json"), "passed": report.passed, "findings": findings}
        shown |= {"left_out": file.left_out} if file is not None else {}
        print(printable_json(shown, indent=2))
    else:
        print(printable(report))
        if file is not None and file.left_out:
            print(f"\nRows left out, as the votes on them name no better answer: {file.left_out}.")
        if own:
            print("\nThese were pairs of the embedded model's own world: it knows nothing else.")
    return 0 if report.passed else 1
