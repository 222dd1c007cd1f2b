"""An argument parser whose errors show the usage of the command that they belong to."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, TypeAlias

from darwin_align.core.terminal import printable

__all__ = ["Commands", "Parser", "examples"]


class Parser(argparse.ArgumentParser):
    """Accepts no abbreviated options, and refuses unknown arguments where they were given."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        defaults = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*args, **{**defaults, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse what is unknown: argparse itself leaves that to the outermost parser and its usage."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggestion(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print this parser's usage and the message, and exit with code 2."""
        sys.exit(self.refuse(message))

    def refuse(self, message: str) -> int:
        """Print this parser's usage and the message, and return the exit code, 2."""
        self.print_usage(sys.stderr)
        sys.stderr.write(f"{self.prog}: error: {printable(message)} (see {self.prog} --help)\n")
        return 2

    def _suggestion(self, unknown: Sequence[str]) -> str:
        options = [text.partition("=")[0] for text in unknown if text.startswith("--")]
        close = [match for text in options for match in get_close_matches(text, self._option_string_actions, n=1)]
        return f" (did you mean {', '.join(close)}?)" if close else ""


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""The return type of ``Parser.add_subparsers``."""


def examples(text: str) -> str:
    r"""An epilog of example command lines.

    >>> examples("darwin-align demo --json")
    'examples:\n  darwin-align demo --json'
    """
    return "examples:\n" + textwrap.indent(textwrap.dedent(text).strip(), "  ")
