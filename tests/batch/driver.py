"""``darwin-align batch`` by itself, for processes that tests kill."""

import argparse
import sys
from pathlib import Path

from darwin_align.cli.batch import add_batch
from darwin_align.cli.batch import run as run_command
from darwin_align.cli.parsing import Parser
from darwin_align.core import SearchConfig
from darwin_align.core.errors import ConfigError, DarwinError
from darwin_align.search import DarwinSearch


def make(arguments: argparse.Namespace) -> DarwinSearch:
    if arguments.scripted is not None:
        return scripted(arguments.scripted, arguments.cycles, arguments.hold)
    from darwin_align.backends.local import LocalPolicy, LocalScorer
    from darwin_align.pocket import policy_path, reward_path

    how = {"threads": 1, "dtype": "float64"}  # batches of any make-up then give the same digits
    config = SearchConfig(cycles=arguments.cycles, mutations=2, replacement_period=16, max_new_tokens=40)
    policy = LocalPolicy.from_pretrained(policy_path(), **how)
    return DarwinSearch(policy=policy, scorer=LocalScorer.from_pretrained(reward_path(), **how), config=config)


def scripted(seconds: float, cycles: int, hold: Path | None) -> DarwinSearch:
    import asyncio

    from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer

    scorer = ScriptedScorer()

    async def score(request, responses):  # type: ignore[no-untyped-def]
        if hold is not None:
            hold.with_suffix(".reached").touch()
            while hold.exists():
                await asyncio.sleep(0.05)
        await asyncio.sleep(seconds)
        return scorer.score(request, responses)

    config = SearchConfig(cycles=cycles, mutations=2, mutator="identity")
    return DarwinSearch(policy=ScriptedPolicy(), scorer=score, config=config)


def run(argv: list[str] | None = None) -> int:
    parser = Parser()
    parser.add_argument("--scripted", type=float, metavar="SECONDS", help="no models; scoring takes so long")
    parser.add_argument("--cycles", type=int, default=1)
    parser.add_argument("--hold", type=Path, help="touch HOLD.reached before scoring, and wait while HOLD exists")
    add_batch(parser.add_subparsers(required=True))
    arguments = parser.parse_args(argv)
    try:
        return run_command(arguments, make)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except DarwinError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(run())
