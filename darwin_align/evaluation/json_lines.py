"""Files of JSON objects that users bring: one object a line, packed or not, or one list."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from darwin_align.core.errors import ConfigError
from darwin_align.core.json_types import Json

__all__ = ["numbered", "read_text"]


def read_text(path: str | Path, what: str) -> str:
    """Read a file in UTF-8, unpacked if its name ends in ``.gz``.

    Args:
        path: of the file.
        what: what it holds, in the plural, for the error.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
        return (gzip.decompress(data) if Path(path).suffix == ".gz" else data).decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or "it is not packed by gzip"
    except UnicodeDecodeError as error:
        reason = error.reason
    except (EOFError, zlib.error):
        reason = "its end is missing, or it is damaged"
    raise ConfigError(f"cannot read {what} from {path} ({reason}): give a JSONL file in UTF-8")


def numbered(text: str, source: str, *, what: str, example: str) -> Iterator[tuple[str, Json]]:
    r"""The values of a text with their places: one a line, or the entries of one list.

    Args:
        text: of the file.
        source: its name.
        what: what it holds, in the plural, for the errors.
        example: a value as it is to be written.

    Raises:
        ConfigError: a line is no JSON, or there is no value at all.

    >>> list(numbered('{"a": 1}\n\n{"a": 2}', "mine.jsonl", what="rows", example='{"a": …}'))
    [('mine.jsonl, line 1', {'a': 1}), ('mine.jsonl, line 3', {'a': 2})]
    """
    if (entries := _list(text)) is not None:
        found = [(f"{source}, entry {number}", entry) for number, entry in enumerate(entries, 1)]
    else:
        found = []
        for number, line in enumerate(text.split("\n"), 1):  # JSON allows the other line ends inside a text
            if line.strip():
                found.append((f"{source}, line {number}", _value(line, f"{source}, line {number}", example)))
    if not found:
        raise ConfigError(f"{source} holds no {what}: write one a line: {example}")
    yield from found


def _list(text: str) -> list[Json] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None  # the error of its first line is the better one
    return data if isinstance(data, list) else None


def _value(line: str, place: str, example: str) -> Json:
    try:
        value: Json = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"this is no JSON ({error.msg}); write one object a line: {example}"
        raise ConfigError(f"{place}, column {error.colno}: {message}") from None
    except RecursionError:
        raise ConfigError(f"{place}: this is nested too deeply; write one object a line: {example}") from None
    return value
