"""Rules on the layout of an answer in Markdown: bullets, highlights, placeholders, sections, parts, a title."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from darwin_align.core.errors import ConfigError
from darwin_align.operators.scorers.rules.base import (
    BROKEN,
    KEPT,
    AtLeast,
    CountRule,
    Decides,
    Rule,
    Verdict,
    check_text,
    still_open,
)
from darwin_align.operators.scorers.rules.texts import lower

__all__ = [
    "Bullets",
    "Highlights",
    "ParagraphStart",
    "Parts",
    "Placeholders",
    "Postscript",
    "Sections",
    "Title",
]

_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*([^\n*]*)\*\*")
_POSTSCRIPTS = {"p.s.": re.compile(r"p\.\s?s\."), "p.p.s": re.compile(r"p\.\s?p\.\s?s")}


@dataclass(frozen=True)
class Bullets(CountRule):
    r"""Lines that begin with ``*`` or ``-``: exactly ``number``.

    >>> Bullets(2).judge("* Tea", finished=False), Bullets(2).judge("- Tea\n- Milk\n- Sugar", finished=False).state
    (Verdict(state='open', credit=0.5), 'broken')
    """

    number: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_count("number", self.number)

    @property
    def bounds(self) -> tuple[int, int | None]:
        """The number, exactly."""
        return self.number, self.number

    def count(self, text: str) -> int:
        """Lines with a bullet; a line of two asterisks or more is none."""
        lines = [line.lstrip() for line in text.split("\n")]
        return sum(line.startswith("-") for line in lines) + _starred(lines)


def _starred(lines: Sequence[str]) -> int:
    """Bullets of an asterisk; a lone one takes the next line for its text."""
    found, number = 0, 0
    while number < len(lines):
        line = lines[number]
        lone = line == "*"
        if line.startswith("*") and not line.startswith("**") and (not lone or number + 1 < len(lines)):
            found += 1
            number += lone
        number += 1
    return found


@dataclass(frozen=True)
class Highlights(AtLeast):
    """At least so many passages between asterisks, ``*one*`` or ``**two**``.

    >>> Highlights(2).judge("*Water* and **tea**", finished=False).state
    'kept'
    """

    def count(self, text: str) -> int:
        """Passages that are not blank; each within one line."""
        return sum(
            bool(match[1].strip()) for pattern in (_HIGHLIGHT, _DOUBLE_HIGHLIGHT) for match in pattern.finditer(text)
        )


@dataclass(frozen=True)
class Placeholders(AtLeast):
    """At least so many placeholders in square brackets, ``[address]``.

    >>> Placeholders(1).judge("To [name]", finished=False).state
    'kept'
    """

    def count(self, text: str) -> int:
        """Pairs of brackets within one line."""
        return sum(_bracketed(line) for line in text.split("\n"))


def _bracketed(line: str) -> int:
    found, at = 0, 0
    while (begin := line.find("[", at)) >= 0 and (end := line.find("]", begin)) >= 0:
        found, at = found + 1, end + 1
    return found


@dataclass(frozen=True)
class Sections(AtLeast):
    """At least so many sections, each begun by a word and a number, ``SECTION 1``.

    >>> Sections(2, "Day").judge("Day 1: walk. Day 2: rest", finished=False).state
    'kept'
    """

    marker: str = "SECTION"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "marker", self.marker)

    def count(self, text: str) -> int:
        """Markers, in this case, with a number behind them."""
        return sum(_begins_with_number(part) for part in text.split(self.marker)[1:])


def _begins_with_number(text: str) -> bool:
    return text[:1].isdecimal() or (text[:1].isspace() and text[1:2].isdecimal())


@dataclass(frozen=True)
class Parts(Rule):
    r"""Exactly so many parts, separated by ``separator``: with none between two separators, it is broken.

    >>> Parts(2).judge("Tea\n***\nCoffee", finished=True).state
    'kept'
    """

    number: int
    separator: str = "***"
    distinct: bool = False
    """Whether the parts must differ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "separator", self.separator)
        if isinstance(self.number, bool) or not isinstance(self.number, int) or self.number < 1:
            raise ConfigError(f"Parts(number={self.number!r}): give a whole number of 1 or more")

    @property
    def decides(self) -> Decides:
        """Too many parts break it."""
        return "broken"

    def holds(self, text: str) -> bool:
        """Whether there are so many; blank ones at the beginning and the end do not count."""
        parts = [part.strip() for part in text.split(self.separator)]
        filled = [part for part in parts if part]
        differ = not self.distinct or len(set(filled)) == len(filled)
        return all(parts[1:-1]) and len(filled) == self.number and differ

    def on_prefix(self, text: str) -> Verdict:
        """Broken by a blank part between two others, by one too many, and by two complete ones that are the same."""
        *complete, last = [part.strip() for part in text.split(self.separator)]
        # The last part's end may be the beginning of a separator.
        begun = [last] if _without_begun(last, self.separator) else []
        filled = [part for part in complete if part]
        alike = self.distinct and len(set(filled)) < len(filled)
        if not all(complete[1:]) or len(filled) + len(begun) > self.number or alike:
            return BROKEN
        return still_open((len(filled) + len(begun)) / self.number)


