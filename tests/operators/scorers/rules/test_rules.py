"""Each rule on answers and on their beginnings."""

import json
from typing import Any

import pytest

from darwin_align.core.errors import ConfigError
from darwin_align.operators.scorers.rules import (
    Bullets,
    CapitalWords,
    EndsWith,
    Highlights,
    JsonSchema,
    Language,
    Letters,
    Lowercase,
    MaxCharacters,
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
    Regex,
    Rule,
    Sections,
    StartsWith,
    Title,
    Uppercase,
    rule_of,
)
from darwin_align.operators.scorers.rules.texts import capital_words, sentences, words

TEA = {"type": "object", "properties": {"tea": {"type": "string"}}, "required": ["tea"]}
WHOLE: list[tuple[Rule, list[str], list[str]]] = [
    (MaxWords(3), ["Boil the water.", "it's ok"], ["Boil the water now.", "it's ok now"]),
    (MinWords(2), ["Boil it"], ["Boil!"]),
    (MaxCharacters(5), ["Hello"], ["Hello!"]),
    (MaxSentences(1), ["Ask Dr. Smith at 5 p.m. now.", "Well..."], ["Go. Now.", "Go! now"]),
    (MinSentences(2), ["Go. Now.", 'He said "Go." Then he went.'], ["Mr. Smith went", "1.5 litres"]),
    (MustMention("tea"), ["TEAPOT"], ["te a"]),
    (MustMention("ha", 2), ["haha"], ["ha"]),
    (MaxMentions("ha", 1), ["ha"], ["haHA"]),
    (MustNotMention("cook"), ["cooking", "recook"], ["Cook!", "I cook"]),
    (Letters("e", least=2), ["Eve"], ["me"]),
    (Letters("!", most=1), ["Go!"], ["Go!!"]),
    (CapitalWords(least=2), ["GO, NASA", "I'M"], ["GO Nasa"]),
    (CapitalWords(most=0), ["Go Nasa-1"], ["A tea"]),
    (Uppercase(), ["GO 1"], ["Go", "1 + 1"]),
    (Lowercase(), ["go 1"], ["Go", "1 + 1"]),
    (NoCommas(), ["Go now"], ["Go, now"]),
    (Bullets(2), ["* a\n* b", "- a\nand\n  - b", "*\n* b\n* c"], ["* a", "* a\n* b\n- c", "** a\n** b"]),
    (Highlights(2), ["*a* and *b*", "**a** and **b**"], ["*a*", "** ** *a*", "*a\nb* *c*"]),
    (Placeholders(1), ["Dear [name]"], ["Dear [name", "[a\nb]"]),
    (Sections(2), ["SECTION 1 a SECTION 2 b"], ["Section 1 a Section 2 b", "SECTION A SECTION B"]),
    (Parts(2), ["a\n***\nb", "***\na\n***\nb\n***"], ["a", "a *** b *** c", "a *** *** b"]),
    (Parts(2, "******", distinct=True), ["a ****** b"], ["a ****** a "]),
    (ParagraphStart(2, 2, "Then"), ["a\n\nthen, b", 'a\n\n"Then" b'], ["a\n\nb", "then", "a\n\nthen\n\nc"]),
    (Title(), ["<<Tea>>", "A <<b>> c"], ["<< >>", "<<a\nb>>", "<Tea>"]),
    (Postscript(), ["Bye. P.S. Call", "p. s. call"], ["Bye. PS: call"]),
    (Postscript("P.P.S"), ["P. P. S call"], ["P.S. call"]),
    (StartsWith("Say hello"), ["  say HELLO\nHello."], ["I say hello"]),
    (EndsWith("Any questions?"), ['Boil it. any questions?"  '], ["Any questions? No"]),
    (Quoted(), [' "Tea" '], ["Tea", '"', '"Tea". ']),
    (OneOf(("Yes.", "No.")), ["I say: Yes."], ["yes."]),
    (JsonSchema(), ['{"a": [1, NaN]}', "```json\n[]\n```", '"a"', "12"], ["{'a': 1}", "[1,]", "{} {}", "```[]"[:3]]),
    (JsonSchema(TEA), ['{"tea": "green"}'], ['{"tea": 1}', "[]", "{}"]),
    (Language("de"), ["Lassen Sie den Tee drei Minuten ziehen."], ["Let the tea steep for three minutes."]),
    (Uppercase(language="en"), ["LET THE TEA STEEP FOR THREE MINUTES."], ["LASSEN SIE DEN TEE DREI MINUTEN ZIEHEN."]),
    (Regex(r"\d+ euros?"), ["It costs 1 euro."], ["It costs one euro."]),
    (Regex(r"(?i)cheap", found=False), ["It costs 1 euro."], ["CHEAPER"]),
]


