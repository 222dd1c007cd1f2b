"""Which words changed between two texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

__all__ = ["Part", "changes", "split", "wide"]

_MOST = 1500
"""Words of a text that are compared; longer ones would take seconds."""


class Part(NamedTuple):
    """A run of words that both texts have, or that one of them has."""

    kind: Literal["same", "removed", "added"]
    text: str


def split(text: str) -> list[str]:
    """Cut a text into words, single signs and runs of white space; joined again they are the text.

    Scripts that write no spaces are cut at every character, and what combines with a character stays with it.

    >>> split("Brew it: 泡茶!")
    ['Brew', ' ', 'it', ':', ' ', '泡', '茶', '!']
    """
    words: list[str] = []
    before = ""
    for sign in text:
        kind = _kind(sign)
        glued = kind == "mark" or (bool(words) and words[-1][-1] == "\u200d")
        if words and (glued or (kind == before and kind in ("letter", "space"))):
            words[-1] += sign
        else:
            words.append(sign)
        before = before if glued else kind
    return words


def changes(parent: str, child: str) -> list[Part]:
    """Say how a text came from another: what both have and what was added is the child, word for word.

    >>> changes("How do I brew tea?", "How do I brew green tea?")[1]
    Part(kind='added', text='green ')
    """
    old, new = split(parent), split(child)
    if max(len(old), len(new)) > _MOST:
        return _joined([("removed", parent), ("added", child)] if parent != child else [("same", child)])
    parts: list[tuple[str, str]] = []
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for number, (code, a, b, c, d) in enumerate(codes):
        same = "".join(new[c:d])
        if code == "equal" and not (same.isspace() and 0 < number < len(codes) - 1):
            parts.append(("same", same))
        else:  # the space between two changed words is read as changed, too
            parts += [("removed", "".join(old[a:b])), ("added", same)]
    return _joined(parts)


def wide(sign: str) -> bool:
    """Whether a character takes two columns."""
    return unicodedata.east_asian_width(sign) in "WF"


def _kind(sign: str) -> str:
    if sign.isspace():
        return "space"
    if unicodedata.category(sign)[0] == "M" or sign == "\u200d" or "\U0001f3fb" <= sign <= "\U0001f3ff":
        return "mark"
    return "letter" if (sign.isalnum() or sign in "_'’") and not wide(sign) else "sign"


def _joined(parts: Sequence[tuple[str, str]]) -> list[Part]:
    """Put neighbours together: between two runs that stayed, first all that went and then all that came."""
    joined: list[Part] = []
    went = came = ""
    for kind, text in [*parts, ("same", "")]:
        if kind == "removed":
            went += text
        elif kind == "added":
            came += text
        else:
            joined += [Part("removed", went), Part("added", came), Part("same", text)]
            went = came = ""
    return [part for part in joined if part.text]
