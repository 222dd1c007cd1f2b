"""What of an instruction a rewording must keep word for word: a text to work on, choices, quotes, numbers, names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from darwin_align.operators.checks.asking import asks, is_english, sentences_of

__all__ = ["kept_share", "material_of", "names_in", "numbers_in", "without_lead", "words_of"]

_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_TOKEN = re.compile(r"[぀-ヿ㐀-鿿가-힯]|\d+|[^\W\d]+")
_QUOTED = re.compile('["“„«「]([^"“”„«»「」\n]{2,200})["”“»」]')
_MARKER = re.compile(r"[ \t]{0,8}(?:[A-Ha-h]|\d)[ \t]?[.):\-–][ \t]{1,8}(?=\S)")
_LABEL = re.compile(r"(?:[-*+•][ \t]{1,8})?(?:\w{1,20}[ \t]){0,2}\w{1,20}[:：][ \t]{0,8}(?=\S)")
_POINTS = re.compile(
    r"\b(?:following|sentence|text|phrase|paragraph|word|statement|translat\w*|summari\w*|code|"
    r"satz|text|wort|übersetz\w*|folgende\w*|phrase|texte|mot|tradui\w*|suivant\w*|frase|texto|palabra|palavra|"
    r"traduc\w*|traduz\w*|siguiente\w*|seguinte\w*)\b|句|文|翻译|翻訳|वाक्य|अनुवाद",
    re.IGNORECASE,
)
_COLON = re.compile(r"[:：][ \t]*")
_NUMBER_WORDS = {
    2: "two zwei deux", 3: "three drei trois tres três तीन", 4: "four vier quatre cuatro quatro चार",
    5: "five fünf cinq cinco पाँच पांच", 6: "six sechs seis छह", 7: "seven sieben sept siete sete सात",
    8: "eight acht huit ocho oito आठ", 9: "nine neun nueve nove नौ", 10: "ten zehn dix diez dez दस",
    11: "eleven onze", 12: "twelve zwölf douze doce doze", 15: "fifteen", 20: "twenty zwanzig vingt veinte vinte",
    30: "thirty", 50: "fifty", 100: "hundred hundert",
}  # fmt: skip
_NUMBERS = {word: str(value) for value, words in _NUMBER_WORDS.items() for word in words.split()}
_MAYBE_NUMBERS = {
    "dos": "2", "dois": "2", "duas": "2", "दो": "2", "neuf": "9", "once": "11", "elf": "11", "两": "2", "二": "2",
    "三": "3", "四": "4", "五": "5", "六": "6", "七": "7", "八": "8", "九": "9", "十": "10",
}  # fmt: skip
"""Words that may mean something else: they count as a number that is kept, not as one that must be kept."""
_LONGEST_ORDER = 300


def words_of(text: str) -> list[str]:
    """All words in lower case and in one form; numbers apart, and characters of scripts without spaces one by one.

    >>> words_of("Hello, WORLD 3x4")
    ['hello', 'world', '3', 'x', '4']
    """
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


def numbers_in(text: str, *, doubtful: bool = False) -> set[str]:
    """The numbers in a text, also those that are written out; with doubtful ones on request.

    >>> sorted(numbers_in("Name three of 10 rivers."))
    ['10', '3']
    """
    known = {**_NUMBERS, **_MAYBE_NUMBERS} if doubtful else _NUMBERS
    return {known.get(word, word) for word in words_of(text) if word in known or word.isdecimal()}


def names_in(text: str) -> list[str]:
    """Words with a capital letter within the sentences of an English text.

    >>> names_in("Did Romeo love Juliet? Explain it to Mr Smith.")
    ['romeo', 'juliet', 'mr', 'smith']
    """
    if not is_english(text):
        return []
    found, others = [], 0
    for sentence in sentences_of(text):
        for word in _TOKEN.findall(sentence)[1:]:
            if word[:1].isupper() and len(word) > 1:
                found.append(word.casefold())
            else:
                others += 1
    return found if len(found) <= 2 * others else []  # a heading is all capitals


def kept_share(part: str | Collection[str], mutation: str) -> float:
    """The share of a part's words that occur in a mutation, whatever their endings.

    >>> kept_share("green teas", "I like tea.")
    0.5
    """
    wanted = set(words_of(part) if isinstance(part, str) else part)
    present = set(words_of(mutation))
    stems = {word[: max(3, len(word) - 2)] for word in present}
    kept = sum(word in present or word[: max(3, len(word) - 2)] in stems for word in wanted)
    return kept / len(wanted) if wanted else 1.0


def material_of(instruction: str) -> list[str]:
    r"""The parts that an order is about, and quotes; empty where it stands alone.

    >>> material_of("Classify the animal.\n\nA grey seal"), material_of("How do seals swim?")
    (['A grey seal'], [])
    """
    text = _BREAK.sub("\n", instruction).strip()
    parts = [*_blocks(text), *_QUOTED.findall(text)]
    bare = (without_lead(without_lead(part, _MARKER).strip(), _LABEL).strip() for part in parts)
    return [part for part in dict.fromkeys(bare) if part]


def without_lead(text: str, lead: re.Pattern[str]) -> str:
    """The text behind what a pattern matches at its beginning."""
    found = lead.match(text)
    return text[found.end() :] if found else text


def _blocks(text: str) -> list[str]:
    blocks = [block.strip() for block in _BLANK_LINE.split(text) if block.strip()]
    if len(blocks) > 1:
        return blocks[1:] if _asks(blocks[0]) or not _asks(blocks[-1]) else blocks[:-1]
    lines = text.splitlines()
    for i, line in enumerate(lines[:-1]):
        if line.rstrip().endswith((":", "：")):
            return ["\n".join(lines[i + 1 :])]
    if len(choices := [line for line in lines if _MARKER.match(line)]) > 1:
        return choices
    before, colon, after = _partition(text)
    return [after] if colon and len(before) <= _LONGEST_ORDER and _POINTS.search(before) else []


def _partition(text: str) -> tuple[str, str, str]:
    found = _COLON.search(text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")


def _asks(block: str) -> bool:
    return any(map(asks, sentences_of(block)))
