"""The files of a batch: answers appended whole, what has none beside them, and the settings that made them."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from darwin_align.batch.index import Index
from darwin_align.batch.prompt import as_json
from darwin_align.core.errors import ConfigError
from darwin_align.storage.atomic import write_atomically
from darwin_align.storage.files import refuse_irregular
from darwin_align.storage.journal import Journal
from darwin_align.storage.settings import differences

__all__ = ["Answers", "Errors", "Record", "RunFile"]

Record = dict[str, Any]

_SCHEMA = 1
_SYNC_SECONDS = 1.0


class Answers:
    """The answers' file: a line each, in the order in which they come.

    A killed process loses nothing that was appended; a machine that loses its power loses a second's answers, which are
    made anew. One process at a time may lock the file.

    Args:
        path: the file; its folders are made.

    Raises:
        ConfigError: the file is no regular file, cannot be written, or another process has locked it.
        DarwinError: the disk is full or fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        """Answers in the file."""
        self._journal = Journal(path, line_starts=(b'{"id":"',), sync_seconds=_SYNC_SECONDS)

    def load(self, index: Index, asked_to_stop: Callable[[], bool] = bool) -> None:
        """Tell the index what is answered already, and take off a last line that is not whole.

        Raises:
            ConfigError: the file is no output of a batch.
        """
        for number, line in enumerate(self._journal.lines(), 1):
            if (found := _key_and_digest(line)) is None:
                raise ConfigError(
                    f"{self.path}, line {number} is no answer of a batch: give another output, or take the line out "
                    "and its prompt is answered anew"
                )
            if not index.add_answer(*found):
                raise ConfigError(f"{self.path}, line {number}: {found[0]!r} is answered twice; take one line out")
            self.count += 1
            if asked_to_stop():
                return

    def append(self, record: Record) -> None:
        """Append an answer.

        Raises:
            DarwinError: the disk does not take it; what is in the file stays good.
        """
        self._journal.append(_encoded(record))
        self.count += 1

    def sync(self) -> None:
        """Make sure that all answers are on the disk.

        Raises:
            DarwinError: the disk does not take them.
        """
        self._journal.sync()

    def close(self) -> None:
        """Let go of the file. Closing twice is no error."""
        self._journal.close()


class Errors:
    """What has no answer after this run, a line each; a run without any leaves no file.

    Any thread may append.

    Raises:
        ConfigError: what an earlier run left cannot be taken away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal: Journal | None = None
        self._opening = threading.Lock()
        refuse_irregular(path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot replace {path} ({error.strerror}): give another output") from None

    def append(self, record: Record) -> None:
        """Say why a row has no answer.

        Raises:
            DarwinError: the disk does not take it.
        """
        with self._opening:  # opened by two threads at once, the second would be refused
            if self._journal is None:
                self._journal = Journal(self.path, sync_seconds=math.inf, anew=True)
        self._journal.append(_encoded(record))

    def close(self) -> None:
        """Let go of the file."""
        if self._journal is not None:
            self._journal.close()


class RunFile:
    """The settings that an output's answers were made under.

    Args:
        path: the file.
        output: the answers' file, for messages.
    """

    def __init__(self, path: Path, output: Path) -> None:
        self.path, self.output = path, output

    def check(self, settings: Mapping[str, Any], *, begun: bool, accept_changes: bool) -> None:
        """Write the settings down, or compare them with those that are.

        Args:
            settings: of this run, as plain JSON data.
            begun: whether the output has answers.
            accept_changes: let other settings pass.

        Raises:
            ConfigError: the answers were made under other settings, or under unknown ones.
        """
        if begun and not accept_changes:
            if found := differences(self._read(), settings):
                raise ConfigError(
                    f"{self.output} was begun under other settings: {'; '.join(found)}. Give the earlier "
                    "settings to go on with it, another output to begin anew, or accept the changes: each line's "
                    "fingerprint identifies the settings that it was made under"
                )
            return
        data = json.dumps({"schema": _SCHEMA, "settings": settings}, ensure_ascii=False, indent=2) + "\n"
        write_atomically(self.path, data.encode("utf-8", "backslashreplace"))

    def _read(self) -> Mapping[str, Any]:
        try:
            recorded = json.loads(self.path.read_bytes())
            schema, settings = recorded["schema"], dict(recorded["settings"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{self.output} has answers, but {self.path} does not contain the settings that they were made under: "
                "give another output, or accept the changes"
            ) from None
        if schema != _SCHEMA:
            raise ConfigError(f"{self.path} is of schema {schema}, this version reads {_SCHEMA}: give another output")
        return settings


def _encoded(record: Record) -> bytes:
    # Half a surrogate pair in an answer becomes the escape that JSON has for it.
    return as_json(record).encode("utf-8", "backslashreplace")


def _key_and_digest(line: bytes) -> tuple[str, str] | None:
    """The answered prompt of a line; ``None`` if it has none."""
    try:
        record = json.loads(line)
        key, digest = record["id"], record["input"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (key, digest) if isinstance(key, str) and isinstance(digest, str) else None
