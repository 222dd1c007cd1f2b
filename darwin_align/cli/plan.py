"""``darwin-align plan``: hours, requests in flight and the bottleneck of a batch, before GPUs are rented for it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from darwin_align.cli.activity import working
from darwin_align.cli.options import UsageError, add_models, add_settings, build_search, check_models, read_settings
from darwin_align.cli.parsing import Commands, examples
from darwin_align.core import Usage
from darwin_align.core.errors import ConfigError
from darwin_align.core.terminal import printable_json

if TYPE_CHECKING:
    from darwin_align.batch.throughput import Demand, Plan, Speeds

__all__ = ["add_plan"]


def add_plan(commands: Commands) -> None:
    """Add the command to the program's."""
    plan = commands.add_parser(
        "plan",
        help="how long a batch takes on so many GPUs, and what it waits for",
        usage="%(prog)s [options] (IN | --usage FILE) --prompts N --policy-tps N --reward-tps N --gpus N",
        description="Estimate a batch on policy and reward servers from a dry run's usage and a GPU's speeds.",
        epilog=examples("""
            darwin-align plan prompts.jsonl --prompts 10000 --policy-tps 2500 --reward-tps 30000 --gpus 8
            darwin-align plan --usage usage.json --prompts 10000 --policy-tps 2500 --reward-tps 30000 --gpus 8
        """),
    )
    plan.add_argument("input", nargs="?", metavar="IN", help="prompts for the dry run, as for batch")
    plan.add_argument("--usage", metavar="FILE", help="what `batch --json` printed, in place of a dry run")
    plan.add_argument("--dry-run", type=int, default=20, metavar="N", help="prompts of IN to answer (default: 20)")
    plan.add_argument("--prompts", type=int, required=True, metavar="N", help="in the batch")
    plan.add_argument("--gpus", type=int, required=True, metavar="N", help="for policy and reward model; 1: both on it")
    speeds = plan.add_argument_group("speeds of one GPU, in tokens a second")
    speeds.add_argument("--policy-tps", type=float, required=True, metavar="N", help="decoded by the policy")
    speeds.add_argument("--reward-tps", type=float, required=True, metavar="N", help="read by the reward model")
    speeds.add_argument(
        "--prefill-tps", type=float, metavar="N", help="read by the policy (default: that of the reward model)"
    )
    speeds.add_argument(
        "--rows",
        type=int,
        default=64,
        metavar="N",
        help="requests in flight when --policy-tps was measured (default: 64)",
    )
    for role in ("policy", "reward"):
        speeds.add_argument(
            f"--{role}-hits",
            type=float,
            default=0.0,
            metavar="SHARE",
            help=f"of the counted {role} prompt tokens that prefix caches will hold (default: 0)",
        )
    plan.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_models(plan)
    add_settings(plan, seed="0")
    plan.set_defaults(run=_run, parser=plan)


def _run(arguments: argparse.Namespace) -> int:
    if (arguments.input is None) == (arguments.usage is None):
        raise UsageError("give prompts for a dry run, or --usage with what an earlier run printed: one of them")
    check_models(arguments)
    config, _ = read_settings(arguments)
    with working("starting"):
        from darwin_align.batch.throughput import Demand, Speeds, plan_batch

    prefill = arguments.prefill_tps or arguments.reward_tps
    speeds = Speeds(policy=arguments.policy_tps, reward=arguments.reward_tps, prefill=prefill, rows=arguments.rows)
    usage, count = _dry_run(arguments) if arguments.usage is None else _read(Path(arguments.usage))
    hits = {"policy_hits": arguments.policy_hits, "reward_hits": arguments.reward_hits}
    demand = Demand.of(usage, count, config, **hits)
    plan = plan_batch(demand, speeds, prompts=arguments.prompts, gpus=arguments.gpus)
    if arguments.json:
        shown = {"dry_run": count, "demand": asdict(demand), "speeds": asdict(speeds), **asdict(plan)}
        print(printable_json({**shown, "bottleneck": plan.bottleneck}, indent=2))
    else:
        print(_in_words(demand, speeds, plan, arguments, count))
    return 0


def _dry_run(arguments: argparse.Namespace) -> tuple[Usage, int]:
    from darwin_align.batch import Answerer, prompts
    from darwin_align.operators.portal import call

    if arguments.dry_run < 1:
        raise UsageError(f"--dry-run {arguments.dry_run} is impossible: give 1 or more")
    found = list(islice(prompts(Path(arguments.input)), arguments.dry_run))
    if bad := next((one for one in found if one.prompt is None), None):
        raise ConfigError(f"{arguments.input}, line {bad.line}: {bad.reason}")
    answerer = Answerer(build_search(arguments), arguments.seed)
    usage = Usage()
    for number, one in enumerate(found, 1):
        assert one.prompt is not None  # noqa: S101 - see above
        with working(f"dry run: prompt {number} of {len(found)}"):
            usage += call(answerer.answer, one.prompt).usage
    return usage, len(found)


def _read(path: Path) -> tuple[Usage, int]:
    try:
        report = json.loads(path.read_bytes())
        usage, new = Usage(**report["usage"]), int(report["new"])
    except OSError as error:
        raise ConfigError(f"--usage {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"--usage {path} is not what `darwin-align batch … --json` prints: give its output") from None
    if new < 1:
        raise ConfigError(f"--usage {path} is of a run that answered nothing new: give the output of the one that did")
    return usage, new


def _in_words(demand: Demand, speeds: Speeds, plan: Plan, arguments: argparse.Namespace, count: int) -> str:
    rate, gpus = plan.per_second, f"{plan.policy_gpus} policy and {plan.reward_gpus} reward"
    needed = {"decoded": demand.decoded * rate, "prefilled": demand.prefilled * rate, "scored": demand.scored * rate}
    lines = {
        "GPUs": gpus if plan.reward_gpus else "1, which has both models",
        "hours": f"{plan.seconds / 3600:,.2f} for {arguments.prompts:,} prompts, {rate:,.3g} a second",
        "bottleneck": f"{plan.bottleneck}; busy: policy {plan.policy_busy:.0%}, reward {plan.reward_busy:.0%}",
        "a prompt": f"{demand.decoded:,.0f} tokens decoded, {demand.prefilled:,.0f} prefilled, {demand.scored:,.0f} "
        f"scored (mean of {count})",
        "tokens a second": ", ".join(f"{value:,.0f} {name}" for name, value in needed.items()),
        "in flight": f"{plan.prompts_in_flight:,} prompts (--concurrency), {plan.requests_in_flight:,} requests at the "
        f"policy (--requests-in-flight), {speeds.rows:,} a GPU",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items()) + "\n\nAn estimate: see docs/batch.md."
