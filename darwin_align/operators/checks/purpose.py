"""Whether two requests about the same words ask for the same thing, by the kind of question (rules for English)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from darwin_align.core.types import Request
from darwin_align.operators.checks.asking import asks, sentences_of
from darwin_align.operators.checks.material import without_lead, words_of
from darwin_align.operators.checks.topics import topic_words

__all__ = ["asks_for_the_same"]

_BEGINS = {
    "for a quantity": re.compile(r"how (?:many|much|long|often|far|old|big|tall|large)\b", re.IGNORECASE),
    "who": re.compile(r"(?:who|whose|whom)\b", re.IGNORECASE),
    "when": re.compile(
        r"(?:when (?:is|are|was|were|did|do|does|will|can|should)|(?:in |on )?what (?:year|date|day|time))\b",
        re.IGNORECASE,
    ),
    "where": re.compile(r"where\b", re.IGNORECASE),
    "why": re.compile(r"(?:why|what is the reason|for what reason)\b", re.IGNORECASE),
}
"""Kinds of question: how one begins."""
_SHOWS = {
    "for a quantity": re.compile(
        r"\b(?:how (?:many|much|long|often|far|old|big|tall|large)|number|amount|count|rate|size|age)s?\b",
        re.IGNORECASE,
    ),
    "who": re.compile(r"\b(?:who|whose|whom|person|people|author|name|names|creator)\b", re.IGNORECASE),
    "when": re.compile(r"\b(?:when|year|date|day|time|dates)\b", re.IGNORECASE),
    "where": re.compile(r"\b(?:where|place|location|country|city|site|directions)s?\b", re.IGNORECASE),
    "why": re.compile(r"\b(?:why|reasons?|causes?|explain|explanation|purpose|justify)\b", re.IGNORECASE),
}
"""What shows that an instruction asks for it, too."""
_LEAD_IN = re.compile(
    r"(?:(?:please|kindly|can you|could you|would you|i would like to know|i want to know|i'd like to know|tell me|"
    r"explain|describe|let me know|i wonder|do you know)[, ]{1,3}){1,3}",
    re.IGNORECASE,
)
_HOW_TO = re.compile(
    r"(?:me )?how (?:to|(?:do|can|could|would|should) \w{1,20}|\w{1,20} (?:can|could|would|should)) (?P<verb>\w{1,20})",
    re.I,
)
_YES_NO = re.compile(r"(?:is|are|was|were|do|does|did|has|have|can|could|will|would|should)\b", re.IGNORECASE)
_FACTUAL = re.compile(r"(?:what(?:['’]?s| is| are| was| were)|who|which|list|name)\b", re.IGNORECASE)
_WAY = re.compile(
    r"\b(?:how|ways?|tell|explain|help|show|teach|possible|steps?|methods?|process|recipe|tips?|advice|guide)\b",
    re.IGNORECASE,
)
_CHOOSES = re.compile(
    r"(?:what|which) (?!is\b|are\b|was\b|were\b|do\b|does\b|can\b|would\b|should\b)\w+", re.IGNORECASE
)
_WHAT_IS = re.compile(r"what(?:['’]?s| is| are| was| were)\b", re.IGNORECASE)
_PROCEDURE = re.compile(
    r"(?:can you (?:tell|show|teach) me )?how (?:do|can|could|should|would) (?:i|we|you|one)\b|how to\b", re.I
)
_PROCEDURAL = re.compile(
    r"\b(?:how|ways?|steps?|explain|guide|instructions?|methods?|process|procedure|tips?|advice|help|teach|learn|recipe|"
    r"walk|techniques?|tutorial|should|tricks?|approach|want|need to|like to|what (?:to|do i|can i|should i))\b",
    re.IGNORECASE,
)
_EXPLAINS_THINGS = re.compile(
    r"(?:please )?explain (?!how\b|why\b|what\b|whether\b|which\b|where\b|when\b|who\b)(?:\w{1,20} ){0,6}"
    r"(?:names?|ideas?|examples?|options?|lists?|titles?)\b",
    re.IGNORECASE,
)
_ASKS_TO_EXPLAIN = re.compile(r"\b(?:expla|descri|mean)", re.IGNORECASE)
_MAKES = frozenset(
    "write create make draw compose design generate translate convert rewrite build paint compile".split()  # noqa: SIM905
)
_OTHER_SUBJECTS = topic_words(
    "origin history author inventor meaning definition price cost difference importance purpose implication "
    "consequence translation summary synonym title"
)
"""What a request is about that has one of these words and another one has not."""


@dataclass(frozen=True)
class _Pair:
    """An instruction and its rewording."""

    original: str
    mutation: str

    @cached_property
    def lead(self) -> str:
        """The rewording's first question or order, from the word on that says of which kind it is."""
        first = next((sentence for sentence in sentences_of(self.mutation) if asks(sentence)), "")
        return without_lead(first.lstrip("\"'“‘*- "), _LEAD_IN)

    @cached_property
    def orders(self) -> set[str]:
        """The words with which the instruction's sentences and clauses begin."""
        clauses = [part for one in sentences_of(self.original) for part in one.split(", ")]
        return {without_lead(one, _LEAD_IN).partition(" ")[0].lower() for one in clauses}


