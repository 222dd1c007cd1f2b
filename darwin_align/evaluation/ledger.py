"""Records on the disk, one line each: a run that was killed at any moment goes on without loss or double."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from darwin_align.core.errors import ConfigError, DarwinError

try:
    import fcntl
except ImportError:  # Windows: nobody watches over two processes there
    fcntl = None  # type: ignore[assignment]

__all__ = ["Ledger", "write_atomically"]

Record = dict[str, Any]

_SCHEMA = 1
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write other line ends


class Ledger:
    """Records by key in an append-only JSONL file whose first line holds the settings that it was begun under.

    A record is on the disk before anything else happens, so what :attr:`records` holds is never lost. A line that a
    kill cut in two is taken off at the next start. One process at a time may hold the file.

    Args:
        path: the file; its folders are made.
        settings: all that decides a record, as plain JSON data. Another start must give the same.

    Raises:
        ConfigError: the file was begun under other settings, is no ledger, or another process holds it.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.records: dict[str, Record] = {}
        self._settings = json.loads(json.dumps(settings))
        self._making: dict[str, asyncio.Lock] = {}
        self._file = self._opened()
        try:
            self._lock()
            self._load()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Closing twice is no error."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    async def kept(self, key: str, make: Callable[[], Awaitable[Record]]) -> Record:
        """Return the key's record; if there is none yet, make it and keep it."""
        async with self._making.setdefault(key, asyncio.Lock()):
            if key not in self.records:
                self.append(key, await make())
        return self.records[key]

    def append(self, key: str, record: Record) -> None:
        """Keep a record for good.

        Raises:
            ConfigError: the key has one already.
            DarwinError: the disk does not take it.
        """
        if key in self.records:
            raise ConfigError(f"{self.path} already holds {key!r}: a record is never replaced")
        self._write({"key": key, **record})
        self.records[key] = json.loads(json.dumps(record))  # as another start reads it

    # -- the file

    def _opened(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _BINARY, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path} ({error.strerror}): give another --out") from None

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another process is writing to {self.path}: wait for it to end, or give another --out"
            ) from None

    def _load(self) -> None:
        data = self._whole_lines()
        if not data:
            self._write({"schema": _SCHEMA, "settings": self._settings})
            _sync_folder(self.path.parent)
            return
        head, *lines = data.decode("utf-8", "replace").removesuffix("\n").split("\n")
        self._check_head(head)
        for number, line in enumerate(lines, 2):
            record = self._read(line, number)
            key = record.pop("key")
            if key in self.records:
                raise ConfigError(f"{self.path}, line {number}: {key!r} is there twice; take one of the two lines out")
            self.records[key] = record

    def _whole_lines(self) -> bytes:
        """What is in the file, without a last line that a kill cut in two."""
        data = b""
        os.lseek(self._file, 0, os.SEEK_SET)
        while chunk := os.read(self._file, 1 << 20):
            data += chunk
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.ftruncate(self._file, len(whole))
        return whole

    def _check_head(self, line: str) -> None:
        try:
            head = json.loads(line)
            schema, begun = head["schema"], dict(head["settings"])
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{self.path} is no file of this command: give another --out") from None
        if schema != _SCHEMA:
            raise ConfigError(
                f"{self.path} is of schema {schema}, and this version reads {_SCHEMA}: give another --out"
            )
        if differences := _differences(begun, self._settings):
            raise ConfigError(
                f"{self.path} was begun under other settings: {'; '.join(differences)}. Give the earlier settings to "
                "go on with it, or another --out to begin anew"
            )

    def _read(self, line: str, number: int) -> Record:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record["key"], str):
                return record
        except (ValueError, KeyError):
            pass
        raise ConfigError(f"{self.path}, line {number} is no record: take the line out, and its prompt is done anew")

    def _write(self, data: Mapping[str, Any]) -> None:
        line = json.dumps(data, separators=(",", ":")).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            raise DarwinError(
                f"cannot write to {self.path} ({error.strerror}): what is in it stays good; run the command again once "
                "there is room"
            ) from error


def _differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What was set otherwise, in words."""
    found = []
    for name in sorted(begun.keys() | now.keys()):
        before, after = begun.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after)
        elif before != after:
            found.append(f"{name} was {_shown(before)} and is now {_shown(after)}")
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _sync_folder(folder: Path) -> None:
    """A new file's name is on the disk, too. Not every system opens folders."""
    if fcntl is None:
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_atomically(path: str | Path, text: str) -> Path:
    """Write a file that is there as a whole or not at all, also after a kill.

    Raises:
        DarwinError: the disk does not take it.
    """
    path = Path(path)
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with passing.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        passing.unlink(missing_ok=True)
        raise DarwinError(f"cannot write {path} ({error.strerror}): make room, and run the command again") from error
    return path
