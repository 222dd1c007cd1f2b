"""Packages that only some features need: which extra brings a missing one."""

from __future__ import annotations

__all__ = ["missing_extra"]


def missing_extra(error: ImportError, extra: str, *, program: bool) -> BaseException:
    """What to raise in place of an :class:`ImportError`, naming the extra to install.

    >>> missing_extra(ImportError("no", name="ray"), "ray", program=False)
    ModuleNotFoundError("ray is not installed: pip install 'darwin-align[ray]'")

    Args:
        error: what importing the package raised.
        extra: the extra of ``darwin-align`` that brings the package.
        program: whether the module runs as a program, which then ends with the sentence instead of a traceback.
    """
    text = f"{error.name or error} is not installed: pip install 'darwin-align[{extra}]'"
    return SystemExit(text) if program else ModuleNotFoundError(text, name=error.name)
