"""Names of a package that load on first use, so that importing it costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_getattr", "loaded"]


def lazy_getattr(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's ``__getattr__``.

    Args:
        package: its ``__name__``.
        homes: modules by the names that they hold.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return find


def loaded(home: str, name: str) -> Any:
    """A name of an upper package, imported on first use: a lower one knows of it by name alone.

    >>> loaded("darwin_align.core.budget", "Budget").__name__
    'Budget'

    Args:
        home: the module that holds it.
        name: the name.
    """
    return getattr(import_module(home), name)
