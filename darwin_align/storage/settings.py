"""Settings that a file was begun under, compared with those of now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["differences"]

_LONGEST = 100
_BEFORE = 40
"""Characters of a long value that are shown before the place where it differs."""


def differences(begun: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """Say in words which settings differ, each by its path.

    >>> differences({"seed": 0, "config": {"cycles": 1}}, {"seed": 0, "config": {"cycles": 2}})
    ['config.cycles was 1 and is now 2']
    """
    found = []
    for name in sorted(begun.keys() | now.keys()):
        before, after = begun.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{within}{name}.")
        elif before != after:
            found.append(f"{within}{name} was {_shown(before, after)} and is now {_shown(after, before)}")
    return found


def _shown(value: object, other: object) -> str:
    """A value's text around the place where it begins to differ from the other's."""
    text, beside = (json.dumps(side, ensure_ascii=False) for side in (value, other))
    if len(text) <= _LONGEST:
        return text
    same = next((i for i, (a, b) in enumerate(zip(text, beside, strict=False)) if a != b), len(beside))
    start = max(0, same - _BEFORE)
    return f"{'…' if start else ''}{text[start : start + _LONGEST]}{'…' if start + _LONGEST < len(text) else ''}"
