"""``darwin-align batch``: answers to many prompts, in files."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO

from darwin_align.cli.activity import working
from darwin_align.cli.options import add_models, add_settings, build_search, check_models, read_settings
from darwin_align.cli.parsing import Commands, examples
from darwin_align.core.terminal import printable, printable_json

if TYPE_CHECKING:
    from darwin_align.batch.job import BatchReport, Stop
    from darwin_align.batch.prompt import Fields
    from darwin_align.chat_model import DarwinChatModel
    from darwin_align.search import DarwinSearch

__all__ = ["add_batch", "run"]

_FIELDS = ("prompt", "messages", "id", "seed", "settings")


def add_batch(commands: Commands) -> argparse.ArgumentParser:
    """Add the command to the program's.

    Args:
        commands: what ``parser.add_subparsers()`` returned.
    """
    batch: argparse.ArgumentParser = commands.add_parser(
        "batch",
        help="many prompts from a file; run it again to go on",
        usage="%(prog)s [options] IN --out OUT",
        description="Answer every prompt of a file. Run again, it goes on where it ended, also after a kill.",
        epilog=examples("""
            darwin-align batch prompts.jsonl --out answers.jsonl --concurrency 32
            darwin-align batch prompts.jsonl --out answers.jsonl --set cycles=1 --set max_tokens=256 --seed 7
            darwin-align batch prompts.jsonl --out answers.jsonl --requests-in-flight 256 --concurrency 64 \\
                --policy-url http://gpu-0:8000 http://gpu-1:8000 --reward-url http://gpu-2:8000
        """)
        + "\n\nexit codes: 0 all is answered, 1 something is not (OUT.errors.jsonl says why), 2 bad usage,\n"
        "130 interrupted",
    )
    batch.add_argument("input", metavar="IN", help='JSONL ({"prompt": …} or {"messages": […]} a line), .parquet, or -')
    batch.add_argument("--out", required=True, metavar="OUT", help="JSONL file of answers; what is in it is kept")
    batch.add_argument("--concurrency", type=int, default=16, metavar="N", help="prompts in flight (default: 16)")
    batch.add_argument(
        "--give-up-after", type=int, default=20, metavar="N", help="end when so many failed in a row (default: 20)"
    )
    batch.add_argument(
        "--accept-changes", action="store_true", help="go on although settings or input are others than OUT's"
    )
    batch.add_argument(
        "--metrics-port", type=int, metavar="N", help="serve figures for Prometheus at 127.0.0.1:N/metrics meanwhile"
    )
    batch.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_models(batch)
    add_settings(batch, seed="0; every prompt's own is derived from it")
    names = batch.add_argument_group("fields of a row, where they have other names")
    for name in _FIELDS:
        names.add_argument(f"--{name}-field", default=name, metavar="NAME", help=f"(default: {name})")
    batch.set_defaults(run=_batch, parser=batch)
    return batch


def _batch(arguments: argparse.Namespace) -> int:
    check_models(arguments)
    read_settings(arguments)
    return run(arguments, build_search)


def run(arguments: argparse.Namespace, make: Callable[[argparse.Namespace], DarwinChatModel | DarwinSearch]) -> int:
    """Run the command.

    Args:
        arguments: what the parser read.
        make: makes the model of the other options; called once input and output are known to be usable.

    Returns:
        The exit code.

    Raises:
        ConfigError: bad usage, exit code 2.
    """
    with working("starting"):
        from darwin_align.batch.job import check_sink
        from darwin_align.batch.prompt import Fields
        from darwin_align.batch.source import source_of

    names = Fields(**{name: getattr(arguments, f"{name}_field") for name in _FIELDS})
    source = sys.stdin.buffer if arguments.input == "-" else Path(arguments.input)
    source_of(source, names)  # a missing file is an error before models are loaded
    check_sink(arguments.out, source)
    with _figures(arguments.metrics_port):
        return _answered(arguments, source, names, make(arguments))


def _answered(
    arguments: argparse.Namespace, source: Path | BinaryIO, names: Fields, model: DarwinChatModel | DarwinSearch
) -> int:
    from darwin_align.batch.job import Stop, run_batch

    stop = Stop()
    with _signals(stop):
        report = run_batch(
            model,
            source,
            arguments.out,
            seed=arguments.seed,
            concurrency=arguments.concurrency,
            fields=names,
            accept_changes=arguments.accept_changes,
            give_up_after=arguments.give_up_after,
            progress=True,
            stop=stop,
        )
    sys.stdout.write((_as_json(report) if arguments.json else printable(_in_words(report))) + "\n")
    return report.code


def _figures(port: int | None) -> AbstractContextManager[None]:
    """Serve figures while prompts are answered, if a port is given."""
    if port is None:
        return nullcontext()
    from darwin_align.telemetry.prometheus import serving_metrics

    return serving_metrics(port)


@contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run after the prompts in flight, and at once when they come again."""

    def request_stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if not stop.requested:
            _note("stopping after the prompts in flight; once more drops them, and the next run answers them")
        stop.request()

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _note(text: str) -> None:
    # Not through sys.stderr: a handler may interrupt a write to it, which it cannot enter twice.
    os.write(2, f"\ndarwin-align: {text}\n".encode())


def _as_json(report: BatchReport) -> str:
    shown = {item.name: getattr(report, item.name) for item in fields(report)}
    shown |= {"output": str(report.output), "errors": str(report.errors), "usage": report.usage.model_dump()}
    return printable_json({**shown, "code": report.code}, indent=2)


def _in_words(report: BatchReport) -> str:
    counts = [f"{report.answered:,} answered ({report.new:,} by this run)"]
    counts += [f"{report.bad:,} bad lines"] if report.bad else []
    counts += [f"{report.failed:,} failed"] if report.failed else []
    lines = [f"{', '.join(counts)}: {report.output}"]
    if report.bad or report.failed:
        again = "; run again to try the failed ones once more" if report.failed else ""
        lines.append(f"Why not the others: {report.errors}{again}")
    if report.gave_up:
        lines.append(f"Gave up: {printable(report.gave_up, single_line=True)}")
    if report.interrupted:
        lines.append("Interrupted: run the same command again to go on")
    if report.unused:
        lines.append(f"Fields that were not read: {printable(', '.join(report.unused), single_line=True)}")
    usage = report.usage
    lines.append(
        f"{report.seconds:,.1f} s, {usage.decoded_tokens:,} tokens decoded, {usage.reward_calls:,} responses scored"
    )
    return "\n".join(lines)
