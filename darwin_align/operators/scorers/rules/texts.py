"""Units of text that rules count: words, sentences, words in capitals, letters whatever their case."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["capital_words", "complete_part", "lower", "sentences", "words"]

_WORD = re.compile(r"\w+")
_CHUNK = re.compile(r"\S+")
_NUMBER = re.compile(r"[-+]?[\d.,]*\d")

# -- words and letters


def words(text: str) -> int:
    """Runs of letters, digits and underscores.

    >>> words("It's 80 words.")
    4
    """
    return sum(1 for _ in _WORD.finditer(text))


def lower(text: str) -> str:
    """Lowercase, each character by itself: a Greek sigma's case would depend on what follows it."""
    return "".join(map(str.lower, text)) if "Σ" in text else text.lower()


def complete_part(text: str) -> str:
    """The text without its last word, unless whitespace ended it: what no continuation changes.

    >>> complete_part("All in CAP")
    'All in '
    """
    kept = len(text)
    while kept and not text[kept - 1].isspace():
        kept -= 1
    return text[:kept]


# -- words in capitals, as a tokenizer for English separates words

_SEPARATOR = re.compile(r"""\.{2,}|-{2,}|''|[:,](?!\d)|[][(){}<>;@#$%&?!*"«“‘„»”’`]""")
"""What stands between words; hyphens, single periods and apostrophes are parts of them."""
_TWO_WORDS = frozenset({"cannot", "gimme", "gonna", "gotta", "lemme", "wanna", "d'ye", "more'n", "'tis", "'twas"})
_SHORT_ENDS = ("n't", "'ll", "'re", "'ve", "'s", "'m", "'d")


def capital_words(text: str) -> int:
    """Words without lowercase letters and with an uppercase one; "I'M" and "CAN'T" are two.

    >>> capital_words("NASA said: I'M the U.S. A-team, OK?")
    5
    """
    return sum(_capitals(chunk[0]) for chunk in _CHUNK.finditer(text))


def _capitals(chunk: str) -> int:
    return sum(map(_capital_parts, _SEPARATOR.split(chunk))) if any(map(str.isupper, chunk)) else 0


def _capital_parts(token: str) -> int:
    """Capital words of one token: contractions are two words."""
    token = token.rstrip(".").rstrip("'") if token[:1] != "'" or token.count("'") > 1 else token.rstrip(".")
    small = token.lower()
    if small in _TWO_WORDS:
        return 2 * token.isupper()
    for end in _SHORT_ENDS:
        if small.endswith(end) and len(token) > len(end):
            return token[: -len(end)].isupper() + token[-len(end) :].isupper()
    return int(token.isupper())


# -- sentences

_CLOSERS = "\"')]}"
_AFTER_MARK = frozenset("?!)\";}]*:@'({[")
_ABBREVIATION_LIST = """
    a.m adm ariz aug ave bros c calif co col colo conn corp ct d d.c dec dr e f feb fla fri ft g ga gen h ill inc
    jan jr k kan ky l l.a lt ltd m m.b.a maj messrs mg mich minn mr mrs ms n n.j n.y nev nov oct okla ore p p.m pa
    ph.d prof r rep s sen sep sept sr st t tenn u.k u.n u.s v va vs vt w wash wis
"""
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
"""Those that the English model of Punkt knows: behind others, such as "etc." and "e.g.", it ends a sentence."""
_STARTER_LIST = """
    a after all although an and another any as at because before but by despite during each even every few first for
    from he her here his how however i if in indeed instead is it its just last later like many meanwhile more
    moreover most my no nor not now of on once one only or other our perhaps please she since so some still such
    than thanks that the their then there these they this those though thus to today too under until we well what
    when where whether which while who why with yes yet you your
"""
_STARTERS = frozenset(_STARTER_LIST.split())
"""Words that are written small within a sentence, so that a capital letter begins one."""


def sentences(text: str) -> int:
    """Sentences of an English text: an end mark before more text ends one, but not in abbreviations and ellipses.

    It follows Punkt (Kiss and Strunk 2006), with a short list in place of its tables of words. Each end depends on its
    own word and on the next one alone.

    >>> sentences("Dr. Smith went home. He was tired! And hungry")
    3
    """
    last = len(text.rstrip())
    if not last:
        return 0
    return 1 + sum(_behind_closers(text, end) < last for end in _ends(text))


def _ends(text: str) -> Iterator[int]:
    """Where sentences end, if anything follows: the index behind the mark."""
    chunks = [(match.start(), match.end()) for match in _CHUNK.finditer(text)]
    for number, (start, end) in enumerate(chunks):
        following = text[slice(*chunks[number + 1])] if number + 1 < len(chunks) else ""
        yield from _ends_in(text, start, end, following)


def _ends_in(text: str, start: int, end: int, following: str) -> Iterator[int]:
    """Ends within one chunk: at most one, the last mark that a closing sign or whitespace follows."""
    for at in range(end - 1, start - 1, -1):
        if text[at] in ".?!" and (at + 1 == end or text[at + 1] in _AFTER_MARK):
            if _ends_sentence(text[start : at + 1], following if at + 1 == end else ""):
                yield at + 1
            return


def _ends_sentence(word: str, following: str) -> bool:
    if word[-1] != ".":
        return True
    begins = _first_word(following)
    starts = begins[:1].isupper() and begins.lower() in _STARTERS
    stem = word[:-1].lstrip("\"'([{*_“‘").lower()
    if not stem or word.endswith("..") or stem in _ABBREVIATIONS or stem.rpartition("-")[2] in _ABBREVIATIONS:
        return starts
    if len(stem) == 1 and stem.isalpha():
        return starts
    return not (_NUMBER.fullmatch(stem) and begins[:1].islower())


def _first_word(text: str) -> str:
    match = _WORD.search(text)
    return match[0] if match else ""


def _behind_closers(text: str, end: int) -> int:
    """Closing quotes and brackets belong to the sentence that ended, unless text adjoins them."""
    at = end
    while at < len(text) and text[at] in _CLOSERS:
        at += 1
    return at
