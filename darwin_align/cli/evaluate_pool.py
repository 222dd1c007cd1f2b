"""``darwin-align eval pool``: any scorer and any choice on recorded answers with verdicts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darwin_align.cli.activity import working
from darwin_align.cli.options import UsageError
from darwin_align.cli.parsing import Commands, examples
from darwin_align.cli.scorer_options import add_scorer, build_scorer, check_scorer_options, scorer_name
from darwin_align.core.terminal import printable, printable_json
from darwin_align.evaluation.options import count, need_packages

if TYPE_CHECKING:
    from darwin_align.core.calibration import Calibration
    from darwin_align.evaluation.pools.figures import Chooser, Scored
    from darwin_align.evaluation.pools.records import PooledPrompt

__all__ = ["add_pool"]


def add_pool(benchmarks: Commands) -> None:
    """Add ``pool`` to the benchmarks of ``eval``."""
    parser = benchmarks.add_parser(
        "pool",
        help="recorded answers with verdicts: what any scorer and any choice make of them",
        usage="%(prog)s [options] FILE",
        description="Recorded answers with verdicts show what a scorer and a choice are worth, without a policy. FILE "
        'is JSONL (.gz), a line:\n{"prompt": …, "answers": ["…", "…"], "verdicts": [0.2, 0.9]}, with "messages" in '
        'place of the prompt where there are\nseveral turns, and with "rewards" where they were recorded too.',
        epilog=examples("""
            darwin-align eval pool log.jsonl --reward scorer.py:score
            darwin-align eval pool log.jsonl --choice 'soft reward_temperature=0.5'
            darwin-align eval pool log.jsonl --url http://127.0.0.1:8001 --calibrate 50
        """),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the pool")
    add_scorer(parser)
    parser.add_argument(
        "--choice",
        nargs="+",
        default=[],
        metavar="CHOICE",
        help="choices beside the best of n, e.g. 'soft reward_temperature=0.5'",
    )
    parser.add_argument(
        "--n", type=count, nargs="+", metavar="N", help="how many answers to choose among (default: 1, 2, 4 … and all)"
    )
    parser.add_argument(
        "--calibrate",
        type=count,
        metavar="K",
        help="find n, and the temperatures of the drawn choices, on K prompts; the table is of the others",
    )
    parser.add_argument("--draws", type=count, default=10, metavar="N", help="shuffles of each prompt (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffles and intervals (default: 0)")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N prompts; may be raised later")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the files go (default: results/pool/SCORER)")
    parser.add_argument(
        "--concurrency", type=count, default=8, metavar="N", help="prompts scored side by side (default: 8)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=_pool, parser=parser)


def _pool(arguments: argparse.Namespace) -> int:
    check_scorer_options(arguments)
    with working("starting"):
        from darwin_align.evaluation.pools.figures import POOL_NEEDS, Chooser, Scored, pool_figures, widths
        from darwin_align.evaluation.pools.page import plain, table
        from darwin_align.evaluation.pools.records import read_pool
        from darwin_align.storage.atomic import write_atomically

    need_packages("a pool's figures", *POOL_NEEDS)
    choosers = [Chooser.of(text) for text in arguments.choice]
    pool = read_pool(arguments.file)[: arguments.limit]
    ns = widths(pool, arguments.n)
    out = arguments.out or Path("results") / "pool" / _folder(arguments, pool)
    enough = [prompt for prompt in pool if len(prompt.answers) >= max(ns)]
    if arguments.calibrate is not None and not 2 <= arguments.calibrate <= len(enough) - 2:
        raise UsageError(
            f"--calibrate {arguments.calibrate} of {len(enough)} prompts is impossible: give 2 or more, and leave 2 or "
            "more to measure on"
        )
    rewards, notes = _rewards(arguments, enough, out)
    scored = [Scored(prompt, tuple(own)) for prompt, own in zip(enough, rewards, strict=True)]
    calibrations: dict[str, Calibration] = {}
    if arguments.calibrate is not None:
        calibrations, scored = _calibrated(scored, max(ns), arguments)
        choosers += _choosers(calibrations)
        ns = sorted({*ns, _answers(calibrations["n"], max(ns))})
    with working("working out the figures"):
        found = pool_figures(scored, choosers, ns, seed=arguments.seed, draws=arguments.draws)
    if left := len(pool) - len(enough):
        notes = (f"{left} prompts are left out: they have fewer than {max(ns)} judged answers", *notes)
    source = {"file": arguments.file.name, "scorer": _scorer(arguments, pool), "notes": notes}
    shown = {**source, **plain(found, calibrations)}
    write_atomically(out / "results.json", json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
    text = "\n".join([f"{source['scorer']} on {source['file']}", table(found, calibrations)])
    text += "".join(f"\nnote: {note}" for note in notes) + f"\nfiles: {out}"
    sys.stdout.write((printable_json(shown, indent=2) if arguments.json else printable(text)) + "\n")
    return 0


def _has_own_rewards(arguments: argparse.Namespace, pool: Sequence[PooledPrompt]) -> bool:
    """Whether the file's own rewards are taken: it has some, and no scorer is named."""
    return arguments.reward is None and arguments.url is None and pool[0].rewards is not None


