"""The files of a batch: answers appended whole, what has none beside them, and the settings that made them."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

from darwin_align.batch.index import Index
from darwin_align.batch.prompt import as_json
from darwin_align.core.errors import ConfigError, DarwinError

try:
    import fcntl
except ImportError:  # Windows: nobody watches over two processes there
    fcntl = None  # type: ignore[assignment]

__all__ = ["Answers", "Errors", "Record", "RunFile", "lock", "refuse_irregular", "replace_file"]

Record = dict[str, Any]

_SCHEMA = 1
_SYNC_SECONDS = 1.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
)


class Answers:
    """The answers' file: a line each, in the order in which they come.

    A killed process loses nothing that was appended; a machine that loses its power loses a second's answers, which are
    made anew. One process at a time may hold the file.

    Args:
        path: the file; its folders are made.

    Raises:
        ConfigError: the file is no regular file, cannot be written, or another process holds it.
        DarwinError: the disk is full or fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken = False
        self.count = 0
        """Answers in the file."""
        self._synced = monotonic()
        self._file = self._opened()
        try:
            lock(self._file, path)
        except BaseException:
            self.close()
            raise

    def load(self, index: Index, asked_to_stop: Callable[[], bool] = bool) -> None:
        """Tell the index what is answered already, and take off a last line that is not whole.

        Raises:
            ConfigError: the file is no output of a batch.
        """
        for number, start, line in self._lines():
            if _is_torn(line):
                os.ftruncate(self._file, start)
            elif (found := _key_and_digest(line)) is None:
                raise ConfigError(
                    f"{self.path}, line {number} is no answer of a batch: give another output, or take the line out "
                    "and its prompt is answered anew"
                )
            elif not index.add_answer(*found):
                raise ConfigError(f"{self.path}, line {number}: {found[0]!r} is answered twice; take one line out")
            else:
                self.count += 1
            if asked_to_stop():
                return

    def append(self, record: Record) -> None:
        """Append an answer.

        Raises:
            DarwinError: the disk does not take it; what is in the file stays good.
        """
        if self._broken:
            raise self._failure("an earlier answer could not be written")
        size = os.fstat(self._file).st_size
        try:
            _write_all(self._file, _encoded(record))
            if monotonic() - self._synced >= _SYNC_SECONDS:
                self._sync()
        except OSError as error:
            self._take_off(size)
            raise self._failure(error.strerror) from error
        self.count += 1

    def sync(self) -> None:
        """Make sure that all answers are on the disk.

        Raises:
            DarwinError: the disk does not take them.
        """
        try:
            self._sync()
        except OSError as error:
            raise self._failure(error.strerror) from error

    def _take_off(self, size: int) -> None:
        """Take off what was written of an answer. If that fails too, the next run does it, as after a kill."""
        try:
            os.ftruncate(self._file, size)
        except OSError:
            self._broken = True  # nothing may follow the torn line

    def _failure(self, reason: str | None) -> DarwinError:
        return DarwinError(
            f"cannot write to {self.path} ({reason}): what is in it stays good; run the command again once there is "
            "room"
        )

    def close(self) -> None:
        """Let go of the file. Closing twice is no error."""
        if self._file >= 0:
            with suppress(OSError):  # a run that went well has synced already; another has an error of its own
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def _opened(self) -> int:
        refuse_irregular(self.path)
        try:
            _make_folder(self.path.parent)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise self._failure(error.strerror) from error
            raise ConfigError(f"cannot write to {self.path} ({error.strerror}): give another output") from None
        try:
            sync_folder(self.path.parent)
        except OSError as error:
            os.close(file)
            raise self._failure(error.strerror) from error
        return file

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        start = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, start, line
                start += len(line)

    def _sync(self) -> None:
        os.fsync(self._file)
        self._synced = monotonic()


