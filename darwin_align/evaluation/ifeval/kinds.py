"""The 25 kinds of instructions of IFEval (Zhou et al. 2023, arXiv 2311.07911) as rules.

What each kind means in detail, where the paper is silent, is what the published checkers do: e.g. a keyword counts
within a longer word, "less than" excludes the number, and bullets must be exactly so many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.operators.scorers.rules import (
    Bullets,
    CapitalWords,
    EndsWith,
    Highlights,
    JsonSchema,
    Language,
    Letters,
    Lowercase,
    MaxMentions,
    MaxSentences,
    MaxWords,
    MinSentences,
    MinWords,
    MustMention,
    MustNotMention,
    NoCommas,
    OneOf,
    ParagraphStart,
    Parts,
    Placeholders,
    Postscript,
    Quoted,
    Rule,
    Sections,
    StartsWith,
    Title,
    Uppercase,
)

__all__ = ["KINDS", "rules_of"]

Settings = Mapping[str, Any]
Rules = tuple[Rule, ...]

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_RELATIONS = ("at least", "less than")


def rules_of(kind: str, settings: Settings) -> Rules:
    """The rules that an instruction sets; it is followed if all of them are kept. Their weights add up to 1.

    >>> rules_of("length_constraints:number_words", {"relation": "less than", "num_words": 100})
    (MaxWords(weight=1.0, most=99),)

    Args:
        kind: as IFEval names it.
        settings: the instruction's ``kwargs``; those that are ``None`` are not read.

    Raises:
        ConfigError: the kind is not known, or a setting is missing or impossible.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of instruction {kind!r}: {did_you_mean(kind, KINDS)}")
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        return KINDS[kind](given)
    except KeyError as error:
        raise ConfigError(f"an instruction {kind} needs {error.args[0]!r} in its kwargs: it has {given}") from None


def _relation(given: Settings, name: str, number: str) -> dict[str, int]:
    """The bounds of a number: ``least``, or ``most``."""
    if given[name] not in _RELATIONS:
        raise ConfigError(f"{name}={given[name]!r}: a relation is one of {' and '.join(map(repr, _RELATIONS))}")
    return {"least": int(given[number])} if given[name] == "at least" else {"most": int(given[number]) - 1}


def _existence(given: Settings) -> Rules:
    keywords = given["keywords"]
    return tuple(MustMention(keyword, weight=1 / len(keywords)) for keyword in keywords)


def _frequency(given: Settings) -> Rules:
    keyword, bounds = given["keyword"].strip(), _relation(given, "relation", "frequency")
    rule = MustMention(keyword, bounds["least"]) if "least" in bounds else MaxMentions(keyword, bounds["most"])
    return (rule,)


def _letters(given: Settings) -> Rules:
    return (Letters(given["letter"], **_relation(given, "let_relation", "let_frequency")),)


def _capital_words(given: Settings) -> Rules:
    return (CapitalWords(**_relation(given, "capital_relation", "capital_frequency")),)


def _sentences(given: Settings) -> Rules:
    bounds = _relation(given, "relation", "num_sentences")
    return (MinSentences(**bounds) if "least" in bounds else MaxSentences(**bounds),)


def _words(given: Settings) -> Rules:
    bounds = _relation(given, "relation", "num_words")
    return (MinWords(**bounds) if "least" in bounds else MaxWords(**bounds),)


def _one(make: Callable[[Settings], Rule]) -> Callable[[Settings], Rules]:
    return lambda given: (make(given),)


KINDS: Mapping[str, Callable[[Settings], Rules]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _one(lambda given: MustNotMention(tuple(given["forbidden_words"]))),
    "keywords:letter_frequency": _letters,
    "language:response_language": _one(lambda given: Language(given["language"])),
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _one(lambda given: Parts(given["num_paragraphs"])),
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _one(
        lambda given: ParagraphStart(given["num_paragraphs"], given["nth_paragraph"], given["first_word"])
    ),
    "detectable_content:number_placeholders": _one(lambda given: Placeholders(given["num_placeholders"])),
    "detectable_content:postscript": _one(lambda given: Postscript(given["postscript_marker"])),
    "detectable_format:number_bullet_lists": _one(lambda given: Bullets(given["num_bullets"])),
    "detectable_format:constrained_response": _one(lambda _: OneOf(_OPTIONS)),
    "detectable_format:number_highlighted_sections": _one(lambda given: Highlights(given["num_highlights"])),
    "detectable_format:multiple_sections": _one(
        lambda given: Sections(given["num_sections"], given["section_spliter"].strip())
    ),
    "detectable_format:json_format": _one(lambda _: JsonSchema()),
    "detectable_format:title": _one(lambda _: Title()),
    "combination:two_responses": _one(lambda _: Parts(2, "******", distinct=True)),
    "combination:repeat_prompt": _one(lambda given: StartsWith(given["prompt_to_repeat"])),
    "startend:end_checker": _one(lambda given: EndsWith(given["end_phrase"])),
    "startend:quotation": _one(lambda _: Quoted()),
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _one(lambda _: Uppercase(language="en")),
    "change_case:english_lowercase": _one(lambda _: Lowercase(language="en")),
    "punctuation:no_comma": _one(lambda _: NoCommas()),
}
"""By IFEval's names, what makes the rules of an instruction from its ``kwargs``."""
