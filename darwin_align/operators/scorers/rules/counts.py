"""Rules that count what is written: words, sentences, characters, mentions, letters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from darwin_align.core.errors import ConfigError
from darwin_align.operators.scorers.rules.base import (
    BROKEN,
    AtLeast,
    AtMost,
    CountRule,
    Decides,
    Rule,
    Verdict,
    check_text,
    still_open,
)
from darwin_align.operators.scorers.rules.texts import capital_words, complete_part, lower, sentences, words

__all__ = [
    "CapitalWords",
    "Letters",
    "MaxCharacters",
    "MaxMentions",
    "MaxSentences",
    "MaxWords",
    "MinSentences",
    "MinWords",
    "MustMention",
    "MustNotMention",
    "NoCommas",
]


@dataclass(frozen=True)
class MaxWords(AtMost):
    """At most so many words: runs of letters, digits and underscores, so that "it's" is two.

    >>> MaxWords(3).judge("One two three four", finished=False).state
    'broken'
    """

    def count(self, text: str) -> int:
        """Words."""
        return words(text)


@dataclass(frozen=True)
class MinWords(AtLeast):
    """At least so many words: runs of letters, digits and underscores.

    >>> MinWords(4).judge("One two", finished=False)
    Verdict(state='open', credit=0.5)
    """

    def count(self, text: str) -> int:
        """Words."""
        return words(text)


@dataclass(frozen=True)
class MaxCharacters(AtMost):
    """At most so many characters.

    >>> MaxCharacters(5).judge("Hello!", finished=True).state
    'broken'
    """

    def count(self, text: str) -> int:
        """Characters (Unicode code points)."""
        return len(text)


class _Sentences(CountRule):
    """Sentences, by rules of our own for English: an end mark, abbreviations, initials."""

    def count(self, text: str) -> int:
        """Sentences."""
        return sentences(text)

    def settled(self, text: str) -> int:
        """Sentences that are begun for certain: the last word may still be part of an abbreviation."""
        return sentences(complete_part(text))


@dataclass(frozen=True)
class MaxSentences(_Sentences, AtMost):
    """At most so many sentences.

    >>> MaxSentences(1).judge("It is hot. Drink ", finished=False).state
    'broken'
    """


@dataclass(frozen=True)
class MinSentences(_Sentences, AtLeast):
    """At least so many sentences.

    >>> MinSentences(2).judge("It is hot. Drink water.", finished=True).state
    'kept'
    """


@dataclass(frozen=True)
class MustMention(CountRule):
    """A word or phrase, whatever its case, so many times or more; within a longer word it counts as well.

    >>> MustMention("refund").judge("Refunds take a week", finished=False).state
    'kept'
    """

    text: str
    times: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "text", self.text)
        self._check_count("times", self.times)

    @property
    def bounds(self) -> tuple[int, int | None]:
        """From ``times``."""
        return self.times, None

    def count(self, text: str) -> int:
        """Places where it stands, without overlaps."""
        return _mentions(self.text, text)


@dataclass(frozen=True)
class MaxMentions(CountRule):
    """A word or phrase, whatever its case, so many times at most; within a longer word it counts as well.

    >>> MaxMentions("very", 1).judge("Very, very", finished=False).state
    'broken'
    """

    text: str
    times: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self, "text", self.text)
        self._check_count("times", self.times, least=0)

    @property
    def bounds(self) -> tuple[int, int | None]:
        """Up to ``times``."""
        return 0, self.times

    def count(self, text: str) -> int:
        """Places where it stands, without overlaps."""
        return _mentions(self.text, text)


@dataclass(frozen=True)
class MustNotMention(Rule):
    """None of these words, whatever their case; within a longer word they are allowed.

    >>> rule = MustNotMention(("cook",))
    >>> rule.judge("I cook", finished=False).state, rule.judge("I cook ", finished=False).state
    ('open', 'broken')
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.words,) if isinstance(self.words, str) else tuple(self.words)
        if not given:
            raise ConfigError("MustNotMention(()) forbids nothing: give a word or more")
        for word in given:
            check_text(self, "words", word)
        object.__setattr__(self, "words", given)

    @property
    def decides(self) -> Decides:
        """One of the words breaks it."""
        return "broken"

    def holds(self, text: str) -> bool:
        """Whether none of them stands there as a word."""
        return next(self._ends(text), None) is None

    def on_prefix(self, text: str) -> Verdict:
        """Broken by a word behind which another character stands: else the word may go on."""
        small = lower(text)
        return BROKEN if any(end < len(small) for end in self._ends(small)) else still_open(1.0)

    def _ends(self, text: str) -> Iterator[int]:
        small = lower(text)
        return (end for word in self.words for end in _ends_of_word(lower(word), small))


@dataclass(frozen=True)
class NoCommas(Rule):
    """No comma (",").

    >>> NoCommas().judge("Well, ", finished=False).state
    'broken'
    """

    @property
    def decides(self) -> Decides:
        """A comma breaks it."""
        return "broken"

    def holds(self, text: str) -> bool:
        """Whether there is none."""
        return "," not in text

    def on_prefix(self, text: str) -> Verdict:
        """Broken by the first."""
        return still_open(1.0) if self.holds(text) else BROKEN


@dataclass(frozen=True)
class _Bounded(CountRule):
    least: int | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_bounds(self.least, self.most)

    @property
    def bounds(self) -> tuple[int, int | None]:
        """As given."""
        return self.least or 0, self.most


@dataclass(frozen=True)
class Letters(CountRule):
    """One character, whatever its case, at least or at most so often.

    >>> Letters("e", most=1).judge("Every", finished=False).state
    'broken'
    """

    letter: str
    least: int | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.letter, str) or len(self.letter) != 1:
            raise ConfigError(f"Letters({self.letter!r}): give one character")
        self._check_bounds(self.least, self.most)

    @property
    def bounds(self) -> tuple[int, int | None]:
        """As given."""
        return self.least or 0, self.most

    def count(self, text: str) -> int:
        """How often it stands there."""
        return lower(text).count(lower(self.letter))


@dataclass(frozen=True)
class CapitalWords(_Bounded):
    """Words in capital letters, at least or at most so many; "I" is one.

    >>> CapitalWords(least=2).judge("It is HOT in HERE.", finished=True).state
    'kept'
    """

    def count(self, text: str) -> int:
        """Words in capitals."""
        return capital_words(text)

    def settled(self, text: str) -> int:
        """Those that are complete: a lowercase letter may follow the last."""
        return capital_words(complete_part(text))


def _mentions(text: str, answer: str) -> int:
    return lower(answer).count(lower(text))


def _ends_of_word(word: str, text: str) -> Iterator[int]:
    """Ends of a word in a lowercase text, where it is no part of a longer one."""
    begin = text.find(word)
    while begin >= 0:
        end = begin + len(word)
        if _boundary(text, begin) and _boundary(text, end):
            yield end
        begin = text.find(word, begin + 1)


def _boundary(text: str, at: int) -> bool:
    """Whether a word begins or ends between two characters."""
    return _in_word(text[at - 1 : at]) != _in_word(text[at : at + 1])


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