def _without_begun(text: str, separator: str) -> str:
    """The text without what may be the beginning of a separator at its end."""
    for length in range(len(separator) - 1, 0, -1):
        if text.endswith(separator[:length]):
            return text[:-length]
    return text


@dataclass(frozen=True)
class ParagraphStart(Rule):
    r"""So many paragraphs with blank lines between them, of which one begins with a given word.

    >>> ParagraphStart(2, 2, "Then").judge("Boil water.\n\nThen wait.", finished=True).state
    'kept'
    """

    number: int
    nth: int
    """Which paragraph, from 1."""
    word: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "word", self.word)
        if not (isinstance(self.number, int) and isinstance(self.nth, int) and 1 <= self.nth <= self.number):
            raise ConfigError(
                f"ParagraphStart({self.number!r}, {self.nth!r}): give a paragraph among the number, from 1"
            )

    @property
    def decides(self) -> Decides:
        """Too many paragraphs, or another word, break it."""
        return "broken"

    def holds(self, text: str) -> bool:
        """Whether number and word are right; punctuation ends the word."""
        paragraphs = text.split("\n\n")
        return sum(map(bool, map(str.strip, paragraphs))) == self.number and self._begins(paragraphs[self.nth - 1])

    def on_prefix(self, text: str) -> Verdict:
        """Broken by a paragraph too many, and by another word at the beginning."""
        paragraphs = text.split("\n\n")
        filled = sum(map(bool, map(str.strip, paragraphs)))
        if filled > self.number or self._settled_otherwise(paragraphs):
            return BROKEN
        return still_open(filled / self.number)

    def _settled_otherwise(self, paragraphs: Sequence[str]) -> bool:
        if len(paragraphs) < self.nth:
            return False
        paragraph = paragraphs[self.nth - 1]
        first_is_complete = bool(paragraph.strip()) and any(map(str.isspace, paragraph.lstrip()))
        return (len(paragraphs) > self.nth or first_is_complete) and not self._begins(paragraph)

    def _begins(self, paragraph: str) -> bool:
        chunk = next(iter(paragraph.split()), "").lstrip("'").lstrip('"')
        end = next((at for at, letter in enumerate(chunk) if letter in ".,?!'\""), len(chunk))
        return bool(chunk) and lower(chunk[:end]) == lower(self.word)


@dataclass(frozen=True)
class Title(Rule):
    """A title in double angular brackets, ``<<Green tea>>``.

    >>> Title().judge("<<Green tea>>", finished=False).state
    'kept'
    """

    @property
    def decides(self) -> Decides:
        """A title keeps it."""
        return "kept"

    def holds(self, text: str) -> bool:
        """Whether a line has one that is not blank."""
        return any(map(_titled, text.split("\n")))

    def on_prefix(self, text: str) -> Verdict:
        """Kept by the first; half of it is its beginning."""
        return KEPT if self.holds(text) else still_open(0.5 * ("<<" in text.rpartition("\n")[2]))


def _titled(line: str) -> bool:
    begin, end = line.find("<<"), line.rfind(">>")
    return 0 <= begin <= end - 3 and bool(line[begin : end + 2].lstrip("<").rstrip(">").strip())


@dataclass(frozen=True)
class Postscript(Rule):
    """A postscript, begun by a marker such as ``P.S.`` or ``P.P.S``, whatever its case.

    >>> Postscript().judge("Bye. P. S. Call me", finished=False).state
    'kept'
    """

    marker: str = "P.S."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "marker", self.marker)

    @property
    def decides(self) -> Decides:
        """The marker keeps it."""
        return "kept"

    def holds(self, text: str) -> bool:
        """Whether the marker stands anywhere."""
        marker = lower(self.marker.strip())
        if marker in _POSTSCRIPTS:
            return _POSTSCRIPTS[marker].search(lower(text)) is not None
        return marker in lower(text)

    def on_prefix(self, text: str) -> Verdict:
        """Kept by the marker."""
        return KEPT if self.holds(text) else still_open(0.0)
