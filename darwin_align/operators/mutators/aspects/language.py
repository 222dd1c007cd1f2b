"""The language of an instruction, by its script and its function words."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache

from darwin_align.operators.mutators.aspects.data import function_words, padded

__all__ = ["language_of"]

_SCRIPTS = {"HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh", "DEVANAGARI": "hi", "LATIN": "latin"}
_MOST = 2000
"""Characters that are looked at."""
_PLAIN = 0.7
"""What a text without any letter beyond those of English has in favour of it: less than one telling word."""


def language_of(text: str) -> str | None:
    """Return the code of a text's language, ``None`` where it is not among those that have sentences.

    A text in Latin letters without a telling word counts as English if it has no letter beyond those of English.

    >>> [language_of(text) for text in ("Wie brühe ich Tee?", "緑茶はどう淹れますか", "怎么泡绿茶", "Как дела?")]
    ['de', 'ja', 'zh', None]
    """
    text = text[:_MOST]
    scripts = Counter(_script(letter) for letter in text if letter.isalpha())
    if not scripts:
        return "en"
    if scripts["ja"] and scripts["ja"] + scripts["zh"] >= scripts["latin"]:
        return "ja"
    script = scripts.most_common(1)[0][0]
    return _latin(text) if script == "latin" else script or None


def _script(letter: str) -> str:
    if letter < "\u0370":
        return "latin"
    name = unicodedata.name(letter, "").replace("-", " ").partition(" ")[0]
    return _SCRIPTS.get(name, "")


@cache
def _shares() -> dict[str, float]:
    """What every function word says for one of its languages."""
    known = function_words()
    return {word: 1 / sum(word in words for words in known.values()) for words in known.values() for word in words}


def _latin(text: str) -> str | None:
    """The language with the most function words; a word that several share counts less."""
    present, shares = padded(text).split(), _shares()
    scores = {
        language: sum(shares[word] for word in present if word in words) for language, words in function_words().items()
    }
    plain = all(letter.isascii() for letter in text if letter.isalpha())
    scores["en"] += _PLAIN if plain else 0.0
    best = max(scores, key=lambda language: scores[language])
    if not scores[best]:
        return None
    return best if best in ("en", "de", "fr", "es", "pt") else None
