"""Checks of a rewording's wording: it asks, for the same thing, in other words, whole, and about the same material.

They know no model and are lenient where they know no language. Their figures on real replies of a small model:
``benchmarks/guards.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from darwin_align.core.types import Request
from darwin_align.operators.checks.asking import asks, first_words, is_english, opens_as_answer, reports, sentences_of
from darwin_align.operators.checks.material import kept_share, material_of, names_in, numbers_in, words_of
from darwin_align.operators.checks.purpose import asks_for_the_same
from darwin_align.operators.checks.topics import topic_words

__all__ = [
    "REWORDING_CHECKS",
    "asks_for_the_same",
    "invents_nothing",
    "is_whole",
    "keeps_material",
    "repeats",
    "rewords",
    "words_it_as_request",
]

_META = re.compile(
    r"\b(?:re-?(?:word|writ|phras|stat)\w*|paraphras\w*|"
    r"(?:this|the|your|user['’]s) (?:request|sentence|question|prompt)|umformulier\w*|reformul\w*)\b|改写|言い換え",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\W{0,4}(?:\w+ ){0,3}(?:request|question|answer|output|example|response|prompt|task)s?\W{0,3}:", re.I
)
_NAMED = re.compile(r"\W{0,3}[A-Z]\w{0,20}:(?=\s)")
_STATES = re.compile(r"\b(?:is|are|was|were|has|have|had|can|will|should|must)\b", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]{0,60}\]|<[^<>\n]{0,60}>|\{[^{}\n]{0,60}\}|\.{3,}|_{3,}")
_IS = re.compile(r"(?<=what|here|that)['’]s\b|(?<=how|who)['’]s\b|(?<=where)['’]s\b", re.IGNORECASE)
_YES_NO = re.compile(r"\W{0,3}(?:yes|no|ja|nein|oui|non|sí|sim|não|true|false)\W{0,3}", re.IGNORECASE)
_CAPITALISED = re.compile(r"\b[A-Z]\w+")
_ABBREVIATION = re.compile(r"\b[A-Z](?:\.?[A-Z]){1,5}\b")
_COUNTED = re.compile(
    r"\b\w{1,20}[ -](?:\w{1,20} )?(?:steps?|examples?|sentences?|words?|points?|paragraphs?|parts?|lines?|bullets?)\b",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"(?:as|(?:please )?(?:act|speak|write|answer) as|(?:imagine|pretend|suppose) (?:that )?you are|you are|"
    r"assume the role of) "
    r"(?:an?|the) (?P<role>[^,.\n]{3,60})[,.]",
    re.IGNORECASE,
)
_POSSESSIVE = re.compile(r"['’]s\b")
_FORMULA = re.compile(r"[^\W\d_]\([^()]{0,60}\)|=.{0,60}[\d(]")
_TAIL = frozenset(
    """
    a an the of and or to in on at for with by from as that which who whose is are was were be my your his her their our
    its if when because but than into about between der die das den dem des ein eine einen einem einer und oder zu mit
    von für auf im le la les un une des du de et ou à pour avec dans el los las una del y o para con por em do da dos
    das no na um uma e
    """.split()  # noqa: SIM905
)
_ENDED = tuple(".?!…。？！।\"'”’»」)]`*}>|;")
_EXAMPLE = topic_words("swim swum swimming")
"""What the example in :data:`~darwin_align.operators.prompts.MANY` is about."""
_KEPT = 0.75
_NAMES_KEPT = 0.6


def words_it_as_request(request: Request, mutation: str) -> str | None:
    """Refuse a mutation that ANSWERS the instruction instead of rewording it.

    The signs: an answer's opening words; far more text than the original has; no question, order or wish where the
    original has one (in languages that :mod:`~darwin_align.operators.checks.asking` knows); one, and then an answer.

    >>> words_it_as_request(Request.of("How do I brew green tea?"), "You need a kettle. Boil the water.")
    'it answers instead of rewording: it begins as answers do'
    """
    reason = _answers(request.instruction, mutation)
    return reason and f"it answers instead of rewording: {reason}"


def _answers(original: str, mutation: str) -> str | None:
    if len(mutation) > 400 + 4 * len(original):
        return f"it has {len(mutation)} characters, the instruction {len(original)}"
    sentences, given = sentences_of(mutation), sentences_of(original)
    if not sentences:
        return "it has no words"
    known = [first_words(sentence, 2) for sentence in given]
    openings = [i for i, one in enumerate(sentences) if opens_as_answer(one) and first_words(one, 2) not in known]
    if openings:
        later = f"it goes on with an answer: {sentences[openings[0]]:.60}"
        return later if openings[0] else "it begins as answers do"
    if any(map(_YES_NO.fullmatch, sentences)) and not any(map(_YES_NO.fullmatch, given)):
        return "it says yes or no"
    orders = frozenset(words[0] for sentence in given if (words := first_words(sentence)))
    asking = [i for i, sentence in enumerate(sentences) if asks(sentence, orders)]
    if not asking:
        return "it states something, and asks for nothing" if _comparable(given, original, mutation) else None
    reported = [one for one in sentences[asking[-1] + 1 :] if reports(one) and first_words(one, 2) not in known]
    return f"it goes on with an answer: {reported[0]:.60}" if reported else None


def _comparable(given: list[str], original: str, mutation: str) -> bool:
    """Whether a mutation that asks for nothing is one in a language of which that can be told."""
    if is_english(original) and mutation.isascii():
        return True
    if is_english(mutation) and original.isascii() and _STATES.search(mutation):
        return True
    return any(asks(sentence.rstrip("?？؟ ")) for sentence in given)


def invents_nothing(request: Request, mutation: str) -> str | None:
    """Refuse a mutation that brings a name or a number, or far more words about another subject than about its own.

    Numbers of steps, sentences and the like say how to answer: they are no matter of the instruction.

    >>> invents_nothing(Request.of("Can you write code?"), "Can you write code in Python?")
    'it brings a name that the instruction lacks: python'
    """
    original = request.instruction
    if added := _names_added(original, mutation):
        return f"it brings a name that the instruction lacks: {', '.join(added)}"
    if numbers := numbers_in(_COUNTED.sub("", mutation)) - numbers_in(original, doubtful=True):
        return f"it brings a number that the instruction lacks: {', '.join(sorted(numbers))}"
    wanted = topic_words(original)
    for sentence in sentences_of(mutation):
        words = {word for word in topic_words(sentence) if len(word) > 1}
        if (kept := words & wanted) and len(words - wanted) > 2 + 2 * len(kept):
            return f"most of it is about something else: {', '.join(sorted(words - wanted)[:6])}"
    return None


def _names_added(original: str, mutation: str) -> list[str]:
    initials = {letter for word in _ABBREVIATION.findall(original) for letter in word.casefold()}
    alike = {word[:2].casefold() for word in _CAPITALISED.findall(original)}  # France, French
    short = {word.casefold() for word in _ABBREVIATION.findall(mutation)}
    names = [name for name in names_in(mutation) if name not in short]
    names = [name for name in names if name[0] not in initials and name[:2] not in alike]
    return [name for name in dict.fromkeys(names) if kept_share([name], original) < 1]


def rewords(request: Request, mutation: str) -> str | None:
    """Refuse a copy of the instruction, an echo of the prompt that requests rewordings, and a form to be filled in.

    >>> rewords(Request.of("How do I brew tea?"), "how do i brew  tea")
    'it is a copy of the instruction'
    """
    original = request.instruction
    if repeats(mutation, [original]):
        return "it is a copy of the instruction"
    named = _NAMED.match(mutation)
    if (_LABEL.match(mutation) and not _LABEL.match(original)) or (named and not kept_share(named[0], original)):
        return "it begins with a label, as replies to a prompt do"
    if _EXAMPLE & (topic_words(mutation) - topic_words(original)):
        return "it is about the example in the prompt"
    if (found := _META.search(mutation)) and not _META.search(original):
        return f"it talks about rewording: {found[0]}"
    if (found := _PLACEHOLDER.search(mutation)) and not _PLACEHOLDER.search(original):
        return f"it has a place to fill in: {found[0]}"
    return None


def repeats(mutation: str, earlier: Iterable[str]) -> bool:
    """Whether a mutation is one of the earlier texts, letter case, punctuation and politeness apart.

    >>> repeats("Please explain tea!", ["Explain tea."]), repeats("Explain tea.", ["Explain coffee."])
    (True, False)
    """
    return _plain(mutation) in set(map(_plain, earlier))


def _plain(text: str) -> tuple[str, ...]:
    whole = _IS.sub(" is", text)
    return tuple(word for word in words_of(whole) if word not in ("please", "kindly", "bitte", "请"))


def is_whole(request: Request, mutation: str) -> str | None:
    """Refuse a mutation that ends within a sentence.

    >>> is_whole(Request.of("How do I brew tea?"), "Explain how I can brew a")
    "it ends within a sentence: '… how I can brew a'"
    """
    text, original = mutation.rstrip(), request.instruction.rstrip()
    if text.endswith(_ENDED) or original.endswith(text[-30:]):
        return None
    words = words_of(text[-60:])
    letter = text[-1:].isupper()  # as in "vitamin A"
    joined = text.endswith((",", ":", "-", "–", "—", "(", "、", "，", "：")) and not original.endswith(text[-1])
    dangling = not letter and bool(words) and words[-1] in _TAIL and words[-1] != (words_of(original[-60:]) or [""])[-1]
    begun = len(sentences_of(text)) > 1 and "\n" not in text and original.endswith(_ENDED)
    return f"it ends within a sentence: {'…' + text[-17:]!r}" if joined or dangling or begun else None


def keeps_material(request: Request, mutation: str) -> str | None:
    r"""Refuse a mutation that loses what the instruction is about: a text, choices, quotes, numbers, names.

    >>> keeps_material(Request.of("Classify the animal.\n\nA grey seal"), "To which class does the animal belong?")
    'it loses material: A grey seal'
    """
    original = request.instruction
    for part in material_of(original):
        if kept_share(part, mutation) < _KEPT:
            return f"it loses material: {part if len(part) <= 60 else part[:59] + '…'}"
    if lost := numbers_in(original) - numbers_in(mutation, doubtful=True):
        return f"it loses a number: {', '.join(sorted(lost))}"
    role = _ROLE.match(original)
    if role and not topic_words(role["role"]) <= topic_words(_POSSESSIVE.sub("", mutation)):
        return f"it loses the role: {role['role']}"
    formulas = (word.strip(",.;:?!") for word in original.split() if _FORMULA.search(word))
    if changed := [formula for formula in formulas if formula not in "".join(mutation.split())]:
        return f"it changes a formula: {changed[0]}"
    names = names_in(original)
    if kept_share(names, mutation) < _NAMES_KEPT:
        return f"it loses names: {', '.join(dict.fromkeys(names))}"
    return None


REWORDING_CHECKS = (words_it_as_request, rewords, asks_for_the_same, is_whole, keeps_material, invents_nothing)
"""The checks of rewordings that a model wrote, in this order."""
