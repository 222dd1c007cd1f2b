"""Text from users, models and servers, made safe to print: it must not control the terminal that shows it."""

from __future__ import annotations

import json
import logging
import re

from darwin_align.core.json_types import Json

__all__ = ["PrintableFormatter", "printable", "printable_json"]

_CONTROLS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f"
)
"""Control characters (C0 but for tab and line feed, DEL, C1), bidirectional marks, embeddings, overrides and isolates,
line and paragraph separators, byte order marks, surrogates, and invisible tag characters."""
_UNPRINTABLE = re.compile(f"[{_CONTROLS}]")
_UNPRINTABLE_OR_NEW_LINE = re.compile(f"[\n{_CONTROLS}]")


def printable(text: object, *, single_line: bool = False) -> str:
    r"""Replace characters that control a terminal or hide text by the escapes that Python writes for them.

    >>> printable("\x1b[31mred\x1b[0m and \u202eesrever")
    '\\x1b[31mred\\x1b[0m and \\u202eesrever'
    >>> printable("two\r\nlines"), printable("two\nlines", single_line=True)
    ('two\nlines', 'two\\nlines')

    Args:
        text: anything; objects other than strings are converted by ``str``.
        single_line: also replace line feeds, for text that is a part of a line of ours.
    """
    pattern = _UNPRINTABLE_OR_NEW_LINE if single_line else _UNPRINTABLE
    return pattern.sub(_escape, str(text).replace("\r\n", "\n"))


def printable_json(value: Json, *, indent: int | None = None) -> str:
    r"""JSON for a terminal or a pipe: the characters that :func:`printable` replaces are JSON escapes.

    >>> print(printable_json({"answer": "caf\u00e9 \x9b31m"}))
    {"answer": "café \u009b31m"}
    """
    return _UNPRINTABLE.sub(_json_escape, json.dumps(value, ensure_ascii=False, indent=indent))


class PrintableFormatter(logging.Formatter):
    """A log formatter whose output is :func:`printable`, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return printable(super().format(record))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _json_escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]
