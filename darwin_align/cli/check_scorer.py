"""``darwin-align check-scorer``: pairs whose better answer is known show whether a scorer is wired rightly."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from darwin_align.cli.activity import working
from darwin_align.cli.options import UsageError, check_key, load_reward
from darwin_align.cli.parsing import Commands, examples
from darwin_align.core.terminal import printable, printable_json

if TYPE_CHECKING:
    from darwin_align.operators.coerce import PopulationRunnable

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
            darwin-align check-scorer --url https://api.openai.com --judge --model gpt-4o --api-key-env OPENAI_API_KEY
        """),
    )
    check.add_argument(
        "--reward",
        metavar="MODEL",
        help="folder or hub id of a local model, or FILE.py:NAME or MODULE:NAME of a function or a scorer (default: "
        "the embedded one)",
    )
    check.add_argument("--url", help="a reward endpoint, or with --judge a chat endpoint, in place of a local model")
    check.add_argument("--dialect", metavar="NAME", help="which API the reward endpoint has")
    check.add_argument("--model", metavar="NAME", help="the model's name at the URL")
    check.add_argument(
        "--tokenizer", metavar="MODEL", help="folder or hub id whose chat template renders the conversation"
    )
    check.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the key")
    check.add_argument("--judge", action="store_true", help="the URL is a chat model that judges answers")
    check.add_argument("--pairs", metavar="FILE", help='JSONL, a line: {"prompt": …, "better": …, "worse": …}')
    check.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffled prompts (default: 0)")
    check.add_argument("--json", action="store_true", help="print JSON instead of text")
    check.set_defaults(run=_check_scorer, parser=check)


def _check_scorer(arguments: argparse.Namespace) -> int:
    _check_options(arguments)
    with working("starting"):
        from darwin_align.evaluation import check, embedded_pairs, read_pairs

    pairs = None if arguments.pairs is None else read_pairs(arguments.pairs)
    own = pairs is None and arguments.url is None and arguments.reward is None
    if own:
        pairs = embedded_pairs(seed=arguments.seed)
    with working("loading the scorer"):
        scorer = _scorer(arguments)
    with working("checking the scorer"):
        report = check(scorer, pairs, seed=arguments.seed)
    if arguments.json:
        findings = [found._asdict() for found in report.findings]
        shown = {**report.model_dump(mode="json"), "passed": report.passed, "findings": findings}
        print(printable_json(shown, indent=2))
    else:
        print(printable(report))
        if own:
            print("\nThese were pairs of the embedded model's own world: it knows nothing else.")
    return 0 if report.passed else 1


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything is loaded."""
    given = {
        f"--{name.replace('_', '-')}"
        for name in ("dialect", "model", "tokenizer", "api_key_env", "judge")
        if getattr(arguments, name)
    }
    if arguments.url is None and given:
        raise UsageError(f"{min(given)} needs --url: it is for a scorer behind an endpoint")
    if arguments.url is not None and arguments.reward is not None:
        raise UsageError("--reward is a local model and --url a remote one: give one of them")
    if arguments.judge and (alien := given & {"--dialect", "--tokenizer"}):
        raise UsageError(f"{min(alien)} is for reward endpoints, and --judge is a chat model: leave one of them out")
    if arguments.judge and arguments.model is None:
        raise UsageError("--judge needs --model: the name of the chat model at the URL")
    if arguments.api_key_env is not None:
        check_key(arguments.api_key_env)


def _scorer(arguments: argparse.Namespace) -> PopulationRunnable:
    if arguments.url is None:
        from darwin_align.pocket import reward_path

        # One thread: for a model this small, more threads only wait for each other.
        how = {"threads": 1} if arguments.reward is None else {}
        return load_reward(arguments.reward or str(reward_path()), **how)
    from pydantic import SecretStr

    from darwin_align.backends.endpoint import EndpointScorer, JudgeScorer

    names = ("model",) if arguments.judge else ("dialect", "model", "tokenizer")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.api_key_env is not None:
        options["api_key"] = SecretStr(os.environ[arguments.api_key_env])
    kind = JudgeScorer if arguments.judge else EndpointScorer
    scorer: PopulationRunnable = kind(base_url=arguments.url, **options)
    return scorer
