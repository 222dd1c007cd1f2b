"""One run a file: an exclusive lock on an open descriptor, released when it is closed or the process ends."""

from __future__ import annotations

from pathlib import Path

from filelock import lock_descriptor

from darwin_align.core.errors import ConfigError

__all__ = ["lock"]


def lock(file: int, path: Path, *, advice: str = "give another output") -> None:
    """Lock an open file until its descriptor is closed or the process ends, also by a kill.

    The lock is on the file itself, so that nothing is left beside it. On Unix it is advisory and anybody may read the
    file; Windows keeps other programs from reading its first byte.

    Args:
        file: descriptor, open for writing.
        path: its name, for messages.
        advice: what to do instead, for messages.

    Raises:
        ConfigError: another run has locked the file, or its file system has no locks.
    """
    try:
        locked = lock_descriptor(file, blocking=False)
    except OSError as error:
        raise ConfigError(f"cannot lock {path} ({error.strerror}): {advice} on a file system with locks") from error
    if not locked:
        raise ConfigError(f"another process is writing to {path}: wait for it to end, or {advice}")
