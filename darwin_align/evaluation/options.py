"""Checks of the benchmarks' commands before any model is called."""

from __future__ import annotations

import argparse
from importlib import import_module

from darwin_align.core.errors import ConfigError

__all__ = ["count", "need_packages"]

_PIP_NAMES = {"sklearn": "scikit-learn"}


def count(text: str) -> int:
    """Read an option's number of things.

    >>> count("3")
    3
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is none: give 1 or more")
    return number


def need_packages(what: str, *modules: str) -> None:
    """Import what the figures need, so that a missing package shows before the work is done.

    Args:
        what: the figures, in the plural.
        modules: names to import, of the extra ``eval``.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            name = _PIP_NAMES.get(module, module)
            raise ConfigError(f"{what} need {name} ({error}): pip install 'darwin-align[eval]'") from None
