"""The program: its parser, and what becomes of errors."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper

from darwin_align.cli.batch import add_batch
from darwin_align.cli.chat import add_chat
from darwin_align.cli.check_scorer import add_check_scorer
from darwin_align.cli.demo import add_demo
from darwin_align.cli.evaluate import add_eval
from darwin_align.cli.options import UsageError
from darwin_align.cli.parsing import Commands, Parser, examples
from darwin_align.cli.plan import add_plan
from darwin_align.core.errors import ConfigError, DarwinError, RequestError
from darwin_align.core.terminal import PrintableFormatter, printable

__all__ = ["fail", "main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _write_whatever_comes()
    arguments = parser().parse_args(argv)
    try:
        with _printable_logs():
            code = int(arguments.run(arguments))
        sys.stdout.flush()
    except UsageError as error:
        code = int(arguments.parser.refuse(str(error)))
    except (ConfigError, RequestError) as error:
        code = fail(error, 2)
    except BrokenPipeError:  # the reader of the output ended, e.g. head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (DarwinError, OSError) as error:
        code = fail(error, 1)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        code = 130
    except Exception:  # noqa: BLE001 - the interpreter would print the same traceback, with whatever text it quotes
        sys.stderr.write(printable(traceback.format_exc()))
        code = 1
    return code


def fail(error: Exception, code: int) -> int:
    """Print an error and its notes, and return the exit code."""
    lines = [f"darwin-align: {error}", *getattr(error, "__notes__", ())]
    print(printable("\n".join(lines)), file=sys.stderr)
    return code


def parser() -> Parser:
    """The parser of all commands."""
    program = Parser(
        prog="darwin-align",
        usage="%(prog)s [-h] COMMAND …",
        description="Search for a well rewarded answer while decoding it (DARWIN, arXiv 2406.15193).",
        epilog=examples("""
            darwin-align demo "How do I brew green tea?"
            darwin-align chat --policy meta-llama/Meta-Llama-3-8B-Instruct --reward sfairXC/FsfairX-LLaMA3-RM-v0.1
            darwin-align batch prompts.jsonl --out answers.jsonl --set cycles=1 --reward scorer.py:score
            darwin-align COMMAND --help
        """),
    )
    commands = program.add_subparsers(required=True, prog=program.prog, metavar="COMMAND", title="commands")
    for add in (add_demo, add_chat, add_batch, add_plan, add_check_scorer, add_eval, _add_serve):
        add(commands)
    return program


def _add_serve(commands: Commands) -> None:
    from darwin_align.integrations.openai_server.command import add_parser

    add_parser(commands)


def _write_whatever_comes() -> None:
    """Let characters that a stream cannot encode be written as escapes, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _printable_logs() -> Iterator[None]:
    """Clean the warnings that Python prints where the program that hosts us set up no logging."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(PrintableFormatter())
    before, logging.lastResort = logging.lastResort, handler
    try:
        yield
    finally:
        logging.lastResort = before
