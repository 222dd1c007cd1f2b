"""``darwin-align batch``: the command's options and its words."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darwin_align.batch.job import BatchReport, Stop
    from darwin_align.chat_model import DarwinChatModel
    from darwin_align.search import DarwinSearch

__all__ = ["add_parser", "main"]

_FIELDS = ("prompt", "messages", "id", "seed", "settings")


def add_parser(commands: Any, parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    """Add the command to a parser's subparsers.

    Args:
        commands: what ``parser.add_subparsers()`` returned.
        parents: parsers of the options that choose a model, ``--seed`` and ``--json`` among them.
    """
    batch: argparse.ArgumentParser = commands.add_parser(
        "batch",
        parents=list(parents),
        help="many prompts from a file; run it again to go on",
        description="Answer every prompt of a file. Run again, it goes on where it ended, also after a kill.",
        epilog="Exit codes: 0 all is answered, 1 something is not (OUT.errors.jsonl says why), 2 bad usage, "
        "130 interrupted.",
    )
    batch.add_argument("input", metavar="IN", help='JSONL ({"prompt": …} or {"messages": […]} a line), .parquet, or -')
    batch.add_argument("--out", required=True, metavar="OUT", help="JSONL file of answers; what is in it is kept")
    batch.add_argument("--concurrency", type=int, default=16, metavar="N", help="prompts under way (default: 16)")
    for name in _FIELDS:
        batch.add_argument(
            f"--{name}-field", default=name, metavar="NAME", help=f"field of the {name}, if not {name!r}"
        )
    batch.add_argument(
        "--give-up-after", type=int, default=20, metavar="N", help="end when so many failed in a row (default: 20)"
    )
    batch.add_argument(
        "--accept-changes", action="store_true", help="go on although settings or input are others than OUT's"
    )
    return batch


def main(arguments: argparse.Namespace, make: Callable[[argparse.Namespace], DarwinChatModel | DarwinSearch]) -> int:
    """Run the command.

    Args:
        arguments: what the parser read.
        make: makes the model of the other options; called once the input is known to be there.

    Returns:
        The exit code.

    Raises:
        ConfigError: bad usage, exit code 2.
    """
    from darwin_align.batch.job import Stop, run_batch
    from darwin_align.batch.prompt import Fields
    from darwin_align.batch.source import source_of

    names = Fields(**{name: getattr(arguments, f"{name}_field") for name in _FIELDS})
    source = sys.stdin.buffer if arguments.input == "-" else Path(arguments.input)
    source_of(source, names)  # a missing file is told before models are loaded
    model, stop = make(arguments), Stop()
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
    sys.stdout.write((_as_json(report) if arguments.json else _in_words(report)) + "\n")
    return report.code


@contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run after the prompts under way, and at once when they come again."""

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if not stop.asked:
            _note("stopping after the prompts under way; once more drops them, and the next run answers them")
        stop.ask()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
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
    return json.dumps({**shown, "code": report.code}, ensure_ascii=False, indent=2)


def _in_words(report: BatchReport) -> str:
    counts = [f"{report.answered:,} answered ({report.new:,} by this run)"]
    counts += [f"{report.bad:,} bad lines"] if report.bad else []
    counts += [f"{report.failed:,} failed"] if report.failed else []
    lines = [f"{', '.join(counts)}: {report.output}"]
    if report.bad or report.failed:
        again = "; run again to try the failed ones once more" if report.failed else ""
        lines.append(f"Why not the others: {report.errors}{again}")
    if report.gave_up:
        lines.append(f"Gave up: {report.gave_up}")
    if report.interrupted:
        lines.append("Interrupted: run the same command again to go on")
    if report.unused:
        lines.append(f"Fields that nobody read: {', '.join(report.unused)}")
    usage = report.usage
    lines.append(
        f"{report.seconds:,.1f} s, {usage.decoded_tokens:,} tokens decoded, {usage.reward_calls:,} responses scored"
    )
    return "\n".join(lines)