@pytest.mark.parametrize(
    ("rule", "kept", "broken"), WHOLE, ids=lambda value: repr(value) if isinstance(value, Rule) else ""
)
def test_whole_answers(rule: Rule, kept: list[str], broken: list[str]) -> None:
    assert [rule.judge(text, finished=True).state for text in kept] == ["kept"] * len(kept)
    assert [rule.judge(text, finished=True).state for text in broken] == ["broken"] * len(broken)
    assert rule.judge(" \n", finished=True).state == "broken", "a blank answer keeps no rule"


@pytest.mark.parametrize(
    ("rule", "text", "state"),
    [
        (MaxWords(2), "one two", "open"),
        (MaxWords(2), "one two three", "broken"),
        (MinWords(2), "one two", "kept"),
        (MaxSentences(1), "It is Dr. S", "open"),
        (MaxSentences(1), "It is so. But", "open"),  # "But" may go on, and "so." be no end
        (MaxSentences(1), "It is so. But ", "broken"),
        (MustMention("tea"), "Green tea", "kept"),
        (MustNotMention("tea"), "Green tea", "open"),
        (MustNotMention("tea"), "Green tea.", "broken"),
        (CapitalWords(least=1), "NASA", "open"),
        (CapitalWords(least=1), "NASA ", "kept"),
        (Bullets(1), "* a\n*", "open"),
        (Bullets(1), "* a\n* ", "broken"),
        (Parts(1), "a ***", "open"),
        (Parts(1), "a *** b", "broken"),
        (Parts(2), "a *** **", "open"),
        (Parts(2), "a *** ***", "broken"),
        (ParagraphStart(2, 1, "Tea"), "Teat", "open"),
        (ParagraphStart(2, 1, "Tea"), "Teat ", "broken"),
        (ParagraphStart(1, 1, "Tea"), "Tea\n\nx", "broken"),
        (StartsWith("Say hello"), "  say", "open"),
        (StartsWith("Say hello"), "say hello", "kept"),
        (StartsWith("Say hello"), "say  ", "broken"),
        (Quoted(), '"Tea"', "open"),
        (Language("de"), "Let the tea steep for three minutes.", "open"),
        (EndsWith("tea"), "Green tea", "open"),
        (JsonSchema(), "``", "open"),
        (JsonSchema(), "```js", "open"),
        (JsonSchema(), "```jso ", "broken"),
        (JsonSchema(), "Here", "broken"),
        (JsonSchema(), '{"a": tr', "open"),
        (JsonSchema(), '{"a": tx', "broken"),
        (JsonSchema(), '{"a": "\\u00', "open"),
        (JsonSchema(), '{"a": "\\x', "broken"),
        (JsonSchema(), '{"a": "\n', "broken"),
        (JsonSchema(), "[1.", "open"),
        (JsonSchema(), "[1.]", "broken"),
        (JsonSchema(), "[01", "broken"),
        (JsonSchema(), "[-", "open"),
        (JsonSchema(), "{} `", "open"),
        (JsonSchema(), "{} x", "broken"),
        (JsonSchema(TEA), '{"tea": "green"}', "open"),
        (JsonSchema(TEA), '{"tea": 1}', "broken"),
        (Regex("tea"), "Green tea", "kept"),
        (Regex("tea$"), "Green tea", "open"),
    ],
    ids=repr,
)
def test_beginnings(rule: Rule, text: str, state: str) -> None:
    assert rule.judge(text, finished=False).state == state


