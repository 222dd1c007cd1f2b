"""System calls on files that journals and atomic writes share. All raise :class:`OSError` unless they say otherwise."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from darwin_align.core.errors import ConfigError

__all__ = ["BINARY", "make_folder", "refuse_irregular", "sync_folder", "write_all"]

BINARY = getattr(os, "O_BINARY", 0)
"""Without this flag of :func:`os.open`, Windows translates line ends."""
_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
)


def write_all(file: int, data: bytes) -> None:
    """Write all bytes to a descriptor: one system call may take only a part of them."""
    done = 0
    while done < len(data):
        done += os.write(file, data[done:])


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and put their names on the disk."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: without it, a new file may be gone after a loss of power.

    Where folders cannot be opened (Windows, a folder that may be written to but not read) or synchronised (some network
    file systems), the names are left to the system.
    """
    if os.name == "nt":
        return
    try:
        opened = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)


def refuse_irregular(path: Path) -> None:
    """Refuse a path that exists and is no regular file.

    Raises:
        ConfigError: it is a folder, device, pipe or socket: it keeps nothing, or cannot be read again.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # it does not exist, or opening it raises a better error
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "special file")
        raise ConfigError(f"{path} is a {kind}: give a regular file")
