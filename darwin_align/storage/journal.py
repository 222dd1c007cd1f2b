"""An append-only file of lines that survives kills, full disks and losses of power."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from darwin_align.core.errors import ConfigError, DarwinError
from darwin_align.storage.files import BINARY, make_folder, refuse_irregular, sync_folder, write_all
from darwin_align.storage.lock import lock

__all__ = ["Journal"]

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors that pass once there is room, in contrast to a file that may not be written to."""


class Journal:
    r"""Lines that are appended whole or not at all, in a file that one run at a time may lock.

    A killed process loses nothing that was appended. Only the last line can be unfinished, and :meth:`lines` takes it
    off. Any thread may append.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "journal.jsonl"
    >>> with Journal(path) as journal:
    ...     journal.append(b'{"n":1}')
    >>> _ = path.write_bytes(path.read_bytes() + b'{"n":')  # killed while it appended
    >>> with Journal(path) as journal:
    ...     list(journal.lines())
    [b'{"n":1}\n']
    >>> folder.cleanup()

    Args:
        path: the file; it and its folders are made.
        line_starts: what its lines begin with. An unfinished last line that begins otherwise is not this journal's, and
            is left as it is.
        sync_seconds: appended lines are put on the disk (fsync) when so many seconds have passed since the last time:
            what a loss of power may cost. 0 does so with every line.
        anew: truncate the file.
        advice: what to do instead when the file cannot be used, for messages.

    Raises:
        ConfigError: it is no regular file, cannot be written to, or another run has locked it.
        DarwinError: the disk is full or fails.
    """

    def __init__(
        self,
        path: Path,
        *,
        line_starts: Sequence[bytes] = (b"{",),
        sync_seconds: float = 0.0,
        anew: bool = False,
        advice: str = "give another output",
    ) -> None:
        self.path = path
        self._line_starts, self._sync_seconds, self._advice = line_starts, sync_seconds, advice
        self._appending = threading.Lock()
        self._torn = False
        """Whether a part of a line may be at the end, which could not be taken off."""
        self._synced = monotonic()
        self._file = self._opened()
        try:
            lock(self._file, path, advice=advice)
            if anew:
                self._truncate(0)
            self._read_through = self._size() == 0
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def lines(self) -> Iterator[bytes]:
        """Read all lines with their line feeds; at the end, take off an unfinished one.

        An unfinished last line that begins otherwise than this journal's is given without a line feed. Whoever goes on
        nevertheless has taken it for a line, so it is ended.

        Raises:
            DarwinError: the file cannot be read, or the disk does not take the repair.
        """
        end = 0
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
            with open(self._file, "rb", closefd=False) as file:  # Windows lets no other descriptor read a locked file
                for line in file:
                    if self._is_unfinished(line):
                        break
                    yield line
                    end += len(line)
                    if not line.endswith(b"\n"):
                        write_all(self._file, b"\n")
                        end += 1
        except OSError as error:
            raise self._failure(error.strerror) from error
        if end < self._size():
            self._truncate(end)
        self._read_through = True

    def append(self, line: bytes) -> None:
        """Append a line.

        Args:
            line: without a line feed.

        Raises:
            DarwinError: the disk does not take it; what is in the file stays good.
            RuntimeError: the file had lines and was not read to its end, which may be an unfinished line.
        """
        with self._appending:
            if not self._read_through:
                raise RuntimeError(f"{self.path} must be read to its end before anything is appended")
            if self._torn:
                raise self._failure("an earlier line could not be written")
            size = self._size()
            try:
                write_all(self._file, line + b"\n")
                if monotonic() - self._synced >= self._sync_seconds:
                    self._sync()
            except BaseException as error:
                self._take_off(size)
                if isinstance(error, OSError):
                    raise self._failure(error.strerror) from error
                raise

    def sync(self) -> None:
        """Put all lines on the disk.

        Raises:
            DarwinError: the disk does not take them.
        """
        try:
            self._sync()
        except OSError as error:
            raise self._failure(error.strerror) from error

    def close(self) -> None:
        """Close and unlock the file. Closing twice is no error."""
        if self._file >= 0:
            with suppress(OSError):  # a run that went well has called sync() already; another has an error of its own
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def _opened(self) -> int:
        refuse_irregular(self.path)
        try:
            make_folder(self.path.parent)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | BINARY, 0o644)
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise self._failure(error.strerror) from error
            raise ConfigError(f"cannot write to {self.path} ({error.strerror}): {self._advice}") from None
        try:
            sync_folder(self.path.parent)
        except OSError as error:
            os.close(file)
            raise self._failure(error.strerror) from error
        return file

    def _is_unfinished(self, line: bytes) -> bool:
        """Whether a kill cut this line in two. A file of another program's must not lose its end."""
        return not line.endswith(b"\n") and any(line[: len(start)] == start[: len(line)] for start in self._line_starts)

    def _size(self) -> int:
        try:
            return os.fstat(self._file).st_size
        except OSError as error:
            raise self._failure(error.strerror) from error

    def _take_off(self, size: int) -> None:
        """Remove the written part of a line. If that fails too, the next run does it, as after a kill."""
        try:
            os.ftruncate(self._file, size)
        except OSError:
            self._torn = True  # nothing may follow the unfinished line

    def _truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._file, size)
        except OSError as error:
            raise self._failure(error.strerror) from error

    def _sync(self) -> None:
        os.fsync(self._file)
        self._synced = monotonic()

    def _failure(self, reason: str | None) -> DarwinError:
        return DarwinError(
            f"cannot write to {self.path} ({reason}): what is in it stays good; run the command again once there is "
            "room"
        )
