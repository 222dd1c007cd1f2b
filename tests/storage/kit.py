"""What the tests of durable files share: disks that are full, and paths that are no files."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


def no_space(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FailsFrom:
    """A system call that fails from its nth time on: the disk stays full."""

    def __init__(self, call: Callable[..., Any], at: int) -> None:
        self.call, self.left = call, at

    def __call__(self, *given: Any) -> Any:
        self.left -= 1
        return no_space() if self.left < 0 else self.call(*given)


def half_then_full(write: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
    """An ``os.write`` that takes half of the bytes, and then no more."""
    taken = []

    def writes(file: int, data: bytes) -> int:
        if taken:
            return no_space()
        taken.append(data)
        return write(file, data[: len(data) // 2])

    return writes


def files_synced(monkeypatch: Any) -> list[str]:
    """The paths that ``os.fsync`` is called for from now on (Linux)."""
    synced, sync = list[str](), os.fsync

    def fsync(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    return synced


def irregular(kind: str, path: Path) -> Path:
    """Make a device, folder, pipe or socket of this path (a device has its own)."""
    if kind == "device":
        return Path("/dev/full")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    return path
