"""Checks of a rewording's wording: it asks, for the same thing, in other words, whole, and about the same material.

They know no model and are lenient where they know no language. Their figures on real replies of a small model:
``benchmarks/guards.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from darwin_align.core.types import Request
from darwin_align.operators.asking import asks, first_words, is_english, opens_as_answer, reports, sentences_of
from darwin_align.operators.material import kept_share, material_of, names_in, numbers_in, without_lead, words_of
from darwin_align.operators.topics import topic_words

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
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]{0,60}\]|<[^<>\n]{0,60}>|\{[^{}\n]{0,60}\}|\.{3,}|_{3,}")
_YES_NO = re.compile(r"\W{0,3}(?:yes|no|ja|nein|oui|non|sí|sim|não|true|false)\W{0,3}", re.IGNORECASE)
_HOW_TO_ORDER = re.compile(
    r"(?:(?:please )?(?:tell me|explain|show me|describe) )?(?:me )?how "
    r"(?:to|(?:do|can|could|would|should) (?:i|you|we|one)) (?P<verb>\w+)",
    re.IGNORECASE,
)
_KINDS = {
    "quantity": (
        re.compile(r"how (?:many|much|long|often|far|old|big|tall|large)\b", re.I),
        re.compile(
            r"how (?:many|much|long|often|far|old|big|tall|large)\b|\b(?:number|amount|count|rate|size|age)s?\b", re.I
        ),
    ),
    "who": (
        re.compile(r"(?:who|whose|whom)\b", re.I),
        re.compile(r"\b(?:who|whose|whom|person|people|author|name|names|creator)\b", re.I),
    ),
    "when": (
        re.compile(
            r"(?:when (?:is|are|was|were|did|do|does|will|can|should)|(?:in |on )?what (?:year|date|day|time))\b", re.I
        ),
        re.compile(r"\b(?:when|year|date|day|time|dates)\b", re.I),
    ),
    "where": (
        re.compile(r"where\b", re.I),
        re.compile(r"\b(?:where|place|location|country|city|site|directions)s?\b", re.I),
    ),
    "why": (
        re.compile(r"(?:why|what is the reason|for what reason)\b", re.I),
        re.compile(r"\b(?:why|reasons?|causes?|explain|explanation|purpose|justify)\b", re.I),
    ),
}
"""Kinds of question: how one begins, and what shows that an instruction asks for it, too."""
_YES_NO_QUESTION = re.compile(r"(?:is|are|was|were|do|does|did|has|have|can|could|will|would|should)\b", re.I)
_CHOOSES = re.compile(r"(?:what|which) (?!is\b|are\b|was\b|were\b|do\b|does\b|can\b|would\b|should\b)\w+", re.I)
_WHAT_IS = re.compile(r"what(?:['’]?s| is| are| was| were)\b", re.IGNORECASE)
_MAKES = frozenset(
    "write create make draw compose design generate translate convert rewrite build paint compile".split()  # noqa: SIM905
)
_LEAD_IN = re.compile(
    r"(?:(?:please|kindly|can you|could you|would you|i would like to know|i want to know|i'd like to know|tell me|"
    r"explain|describe|let me know|i wonder|do you know)[, ]+){1,3}",
    re.IGNORECASE,
)
_OTHER_SUBJECTS = frozenset(
    """
    origin origins history author authors inventor meaning definition price prices cost costs difference differences
    importance purpose implications consequences translation summary synonym synonyms title
    """.split()  # noqa: SIM905
)
"""What a request is about that has one of these words and another one has not."""
_CAPITALISED = re.compile(r"\b[A-Z]\w+")
_ABBREVIATION = re.compile(r"\b[A-Z](?:\.?[A-Z]){1,5}\b")
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
    original has one (in languages that :mod:`~darwin_align.operators.asking` knows); one, and then an answer to it.

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
    return any(asks(sentence.rstrip("?？؟ ")) for sentence in given)


def asks_for_the_same(request: Request, mutation: str) -> str | None:
    """Refuse a mutation that asks another thing about the same words (rules for English).

    >>> asks_for_the_same(Request.of("How do I brew green tea?"), "How many cups of green tea may I brew?")
    'it asks for a quantity, unlike the instruction'
    """
    original = request.instruction
    first = next((sentence for sentence in sentences_of(mutation) if asks(sentence)), "")
    bare = without_lead(first.lstrip("\"'“‘*- "), _LEAD_IN)
    for kind, (begins, shows) in _KINDS.items():
        if begins.match(bare) and not shows.search(original):
            return f"it asks {kind if kind != 'quantity' else 'for a quantity'}, unlike the instruction"
    orders = {without_lead(one, _LEAD_IN).partition(" ")[0].lower() for one in sentences_of(original)}
    asked = _HOW_TO_ORDER.match(mutation.lstrip("\"'“‘*- "))
    if asked and asked["verb"].lower() in orders:
        return f"it asks how to {asked['verb'].lower()}, and the instruction orders it"
    if orders & _MAKES and "list" not in original.lower() and _WHAT_IS.match(bare):
        return f"it asks about something that the instruction orders to {min(orders & _MAKES)}"
    if _YES_NO_QUESTION.match(original) and (found := _CHOOSES.match(bare)):
        return f"it asks {found[0].lower()} …, and the instruction whether"
    words = set(words_of(original))
    if (other := _OTHER_SUBJECTS & set(words_of(mutation))) and not _OTHER_SUBJECTS & words:
        return f"it asks about something else: {', '.join(sorted(other))}"
    return None


def invents_nothing(request: Request, mutation: str) -> str | None:
    """Refuse a mutation that brings a name, or far more words about another subject than about its own.

    >>> invents_nothing(Request.of("Can you write code?"), "Can you write code in Python?")
    'it brings a name that the instruction lacks: python'
    """
    original = request.instruction
    initials = {letter for word in _ABBREVIATION.findall(original) for letter in word.casefold()}
    alike = {word[:2].casefold() for word in _CAPITALISED.findall(original)}  # France, French
    names = (name for name in names_in(mutation) if name[0] not in initials and name[:2] not in alike)
    if added := [name for name in names if kept_share([name], original) < 1]:
        return f"it brings a name that the instruction lacks: {', '.join(dict.fromkeys(added))}"
    wanted = topic_words(original)
    for sentence in sentences_of(mutation):
        words = {word for word in topic_words(sentence) if len(word) > 1}
        if (kept := words & wanted) and len(words - wanted) > 2 + 2 * len(kept):
            return f"most of it is about something else: {', '.join(sorted(words - wanted)[:6])}"
    return None


def rewords(request: Request, mutation: str) -> str | None:
    """Refuse a copy of the instruction, an echo of the prompt that requests rewordings, and a form to be filled in.

    >>> rewords(Request.of("How do I brew tea?"), "how do i brew  tea")
    'it is a copy of the instruction'
    """
    original = request.instruction
    if repeats(mutation, [original]):
        return "it is a copy of the instruction"
    if _LABEL.match(mutation) and not _LABEL.match(original):
        return "it begins with a label of the prompt"
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
    return tuple(word for word in words_of(text) if word not in ("please", "kindly", "bitte", "请"))


def is_whole(request: Request, mutation: str) -> str | None:
    """Refuse a mutation that ends within a sentence.

    >>> is_whole(Request.of("How do I brew tea?"), "Explain how I can brew a")
    "it ends within a sentence: '… how I can brew a'"
    """
    text, original = mutation.rstrip(), request.instruction.rstrip()
    if text.endswith(_ENDED) or original.endswith(text[-30:]):
        return None
    words = words_of(text[-60:])
    letter = text.endswith("A")  # as in "vitamin A"
    joined = text.endswith((",", ":", "-", "–", "—", "(", "、", "，", "：")) and not original.endswith(text[-1])
    dangling = not letter and bool(words) and words[-1] in _TAIL and words[-1] != (words_of(original[-60:]) or [""])[-1]
    begun = len(sentences_of(text)) > 1 and "\n" not in text and original.endswith(_ENDED)
    return f"it ends within a sentence: {'…' + text[-17:]!r}" if joined or dangling or begun else None


def keeps_material(request: Request, mutation: str) -> str | None:
    r"""Refuse a mutation that loses what the instruction is about: a text, choices, quotes, numbers, names.

    >>> keeps_material(Request.of("Classify the animal.\n\nA grey seal"), "To which class does the animal belong?")
    "it loses the material 'A grey seal'"
    """
    original = request.instruction
    for part in material_of(original):
        if kept_share(part, mutation) < _KEPT:
            return f"it loses the material {part if len(part) <= 60 else part[:59] + '…'!r}"
    if lost := numbers_in(original) - numbers_in(mutation, doubtful=True):
        return f"it loses a number: {', '.join(sorted(lost))}"
    names = names_in(original)
    if kept_share(names, mutation) < _NAMES_KEPT:
        return f"it loses names: {', '.join(dict.fromkeys(names))}"
    return None


REWORDING_CHECKS = (words_it_as_request, rewords, asks_for_the_same, is_whole, keeps_material, invents_nothing)
"""The checks of rewordings that a model wrote, in this order."""