def test_counts_give_partial_credit() -> None:
    rule = Bullets(5)
    credits = [rule.judge("* x\n" * n, finished=False).credit for n in range(7)]
    assert credits == pytest.approx([0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.0])
    assert MaxWords(3).judge("one two", finished=False).credit == pytest.approx(0.5)  # half of the allowance is left
    assert MinWords(4).judge("one two three", finished=False).credit == pytest.approx(0.625)
    assert MustMention("tea", 4).judge("tea tea tea", finished=False).credit == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxWords(-1), r"MaxWords\(most=-1\): give a whole number of 0 or more"),
        (lambda: MinWords(0), r"MinWords\(least=0\): give a whole number of 1 or more"),
        (lambda: MaxWords("80"), r"MaxWords\(most='80'\)"),
        (lambda: MaxWords(True), r"MaxWords\(most=True\)"),
        (lambda: MaxWords(80, weight=0), r"MaxWords\(weight=0\): a weight is a positive number"),
        (lambda: NoCommas(weight=float("nan")), r"NoCommas\(weight=nan\)"),
        (lambda: MustMention(" "), r"MustMention\(text=' '\): give a text that is not blank"),
        (lambda: MustNotMention(()), r"MustNotMention\(\(\)\) forbids nothing"),
        (lambda: Letters("ab", most=1), r"Letters\('ab'\): give one character"),
        (lambda: Letters("a"), r"Letters counts without a bound"),
        (lambda: CapitalWords(least=3, most=2), r"CapitalWords\(least=3, most=2\): no number is both"),
        (lambda: Parts(0), r"Parts\(number=0\)"),
        (lambda: ParagraphStart(2, 3, "a"), r"ParagraphStart\(2, 3\): give a paragraph among the number"),
        (lambda: OneOf(()), r"OneOf\(\(\)\) leaves no answer"),
        (lambda: JsonSchema({"type": "tea"}), r"JsonSchema\(…\): .*tea"),
        (lambda: JsonSchema("object"), r"JsonSchema\('object'\): give a JSON schema"),
        (lambda: Language("German"), r"Language\('German'\): give the code of a language"),
        (lambda: Regex("("), r"Regex\('\('\) is no pattern"),
        (lambda: Regex("(?=a)b"), r"has no lookarounds and no backreferences"),
        (lambda: rule_of({"rule": "MaxWord", "most": 3}), r"unknown rule 'MaxWord': did you mean 'MaxWords'"),
        (lambda: rule_of({"rule": "MaxWords", "least": 3}), r"the rule MaxWords has other settings"),
        (lambda: rule_of("MaxWords(3)"), r"'MaxWords\(3\)' is no rule"),
    ],
)
def test_impossible_rules_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_rules_go_to_json_and_back() -> None:
    for rule, _, _ in WHOLE:
        data = json.loads(json.dumps(rule.to_data()))
        assert rule_of(data) == rule
        assert data["rule"] == type(rule).__name__
    assert MaxWords(80, weight=2).to_data() == {"rule": "MaxWords", "most": 80, "weight": 2}
    assert MustMention("tea").to_data() == {"rule": "MustMention", "text": "tea"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        (" ", 0),
        ("Go", 1),
        ("Go.", 1),
        ("Go. Now!", 2),
        ("Is it? Yes.", 2),
        ("Dr. Smith met Mr. Jones.", 1),
        ("It costs 1.5 euros. Fine.", 2),
        ("J. R. Smith came. He saw.", 2),
        ("Tea etc. is fine.", 2),  # as Punkt has it
        ("Really?! No.", 2),
        ('"Go." He went.', 2),
        ("(Go.) He went.", 2),
        ("Wait... what", 1),
        ("Wait... What now", 2),
        ("Wait... Paris", 1),
        ("Go.Now", 1),
        ("1. Boil. 2. Wait.", 4),
        ("Line one\nline two", 1),
    ],
)
def test_sentences(text: str, number: int) -> None:
    assert sentences(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("I'M HERE", 3),
        ("CAN'T", 2),
        ("CANNOT", 2),
        ("U.S. NASA", 2),
        ("A-B C/D", 2),
        ("HELLO! HELLO", 2),
        ("Hello", 0),
        ("1 2", 0),
        ("A1 (B) [C] *D*", 4),
        ("JOHN'S", 2),
        ("ONE,TWO", 2),
        ("10:30 PM", 1),
    ],
)
def test_capital_words(text: str, number: int) -> None:
    assert capital_words(text) == number


def test_words() -> None:
    assert words("It's 80 words_and – more") == 5


def test_long_texts_are_judged_in_time_that_grows_with_them() -> None:
    from time import process_time

    rules = [rule for rule, _, _ in WHOLE if not (isinstance(rule, Language) or getattr(rule, "language", None))]
    for piece in ("a. ", "* x\n", "[", "<<", "***", "A'", '"', "tea ", "\n", "{", "1."):
        spent = []
        for size in (5_000, 20_000):
            text = (piece * size)[:size]
            start = process_time()
            for rule in rules:
                rule.judge(text, finished=False)
                rule.judge(text, finished=True)
            spent.append(process_time() - start)
        assert spent[1] < 1.0, (piece, spent)
