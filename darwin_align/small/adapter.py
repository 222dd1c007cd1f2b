"""The adapter that makes a reward model of a policy: low-rank additions to its matrices, a norm and a scalar head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darwin_align.core.errors import ModelLoadError
from darwin_align.storage.atomic import write_atomically

__all__ = ["ADAPTER", "FIRST", "SECOND", "Adapter", "read_adapter", "write_adapter"]

ADAPTER = Path(__file__).parent / "adapter.safetensors"
"""The shipped one."""
FIRST, SECOND = ".lora_a", ".lora_b"
"""What the names of the two factors of a matrix end with: ``weight + lora_b @ lora_a``."""
_FORMAT = "1"


@dataclass(frozen=True)
class Adapter:
    """The tensors of an adapter, and what they were trained on."""

    tensors: Mapping[str, Any]
    """Factors by the name of their matrix and :data:`FIRST` or :data:`SECOND`, shapes (rank, in) and (out, rank); other
    tensors, the head among them, by their whole name in the reward model."""
    layers: int
    """Layers of the policy that the reward model keeps: the lowest ones."""
    base: str
    """SHA-256 of the policy's file."""


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter.

    Raises:
        ModelLoadError: there is no such file, or it is none that :func:`write_adapter` wrote.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if about.get("format") != _FORMAT:
            raise ModelLoadError(
                f"the adapter {str(path)!r} has the format {about.get('format')!r}, and this version reads "
                f"{_FORMAT!r}: make it anew by `python -m training.small`"
            )
        return Adapter(tensors, int(about["layers"]), about["base"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelLoadError(
            f"cannot read the adapter {str(path)!r} ({type(error).__name__}: {error}): give a file that "
            "`python -m training.small` wrote"
        ) from error


def write_adapter(adapter: Adapter, path: str | Path) -> None:
    """Write an adapter, as a whole or not at all.

    Raises:
        DarwinError: the disk does not take it.
    """
    from safetensors.torch import save

    about = {"format": _FORMAT, "layers": str(adapter.layers), "base": adapter.base}
    write_atomically(path, save(dict(adapter.tensors), metadata=about))