def asks_for_the_same(request: Request, mutation: str) -> str | None:
    """Refuse a mutation that asks another thing about the same words (rules for English).

    >>> asks_for_the_same(Request.of("How do I brew green tea?"), "How many cups of green tea may I brew?")
    'it asks for another thing: it asks for a quantity, unlike the instruction'
    """
    pair = _Pair(request.instruction.strip(), mutation.strip())
    reason = next((reason for rule in _RULES if (reason := rule(pair))), None)
    return reason and f"it asks for another thing: {reason}"


def _another_kind(pair: _Pair) -> str | None:
    kinds = (kind for kind, begins in _BEGINS.items() if begins.match(pair.lead))
    kind = next((kind for kind in kinds if not _SHOWS[kind].search(pair.original)), None)
    return kind and f"it asks {kind}, unlike the instruction"


def _how_instead_of_doing(pair: _Pair) -> str | None:
    asked = _HOW_TO.match(pair.lead)
    if not asked:
        return None
    if (verb := asked["verb"].lower()) in pair.orders:
        return f"it asks how to {verb}, and the instruction orders it"
    if _WAY.search(pair.original):
        return None
    if _YES_NO.match(pair.original):
        return "it asks how, and the instruction whether"
    return "it asks how, and the instruction what" if _FACTUAL.match(pair.original) else None


def _what_instead_of_doing(pair: _Pair) -> str | None:
    makes = pair.orders & _MAKES
    if makes and "list" not in pair.original.lower() and _WHAT_IS.match(pair.lead):
        return f"it asks about something that the instruction orders to {min(makes)}"
    return None


def _which_instead_of_whether(pair: _Pair) -> str | None:
    found = _CHOOSES.match(pair.lead) if _YES_NO.match(pair.original) else None
    return f"it asks {found[0].lower()} …, and the instruction whether" if found else None


def _thing_instead_of_procedure(pair: _Pair) -> str | None:
    if _PROCEDURE.match(pair.original) and pair.mutation.isascii() and not _PROCEDURAL.search(pair.mutation):
        return "the instruction asks how, and it does not"
    return None


def _explanation_of_things(pair: _Pair) -> str | None:
    if _EXPLAINS_THINGS.match(pair.mutation) and not _ASKS_TO_EXPLAIN.search(pair.original):
        return "it asks to explain what the instruction asks to be given"
    return None


def _other_subject(pair: _Pair) -> str | None:
    other = _OTHER_SUBJECTS & topic_words(pair.mutation)
    if other and not _OTHER_SUBJECTS & topic_words(pair.original):
        words = [word for word in words_of(pair.mutation) if topic_words(word) & other]
        return f"it asks about something else: {', '.join(words)}"
    return None


_RULES: tuple[Callable[[_Pair], str | None], ...] = (
    _another_kind,
    _how_instead_of_doing,
    _what_instead_of_doing,
    _which_instead_of_whether,
    _thing_instead_of_procedure,
    _explanation_of_things,
    _other_subject,
)
