"""Regular expressions of a user's JSON schema, in bounded time.

They come from whoever sends the request, and Python's ``re`` may take for ever on one. Rust's ``regex``, which pydantic
brings, takes time linear in the text; the rest is bounded here by the size of pattern and text.
"""

from __future__ import annotations

import re
from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, core_schema

__all__ = ["PatternBudget"]

_PART = re.compile(r"(?s)\\.|\{(\d{1,9})(?:,(\d{0,9}))?\}|.")
_CLASSES = frozenset("wWdDsSpPbB")
_CLASS_STATES = 50
"""States of an automaton for ``\\w``, which covers Unicode, approximately."""
_MOST_STATES = 20_000
"""Compiling so many takes 0.2 s."""
_WORK = 300_000
"""Units of work for one value: about a second."""
_CHARACTERS = 200
"""Characters of a text that cost as much for each state as compiling it."""


class PatternBudget:
    """Matches one value's texts against patterns, as far as that is affordable.

    What it decides depends on patterns and texts alone, not on the clock.

    >>> PatternBudget().matches("^[a-z]+$", "tea"), PatternBudget().matches("^[a-z]+$", "Tea")
    (True, False)
    >>> PatternBudget().matches("(?=never)x", "tea") is None  # Rust's regex has no lookahead
    True
    """

    def __init__(self) -> None:
        self._left = _WORK
        self._seen: set[str] = set()

    def matches(self, pattern: str, text: str) -> bool | None:
        """Whether a pattern is found in a text; ``None`` if that cannot be decided in bounded time.

        That is so for lookarounds and backreferences, for patterns that are no regular expression of Rust's syntax, for
        very large ones, and once a value has used up its work.
        """
        states = _states(pattern)
        work = states * (len(text) // _CHARACTERS + (pattern not in self._seen))
        if states > _MOST_STATES or work > self._left:
            return None
        self._seen.add(pattern)
        self._left -= work
        compiled = _compiled(pattern)
        return None if compiled is None else compiled.isinstance_python(text)


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> SchemaValidator | None:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True))
    except SchemaError:
        return None


@lru_cache(maxsize=512)
def _states(pattern: str) -> int:
    """About how many states an automaton of a pattern has: its atoms, as often as they are repeated."""
    if "[]" in pattern or "[^]" in pattern:  # such a class does not end at its first bracket
        return _MOST_STATES + 1
    open_groups, last, classes = [0], 0, 0
    for part in _PART.finditer(pattern):
        piece = part[0]
        if classes and piece not in "[]":
            last = max(last, _atom(piece))
        elif piece == "[":
            classes, last = classes + 1, last if classes else 1
        elif piece == "]" and classes:
            classes -= 1
            open_groups[-1] += 0 if classes else last
        elif piece == "(":
            open_groups.append(0)
        elif piece == ")" and len(open_groups) > 1:
            last = open_groups.pop()
            open_groups[-1] += last
        elif part[1] is not None:
            open_groups[-1] += last * max(int(part[2] or part[1]) - 1, 0)
            last *= max(int(part[2] or part[1]), 1)
        else:
            last = _atom(piece)
            open_groups[-1] += last
    return sum(open_groups) + 1


def _atom(piece: str) -> int:
    return _CLASS_STATES if len(piece) == 2 and piece[1] in _CLASSES else 1
