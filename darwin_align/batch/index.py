"""Which keys are answered and which have a row, on the disk: memory does not grow with the prompts."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from darwin_align.core.errors import DarwinError

__all__ = ["Index", "KeyStatus"]


class KeyStatus(NamedTuple):
    """Whether a key has a row and an answer."""

    first_line: int
    """Line of the first row with this key in this pass: this row's, unless another came before it."""
    answered: str | None
    """Digest of the row that is answered under this key; ``None`` if none is."""


class Index:
    """Keys in a private temporary database, which sqlite keeps in a small cache and a file without a name.

    >>> index = Index()
    >>> index.add_answer("a", "digest")
    True
    >>> index.register_row("a", 1), index.register_row("a", 5)
    (KeyStatus(first_line=1, answered='digest'), KeyStatus(first_line=1, answered='digest'))
    """

    def __init__(self) -> None:
        # One caller at a time, but not always the same thread.
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._execute("PRAGMA journal_mode=OFF")
        self._execute("PRAGMA synchronous=OFF")
        self._execute(
            "CREATE TABLE keys (key TEXT PRIMARY KEY, answered TEXT, line INTEGER, pass INTEGER) WITHOUT ROWID"
        )
        self._pass = 1

    def add_answer(self, key: str, digest: str) -> bool:
        """Register an answer under its key; ``False`` if the key has one."""
        if (found := self._find(key)) is not None and found[0] is not None:
            return False
        self._execute(
            "INSERT INTO keys (key, answered) VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET answered = excluded.answered",
            (key, digest),
        )
        return True

    def register_row(self, key: str, line: int) -> KeyStatus:
        """Register a row under its key and return the key's status."""
        answered, first, seen = self._find(key) or (None, 0, 0)
        if seen == self._pass:
            return KeyStatus(first, answered)
        self._execute(
            "INSERT INTO keys (key, line, pass) VALUES (?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET line = excluded.line, pass = excluded.pass",
            (key, line, self._pass),
        )
        return KeyStatus(line, answered)

    def begin_pass(self) -> None:
        """Forget which rows were registered: the source is read once more."""
        self._pass += 1

    def answers_without_row(self) -> tuple[int, str]:
        """The number of answers without a row in this pass, and the first one's key."""
        count, first = self._execute(
            "SELECT count(*), min(key) FROM keys WHERE answered IS NOT NULL AND pass IS NOT ?", (self._pass,)
        ).fetchone()
        return count, first or ""

    def _execute(self, statement: str, values: Sequence[str | int] = ()) -> sqlite3.Cursor:
        try:
            return self._base.execute(statement, values)
        except sqlite3.Error as error:
            raise DarwinError(
                f"the temporary index of keys cannot be written ({error}): make room in the folder for temporary "
                "files, and run again"
            ) from error

    def close(self) -> None:
        """Let the database go."""
        self._base.close()

    def _find(self, key: str) -> tuple[str | None, int, int] | None:
        found = self._execute("SELECT answered, line, pass FROM keys WHERE key = ?", (key,)).fetchone()
        return None if found is None else tuple(found)
