"""How much memory there is for a model's keys and values."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from darwin_align.core.errors import DeviceMemoryError

__all__ = ["available_memory", "context_that_fits"]

_SHORTEST = 256
"""Tokens: a context below this holds no conversation."""
_LONGEST = 8192
"""Tokens of a row's context, where none is given: keys and values are allocated for all of it."""


def available_memory() -> int | None:
    """Bytes that processes can still take, within the limit of a container; ``None`` where that is not known."""
    known = []
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        known.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text(encoding="utf-8")) for name in ("max", "current"))
        known.append(max(0, limit - used))
    with suppress(OSError, ValueError, AttributeError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known, default=None)


def context_that_fits(
    path: str, trained: int | None, row_bytes: int | None, *, slots: int, context: int | None, row_memory: int | None
) -> int:
    """Tokens of each slot's context.

    Args:
        path: the model, for messages.
        trained: tokens that the model was trained with.
        row_bytes: bytes of keys and values for one token.
        slots: rows that are decoded side by side.
        context: tokens of each, if they are given.
        row_memory: bytes for the keys and values of all slots; ``None`` is a quarter of the available memory.

    Raises:
        DeviceMemoryError: so many tokens do not fit, or too few do.
    """
    most = context or min(trained or _LONGEST, _LONGEST)
    least = context or min(most, _SHORTEST)
    limit = _limit(context, row_memory)
    if row_bytes is None or limit is None:
        return most
    fitting = limit // (slots * row_bytes)
    if fitting < least:
        source = "given as row_memory" if row_memory is not None else "free for them"
        raise DeviceMemoryError(
            f"too little memory for {path!r}: the keys and values of {slots} slots of {least} tokens take "
            f"{slots * least * row_bytes / 2**20:,.0f} MiB, and {limit / 2**20:,.0f} MiB are {source}: give fewer "
            "slots=…, a shorter context=… or a smaller model"
        )
    return min(most, fitting)


def _limit(context: int | None, row_memory: int | None) -> int | None:
    """Bytes for keys and values: a given context may take whatever there is."""
    if row_memory is not None:
        return row_memory
    available = available_memory()
    return available if available is None or context is not None else available // 4
