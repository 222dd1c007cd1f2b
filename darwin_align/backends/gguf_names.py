"""Which names are those of GGUF files; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_gguf"]


def is_gguf(name: object) -> bool:
    """Whether a model is named by a GGUF file.

    >>> is_gguf("models/SmolLM2-135M-Instruct.Q4_1.gguf"), is_gguf("Qwen/Qwen3-8B")
    (True, False)
    """
    return isinstance(name, str | Path) and str(name).lower().endswith(".gguf")