def _scorer(arguments: argparse.Namespace, pool: Sequence[PooledPrompt]) -> str:
    return "recorded rewards" if _has_own_rewards(arguments, pool) else scorer_name(arguments)


def _folder(arguments: argparse.Namespace, pool: Sequence[PooledPrompt]) -> str:
    name = _scorer(arguments, pool).rstrip("/")
    short = name.rpartition("/")[2] if arguments.url is None else name.partition("://")[2] or name
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in short).lstrip(".") or "scorer"


def _rewards(
    arguments: argparse.Namespace, pool: Sequence[PooledPrompt], out: Path
) -> tuple[Sequence[Sequence[float]], tuple[str, ...]]:
    from darwin_align.evaluation.pools.scoring import score_pool

    if _has_own_rewards(arguments, pool):
        return [prompt.rewards or () for prompt in pool], ()

    def load() -> Any:
        with working("loading the scorer"):
            return build_scorer(arguments)

    identity = {"name": scorer_name(arguments), "dialect": arguments.dialect, "judge": arguments.judge}
    return score_pool(pool, load, out, scorer=identity, concurrency=arguments.concurrency)


def _calibrated(
    scored: Sequence[Scored], most: int, arguments: argparse.Namespace
) -> tuple[dict[str, Calibration], list[Scored]]:
    """Settings found on some prompts, drawn by the seed, and the others."""
    from darwin_align.core.calibration import TUNED, calibrate
    from darwin_align.core.seeds import derive

    order = sorted(range(len(scored)), key=lambda i: derive(arguments.seed, "calibrate", scored[i].prompt.key))
    chosen, others = order[: arguments.calibrate], sorted(order[arguments.calibrate :])
    judged = []
    for one in (scored[i] for i in chosen):
        first = one.shuffled(arguments.seed, 1)[0][:most]
        judged.append(([one.rewards[i] for i in first], [one.prompt.verdicts[i] for i in first]))
    found: dict[str, Calibration] = {tune: calibrate(judged, tune) for tune in TUNED}
    return found, [scored[i] for i in others]


def _choosers(calibrations: dict[str, Calibration]) -> list[Chooser]:
    """The drawn choices that were calibrated; where the best of all is, it has rows already."""
    from darwin_align.evaluation.pools.figures import Chooser

    return [
        Chooser.of_settings(f"{name}, calibrated", one.settings)
        for name, one in calibrations.items()
        if one.settings.get("choice", "best") != "best"
    ]


def _answers(calibration: Calibration, most: int) -> int:
    """The number of answers that was calibrated."""
    settings = calibration.settings
    return min(most, 1 if settings.get("cycles") == 0 else settings["mutations"] + 1)
