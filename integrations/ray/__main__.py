"""``python -m darwin_align.integrations.ray``: the job from the command line."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from darwin_align.batch import Fields
from darwin_align.cli.options import add_models, add_settings, build_search, check_models, read_settings
from darwin_align.core.errors import ConfigError, DarwinError
from darwin_align.core.extras import missing_extra
from darwin_align.core.terminal import printable

if TYPE_CHECKING:
    from darwin_align import DarwinChatModel
    from darwin_align.integrations.ray.job import Make, RayReport


def embedded() -> DarwinChatModel:
    """The embedded pair, in double precision: batches of any make-up then give the same digits."""
    from darwin_align import DarwinChatModel
    from darwin_align.pocket import policy_path, reward_path

    return DarwinChatModel.from_pretrained(policy_path(), reward_path(), dtype="float64", threads=1, cycles=1)


def main(argv: list[str] | None = None) -> int:
    """Run the job; exit codes as ``darwin-align batch`` has them."""
    arguments = _parser().parse_args(argv)
    try:
        import ray

        from darwin_align.integrations.ray.job import answer_on_ray
    except ImportError as error:
        raise missing_extra(error, "ray", program=True) from None
    try:
        make = _make(arguments)
        # A running cluster has a dashboard of its own, or none, and refuses the option.
        ray.init(address=arguments.address, include_dashboard=None if arguments.address else False)
        report = answer_on_ray(
            make,
            arguments.input,
            arguments.out,
            seed=arguments.seed,
            actors=arguments.actors,
            concurrency=arguments.concurrency,
            rows_per_part=arguments.rows_per_part,
            fields=Fields(prompt=arguments.prompt_field, id=arguments.id_field),
            accept_changes=arguments.accept_changes,
            resources={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        )
    except DarwinError as error:
        sys.stderr.write(printable(error) + "\n")
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        sys.stderr.write(f"{printable(error)}: nothing was taken off; run the same command again once it can be read\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: run the same command again to go on\n")
        return 130
    print(printable(_in_words(report)))
    return int(report.code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m darwin_align.integrations.ray",
        description=__doc__,
        allow_abbrev=False,
        parents=[_models()],
    )
    parser.add_argument("input", metavar="IN", help="JSONL or parquet, as for darwin-align batch")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a folder that every machine sees")
    parser.add_argument(
        "--make",
        metavar="MODULE:NAME",
        help="function that makes the model, in place of the options for models and search",
    )
    parser.add_argument("--address", metavar="ADDRESS", help="of a cluster, e.g. auto (default: this machine alone)")
    parser.add_argument("--actors", type=int, default=1, metavar="N", help="holders of models (default: 1)")
    parser.add_argument("--concurrency", type=int, default=16, metavar="N", help="prompts in flight in each")
    parser.add_argument("--rows-per-part", type=int, default=64, metavar="N", help="prompts written at a time")
    parser.add_argument("--cpus", type=float, default=1, metavar="N", help="of each actor (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, metavar="N", help="of each actor (default: 0)")
    parser.add_argument("--prompt-field", default="prompt", metavar="NAME")
    parser.add_argument("--id-field", default="id", metavar="NAME")
    parser.add_argument("--accept-changes", action="store_true", help="go on although settings or input changed")
    return parser


def _models() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_models(parser)
    add_settings(parser, seed="0; every prompt's own is derived from it")
    return parser


def _make(arguments: argparse.Namespace) -> Make:
    """What makes the model: a function of one's own, or the options, else the embedded pair."""
    defaults = vars(_models().parse_args([]))
    given = [name for name, value in defaults.items() if name != "seed" and getattr(arguments, name) != value]
    if arguments.make is None:
        check_models(arguments)
        read_settings(arguments)
        return partial(build_search, arguments) if given else embedded
    if given:
        raise ConfigError(f"--make gives the model and its settings: leave out --{given[0].replace('_', '-')}")
    name = arguments.make
    module, _, function = name.partition(":")
    try:
        make: Make = getattr(import_module(module), function)
        return make
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--make {name}: give MODULE:NAME of a function without arguments ({error})") from None


def _in_words(report: RayReport) -> str:
    lines = [f"{report.answered:,} answered ({report.new:,} by this run): {report.out / 'answers'}"]
    if report.bad or report.failed:
        lines.append(f"{report.bad:,} bad lines, {report.failed:,} failed: {report.out / 'errors.jsonl'}; run again")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
