"""Records on the disk, one line each: a run that was killed at any moment goes on without loss or double."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from darwin_align.core.errors import ConfigError
from darwin_align.storage.journal import Journal
from darwin_align.storage.settings import differences

__all__ = ["Ledger"]

Record = dict[str, Any]

_SCHEMA = 1
_LINE_STARTS = (b'{"schema":%d,' % _SCHEMA, b'{"key":"')
_ADVICE = "give another --out"


class Ledger:
    """Records by key in an append-only JSONL file whose first line holds the settings that it was begun under.

    A record is on the disk before anything else happens, so what :attr:`records` holds is never lost. A line that a
    kill cut in two is taken off at the next start. One process at a time may hold the file.

    Args:
        path: the file; its folders are made.
        settings: all that decides a record, as plain JSON data. Another start must give the same.

    Raises:
        ConfigError: the file was begun under other settings, is no ledger, or another process holds it.
        DarwinError: the disk is full or fails.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.records: dict[str, Record] = {}
        self._settings = json.loads(json.dumps(settings))
        self._making: dict[str, asyncio.Lock] = {}
        self._journal = Journal(self.path, line_starts=_LINE_STARTS, advice=_ADVICE)
        try:
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
        self._journal.close()

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

    def _load(self) -> None:
        number = 0
        for number, line in enumerate(self._journal.lines(), 1):
            if number == 1:
                self._check_head(line)
                continue
            record = self._read(line, number)
            key = record.pop("key")
            if key in self.records:
                raise ConfigError(f"{self.path}, line {number}: {key!r} is there twice; take one of the two lines out")
            self.records[key] = record
        if not number:
            self._write({"schema": _SCHEMA, "settings": self._settings})

    def _check_head(self, line: bytes) -> None:
        try:
            head = json.loads(line)
            schema, begun = head["schema"], dict(head["settings"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(f"{self.path} is no file of this command: {_ADVICE}") from None
        if schema != _SCHEMA:
            raise ConfigError(f"{self.path} is of schema {schema}, and this version reads {_SCHEMA}: {_ADVICE}")
        if found := differences(begun, self._settings):
            raise ConfigError(
                f"{self.path} was begun under other settings: {'; '.join(found)}. Give the earlier settings to "
                "go on with it, or another --out to begin anew"
            )

    def _read(self, line: bytes, number: int) -> Record:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record["key"], str):
                return record
        except (ValueError, KeyError, RecursionError):
            pass
        raise ConfigError(f"{self.path}, line {number} is no record: take the line out, and its prompt is done anew")

    def _write(self, data: Mapping[str, Any]) -> None:
        self._journal.append(json.dumps(data, separators=(",", ":")).encode())
