"""The device's memory: how much is free, and errors that say that it ran out."""

from __future__ import annotations

import logging
import os

import torch

from darwin_align.core.errors import DeviceMemoryError

__all__ = ["device_memory", "fewer_rows", "out_of_memory"]

logger = logging.getLogger(__name__)


def device_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or that the machine has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left. On a CPU torch has no class of its own for that.

    >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."))
    True
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def fewer_rows(rows: int, model: str, device: torch.device, error: BaseException) -> int:
    """Half as many rows, to go on with after memory ran out with so many side by side; logs a warning.

    Raises:
        DeviceMemoryError: it was one row.
    """
    if rows > 1:
        fewer = rows // 2
        logger.warning("memory on %s ran out with %d rows side by side: going on with %d", device, rows, fewer)
        return fewer
    about = str(error).partition("\n")[0] or type(error).__name__
    raise DeviceMemoryError(
        f"memory ran out for a single row of {model} ({about:.200}): shorten the conversation or max_new_tokens, lower "
        "row_memory, or use a smaller model or data type"
    ) from None
