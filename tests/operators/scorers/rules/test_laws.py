"""Verdicts on the beginnings of one answer agree with each other and with the verdict on the whole."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_align.operators.scorers.rules import (
    Bullets,
    CapitalWords,
    EndsWith,
    Highlights,
    JsonSchema,
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
)

RULES = [
    MaxWords(3),
    MinWords(3),
    MaxCharacters(9),
    MaxSentences(1),
    MaxSentences(2),
    MinSentences(2),
    MinSentences(3),
    MustMention("tea"),
    MustMention("tea", 2),
    MaxMentions("tea", 1),
    MaxMentions("aa", 1),
    MustNotMention(("tea", "cook it", "no.")),
    Letters("a", least=2),
    Letters("ς", most=1),
    Letters("*", most=2),
    CapitalWords(least=2),
    CapitalWords(most=1),
    CapitalWords(least=1, most=2),
    Uppercase(),
    Lowercase(),
    NoCommas(),
    Bullets(1),
    Bullets(2),
    Highlights(1),
    Highlights(2),
    Placeholders(1),
    Placeholders(2),
    Sections(1),
    Sections(2, "Day"),
    Parts(1),
    Parts(2),
    Parts(3, "-=-"),
    Parts(2, "******", distinct=True),
    ParagraphStart(1, 1, "tea"),
    ParagraphStart(2, 2, "Tea"),
    ParagraphStart(3, 2, "A"),
    Title(),
    Postscript(),
    Postscript("P.P.S"),
    Postscript("Note:"),
    StartsWith("Tea. A"),
    EndsWith("tea."),
    Quoted(),
    OneOf(("Yes.", "No.")),
    JsonSchema(),
    JsonSchema({"type": "object", "required": ["tea"]}),
    JsonSchema({"type": "array", "items": {"type": "integer"}, "maxItems": 2}),
    JsonSchema({"type": "integer", "minimum": 10}),
    Regex(r"tea|[0-9]+,"),
    Regex(r"tea\b"),
    Regex(r"^tea$"),
    Regex(r"(?i)YES", found=False),
    Regex(r"a$", found=False),
]
PIECES = [
    *" \n\t,.?!\"'`*-<>[](){}:0123456789aAςΣİǅ_=\\/eE+\u00a0\u2028",
    *("tea", "Tea", "TEA", "no.", "No.", "Yes.", "cook it", "I'M", "U.S.", "Dr.", "e.g.", "etc.", "The", "and"),
    *(
        "\n\n",
        "***",
        "******",
        "-=-",
        "\n* ",
        "\n- ",
        "**",
        "<<",
        ">>",
        "```",
        "```json",
        "```JSON\n",
        "...",
        '."',
        "?!",
    ),
    *(
        "SECTION 1",
        "Day 2",
        "p.s.",
        "P. P. S",
        "Note:",
        "[x]",
        "true",
        "null",
        "NaN",
        "-Infinity",
        "1.5e",
        '{"tea": 1}',
    ),
    *("[1, 2]", '"a"', "\\u00e9", ": ", ", ", "Tea. A"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def check_laws(rule: Rule, text: str) -> None:
    final = rule.judge(text, finished=True)
    assert final.state in ("broken", "kept")
    settled = None
    for end in range(len(text) + 1):
        verdict = rule.judge(text[:end], finished=False)
        if settled is not None:
            assert verdict == settled, f"{rule} was {settled.state} before {text[:end]!r}"
        elif verdict.state != "open":
            settled = verdict
            assert verdict.state == final.state, f"{rule} is {verdict.state} on {text[:end]!r} and not on {text!r}"
            assert verdict.credit == final.credit
        else:
            assert 0.25 <= verdict.credit <= 0.75


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(text=TEXTS)
def test_what_a_beginning_settles_stays_so(rule: Rule, text: str) -> None:
    check_laws(rule, text)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(text=TEXTS, more=TEXTS)
def test_a_finished_beginning_contradicts_no_settled_verdict(rule: Rule, text: str, more: str) -> None:
    begun = rule.judge(text, finished=False)
    if begun.state == "open" or (begun.state == "kept" and not text.strip()):
        return
    for whole in (text, text + more):
        assert rule.judge(whole, finished=True) == begun


def test_each_rule_settles_what_it_says_and_only_then() -> None:
    """``decides`` says whether a beginning can break or keep a rule: shown on beginnings that do."""
    texts = [
        "Tea, tea: TEA IN CHINA. The tea is hot! And dear? aa aa *x* **y** [x] [y] [z] Day 1 Day 2 SECTION 3 ςς **",
        "- a\n- b\n- c\n",
        "*** a ***\n\nb\n\nc\n\nd ***** ***",
        "<<x>> p.s. p.p.s note: yes. Yes. YES 1, ",
        '"tea" x',
        "[1.5] ]",
        "a ****** a ****** -=--=--=- x",
    ]
    for rule in RULES:
        states = {rule.judge(text, finished=False).state for text in texts} - {"open"}
        if rule.decides == "end":
            assert not states, rule
        else:
            assert rule.decides in states, rule


def test_the_laws_find_a_rule_that_breaks_them() -> None:
    @dataclass(frozen=True)
    class EndsInA(Rule):
        def holds(self, text: str) -> bool:
            return text.endswith("a")

        def on_prefix(self, text: str):  # type: ignore[no-untyped-def]
            return self.judge(text, finished=True)

    del Rule.named["EndsInA"]
    with pytest.raises(AssertionError, match=r"was (kept|broken) before|is (kept|broken) on"):
        check_laws(EndsInA(), "ab")
