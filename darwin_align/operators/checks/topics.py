"""The words of a text that name its topic."""

from __future__ import annotations

import re

__all__ = ["topic_words"]

# Words that carry no topic: function words, and words by which people ask.
_STOP = frozenset(
    """
    a about above advice advise after again all also am an and answer answers any are around as ask asking at be
    because been before being below best better between both brief briefly but by can careful carefully clear
    clearly complete completely could describe detail detailed details did different do does doing down during
    each else ever every exact exactly example examples explain few first for friendly from full fully get give go
    good guide guides had has have having he hello help her here hers hey hi him his how however i idea ideas if
    in include including info information into is it its just kindly know let like list long made make making many
    may me might mistake mistakes more most much must my need no nor not now number numbered of off often on once
    one only or other our out over overview own please polite possible provide question quick quickly really
    reason reasons request right same say shall share she short should show simple simply so some someone
    something start step steps still such summary sure tell than thank thanks that the their them then there these
    they thing things this thorough thoroughly those through thus tip tips to together too under until up us use
    useful using very walk want warn warning was way ways we well were what when where which while who whom whose
    why will wish with within without wonder wondering word words would write yes you your
    """.split()  # noqa: SIM905 - a list of quoted words is harder to read
)
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W_]+(?:['’][^\W_]+)?")
_ENDINGS = ("ations", "ation", "ings", "ing", "ed", "es", "s", "er", "ers")


def topic_words(text: str) -> frozenset[str]:
    """Return the stems of the words that name a topic. Scripts without spaces count by character.

    >>> sorted(topic_words("How do I brew green tea?"))
    ['brew', 'green', 'tea']
    """
    words = (word.lower() for word in _WORD.findall(text))
    return frozenset(_stem(word) for word in words if word not in _STOP)


def _stem(word: str) -> str:
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "i"
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    return word[:-1] if len(word) > 3 and (word[-1] == "e" or word[-1] == word[-2]) else word.replace("y", "i")
