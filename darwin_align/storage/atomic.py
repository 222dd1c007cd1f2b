"""Files that are written as a whole or not at all, also when the process is killed or the machine loses its power."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from darwin_align.core.errors import DarwinError
from darwin_align.storage.files import BINARY, make_folder, sync_folder, write_all

__all__ = ["replace_file", "write_atomically"]


def write_atomically(path: str | Path, data: str | bytes) -> Path:
    """Write a file as a whole, and make its folders.

    Args:
        path: the file; an existing one is replaced.
        data: its content, text in UTF-8.

    Returns:
        The path.

    Raises:
        DarwinError: the disk does not take it; what was there stays.
    """
    path = Path(path)
    try:
        make_folder(path.parent)
        replace_file(path, data.encode() if isinstance(data, str) else data)
    except OSError as error:
        raise DarwinError(f"cannot write {path} ({error.strerror}): make room, and run again") from error
    return path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file as a whole in a folder that exists.

    Raises:
        OSError: the disk does not take it; what was there stays.
    """
    # The name is short and random: the target's own name may be as long as names can be, and two may write it at once.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        _write_synced(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):  # the first error is the one to raise
            temporary.unlink(missing_ok=True)
        raise


def _write_synced(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
    try:
        write_all(file, data)
        os.fsync(file)
    finally:
        os.close(file)
