"""The command line, ``darwin-align``: ``demo``, ``chat``, ``batch``, ``check-scorer``, ``eval``, ``serve``.

Exit codes: 0 done, 1 a model or operator failed or the checked scorer has a problem, 2 bad input or settings,
130 interrupted.
"""

from darwin_align.cli.entry import main, parser

__all__ = ["main", "parser"]