class Errors:
    """What has no answer after this run, a line each; a run that finds nothing to say leaves no file.

    Any thread may append.

    Raises:
        ConfigError: what an earlier run left cannot be taken away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._appending = threading.Lock()
        refuse_irregular(path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot replace {path} ({error.strerror}): give another output") from None

    def append(self, record: Record) -> None:
        """Say why a row has no answer."""
        try:
            with self._appending:  # opened by two at once, the later one would empty the file
                if self._file is None:
                    self._file = self.path.open("wb", buffering=0)
                    sync_folder(self.path.parent)
                _write_all(self._file.fileno(), _encoded(record))
        except OSError as error:
            raise DarwinError(f"cannot write to {self.path} ({error.strerror}): make room, and run again") from error

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


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
            begun: whether the output holds answers.
            accept_changes: let other settings pass.

        Raises:
            ConfigError: the answers were made under other settings, or nobody knows under which.
        """
        if begun and not accept_changes:
            if differences := list(_differences(self._read(), settings)):
                raise ConfigError(
                    f"{self.output} was begun under other settings: {'; '.join(differences)}. Give the earlier "
                    "settings to go on with it, another output to begin anew, or accept the changes: each line's "
                    "fingerprint tells the settings that it was made under"
                )
            return
        data = json.dumps({"schema": _SCHEMA, "settings": settings}, ensure_ascii=False, indent=2) + "\n"
        replace_file(self.path, data.encode("utf-8", "backslashreplace"))

    def _read(self) -> Mapping[str, Any]:
        try:
            told = json.loads(self.path.read_bytes())
            schema, settings = told["schema"], dict(told["settings"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{self.output} holds answers, but {self.path} does not tell the settings that they were made under: "
                "give another output, or accept the changes"
            ) from None
        if schema != _SCHEMA:
            raise ConfigError(f"{self.path} is of schema {schema}, this version reads {_SCHEMA}: give another output")
        return settings


def lock(file: int, path: Path) -> None:
    """Hold an open file for this process, until it is closed or the process ends.

    Raises:
        ConfigError: another process holds it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(f"another process is writing to {path}: wait for it to end, or give another output") from None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all, also after a kill.

    Raises:
        DarwinError: the disk does not take it.
    """
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with passing.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to tell
            passing.unlink(missing_ok=True)
        raise DarwinError(f"cannot write {path} ({error.strerror}): make room, and run again") from error


def refuse_irregular(path: Path) -> None:
    """Refuse a path that is there and is no regular file.

    Raises:
        ConfigError: it is a folder, device, pipe or socket: it keeps nothing, or cannot be read again.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # it is not there, or opening it tells why not
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "special file")
        raise ConfigError(f"{path} is a {kind}: give a regular file for the answers")


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: without it, a new file may be gone after a loss of power."""
    if os.name == "nt":  # folders cannot be opened there
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _make_folder(folder: Path) -> None:
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def _encoded(record: Record) -> bytes:
    # Half a surrogate pair in an answer becomes the escape that JSON has for it.
    return as_json(record).encode("utf-8", "backslashreplace") + b"\n"


def _write_all(file: int, data: bytes) -> None:
    written = 0
    while written < len(data):
        written += os.write(file, data[written:])


def _is_torn(line: bytes) -> bool:
    """Whether a kill cut this answer in two. A file that is none of ours must not lose its end."""
    begin = b'{"id":'
    return not line.endswith(b"\n") and line[: len(begin)] == begin[: len(line)]


def _key_and_digest(line: bytes) -> tuple[str, str] | None:
    """The answered prompt of a line; ``None`` if it has none."""
    try:
        record = json.loads(line)
        key, digest = record["id"], record["input"]
    except (ValueError, KeyError, TypeError):
        return None
    return (key, digest) if isinstance(key, str) and isinstance(digest, str) else None


def _differences(begun: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """What was set otherwise, in words."""
    for name in sorted(begun.keys() | now.keys()):
        before, after = begun.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{within}{name}.")
        elif before != after:
            yield f"{within}{name} was {_shown(before, after)} and is now {_shown(after, before)}"


def _shown(value: Any, other: Any) -> str:
    """A value's text around the place where it parts from the other's."""
    text, beside = (json.dumps(side, ensure_ascii=False) for side in (value, other))
    if len(text) <= 100:
        return text
    same = next((i for i, (a, b) in enumerate(zip(text, beside, strict=False)) if a != b), len(beside))
    start = max(0, same - 40)
    return f"{'…' if start else ''}{text[start : start + 100]}{'…' if start + 100 < len(text) else ''}"
