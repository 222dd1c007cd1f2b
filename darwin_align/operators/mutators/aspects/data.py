"""The bank of guidance sentences, and the words by which an instruction fixes what they would change.

One file a language under ``bank/``. A kind of sentences changes certain properties of an answer; a word or phrase of an
instruction fixes one of them, or several.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["LANGUAGES", "Aspect", "Bank", "bank_of", "conflict", "fixed_by", "function_words", "padded"]

LANGUAGES = ("en", "de", "fr", "es", "pt", "zh", "ja", "hi")
"""Languages that have a bank."""
_FOLDER = Path(__file__).parent / "bank"

_CHANGES: Mapping[str, frozenset[str]] = {
    "care": frozenset(),
    "depth": frozenset({"length", "extras"}),
    "example": frozenset({"length", "extras"}),
    "order": frozenset({"order"}),
    "format": frozenset({"format"}),
    "audience": frozenset({"audience"}),
    "caution": frozenset({"length", "extras"}),
    "brevity": frozenset({"length"}),
    "wording": frozenset({"wording"}),
    "tone": frozenset({"tone"}),
    "practice": frozenset({"length", "extras"}),
    "sides": frozenset({"length", "extras"}),
}
"""What sentences of each kind change in an answer."""
PROPERTIES = frozenset[str]().union(*_CHANGES.values())
_FIXES: Mapping[str, frozenset[str]] = {
    **{name: frozenset({name}) for name in PROPERTIES},
    "work": frozenset({"format", "order", "extras", "audience", "tone"}),
    "everything": PROPERTIES,
    "repeated": PROPERTIES | {"request"},
}
"""What words of each group fix: a "work" (a poem, a letter) has a form of its own, and where the request itself is to
be repeated, nothing may be added to it at all."""
_ONE_OF_A_KIND = frozenset({"order", "format", "audience", "tone"})


@dataclass(frozen=True, slots=True)
class Aspect:
    """A guidance sentence."""

    text: str
    kind: str
    worth: float = 0.0
    """What is known of it before the search, in standard deviations of the reward."""

    @property
    def changes(self) -> frozenset[str]:
        """Properties of the answer that it changes; a sentence of an unknown kind may change all."""
        return _CHANGES.get(self.kind, PROPERTIES)


@dataclass(frozen=True, slots=True)
class Bank:
    """What is known of a language."""

    language: str
    aspects: tuple[Aspect, ...]
    fixes: Mapping[str, Sequence[str]]
    orders: frozenset[str]
    """Words with which an order or a question begins; in Chinese, Japanese and Hindi, which are in one."""


@cache
def bank_of(language: str) -> Bank:
    """Read a language's bank.

    >>> bank_of("en").aspects[0].kind
    'care'
    """
    data = tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
    aspects = tuple(Aspect(text, kind) for kind, texts in data["sentences"].items() for text in texts)
    return Bank(language, aspects, data["fixes"], frozenset(data["orders"]["words"]))


@cache
def function_words() -> Mapping[str, frozenset[str]]:
    """Frequent words of languages that are written in Latin letters, those of orders included."""
    data = tomllib.loads((_FOLDER / "languages.toml").read_text(encoding="utf-8"))
    orders = {language: bank_of(language).orders for language in LANGUAGES}
    return {language: frozenset(words.split()) | orders.get(language, frozenset()) for language, words in data.items()}


_NO_WORD = re.compile(r"[\W_]+")


def padded(text: str) -> str:
    """The words of a text in small letters, with one space between them and around them.

    >>> padded("In JSON, please!")
    ' in json please '
    """
    return f" {_NO_WORD.sub(' ', text.casefold())} ".replace("  ", " ")


def fixed_by(text: str) -> Set[str]:
    """Properties of the answer that a text fixes, in whichever language; when in doubt, more rather than fewer.

    >>> sorted(fixed_by("How do I brew green tea?")), sorted(fixed_by("Explain gravity to a child."))
    ([], ['audience'])
    """
    words, raw = padded(text), text.casefold()
    fixed: set[str] = {"extras", "format"} if any(letter.isdigit() for letter in raw) else set()
    for language in LANGUAGES:
        for group, phrases in bank_of(language).fixes.items():
            if not _FIXES[group] <= fixed and any(_occurs(phrase, words, raw) for phrase in phrases):
                fixed |= _FIXES[group]
    return fixed


def _occurs(phrase: str, words: str, raw: str) -> bool:
    """Whole words where the script has spaces and no combining vowels; anywhere in the text where not."""
    return f" {phrase} " in words if phrase[0] < "\u0900" else phrase in raw


def conflict(kind: str, others: Set[str]) -> bool:
    """Whether a sentence of this kind may contradict one of the other kinds.

    >>> conflict("brevity", {"depth"}), conflict("example", {"depth"}), conflict("tone", {"tone"})
    (True, False, True)
    """
    adding = {other for other, changes in _CHANGES.items() if "extras" in changes}
    if kind in _ONE_OF_A_KIND and kind in others:
        return True
    return bool(others & adding) if kind == "brevity" else kind in adding and "brevity" in others
