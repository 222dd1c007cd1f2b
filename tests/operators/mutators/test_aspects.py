"""Guidance sentences: in the instruction's language, without contradicting it, and beside its material."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from darwin_align import AspectMutator, Clause, Message, MutationContext, Request
from darwin_align.core import Entry, ScoredAnswer
from darwin_align.operators.mutators.aspects.data import LANGUAGES, PROPERTIES, bank_of, fixed_by
from darwin_align.operators.mutators.aspects.language import language_of
from tests.core.kit import ASKED, search_of

QUESTIONS = {
    "en": "How do I brew green tea?",
    "de": "Wie brühe ich grünen Tee richtig auf?",
    "fr": "Comment préparer du thé vert ?",
    "es": "¿Cómo se prepara el té verde?",
    "pt": "Como se prepara um bom chá verde?",
    "zh": "怎么泡绿茶？",
    "ja": "緑茶はどうやって淹れますか。",
    "hi": "हरी चाय कैसे बनाते हैं?",
}
CLOSED = {
    "en": "Classify the sentiment of this tweet as positive or negative: I love my new kettle. It is so quiet!",
    "de": "Übersetze den folgenden Satz ins Englische: Ich trinke gern grünen Tee.",
    "fr": "Répondez seulement par oui ou non : le thé vert contient-il de la caféine ?",
    "es": "Traduce esta frase al inglés: El té verde se bebe caliente.",
    "pt": "Corrija a frase: Eu gosta muito de chá verde.",
    "zh": "把下面的句子翻译成英文：我喜欢喝绿茶。",
    "ja": "次の文を英語に翻訳してください：私は緑茶が好きです。",
    "hi": "इस वाक्य का अंग्रेज़ी में अनुवाद करें: मुझे हरी चाय पसंद है।",
}


def added(instruction: str, n: int = 5, seed: int = 1, **known: Any) -> list[str]:
    """The sentences that n mutations add."""
    found = AspectMutator().mutate(MutationContext.of(instruction, n=n, seed=seed, **known)).answer
    assert all(text.count(instruction) == 1 for text in found)
    return [text.replace(instruction, "").strip() for text in found]


def kinds(language: str, sentences: list[str]) -> set[str]:
    by_text = {aspect.text: aspect.kind for aspect in bank_of(language).aspects}
    return {by_text[sentence] for sentence in sentences}


# The bank


def test_there_are_enough_sentences_in_every_language() -> None:
    assert len(bank_of("en").aspects) >= 60
    for language in LANGUAGES:
        texts = [aspect.text for aspect in bank_of(language).aspects]
        assert len(texts) == len(set(texts)) >= 30
        assert len([aspect for aspect in bank_of(language).aspects if aspect.kind == "care"]) >= 15
        assert {aspect.kind for aspect in bank_of(language).aspects} == {a.kind for a in bank_of("en").aspects}
        assert all(len(text) <= 90 and text[-1] in ".。।" for text in texts)
        assert not any(one != other and one in other for one in texts for other in texts)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_is_known_for_its_language(language: str) -> None:
    found = [language_of(aspect.text) for aspect in bank_of(language).aspects]
    assert Counter(found)[language] >= 0.8 * len(found)


# Language


@pytest.mark.parametrize(("language", "question"), QUESTIONS.items())
def test_sentences_are_in_the_instructions_language(language: str, question: str) -> None:
    assert language_of(question) == language
    report = AspectMutator().mutate(MutationContext.of(question, n=20, seed=3))
    assert report.notes == ()
    assert len(report.answer) == len(set(report.answer)) == 20
    assert len(kinds(language, added(question, 20, 3))) >= 8


@pytest.mark.parametrize("question", ["Как заварить зелёный чай?", "Hoe zet ik groene thee?", "Come si prepara il tè?"])
def test_other_languages_get_english_ones_and_a_note(question: str) -> None:
    report = AspectMutator().mutate(MutationContext.of(question, n=2))
    assert report.notes == ("the instruction's language has no guidance sentences of its own: English ones are added",)
    assert kinds("en", [text.removeprefix(question).strip() for text in report.answer])


@pytest.mark.parametrize(
    ("instruction", "language"),
    [
        ("Translate into German: Ich habe keine Zeit und kein Geld.", "en"),
        ("Übersetze ins Englische:\n\nHow do you do, and what is the time?", "de"),
        ("Photosynthesis", "en"),
        ("What does 猫 mean?", "en"),
        ("convert December 21 · 1:00 – 1:50pm pacific to asia/taipei time", "en"),
    ],
)
def test_the_language_is_that_of_the_order(instruction: str, language: str) -> None:
    assert kinds(language, added(instruction))


# What is fixed


@pytest.mark.parametrize(("language", "instruction"), CLOSED.items())
def test_where_all_is_fixed_only_care_is_added(language: str, instruction: str) -> None:
    assert kinds(language, added(instruction, 15)) == {"care"}
    assert len(added(instruction, 15)) == 15


@pytest.mark.parametrize(
    ("instruction", "left_out"),
    [
        ("Explain gravity in one sentence.", {"depth", "example", "brevity", "format", "caution", "practice", "sides"}),
        ("Explain gravity in at most 50 words.", {"depth", "example", "brevity", "format", "caution", "sides"}),
        ("List the planets.", {"format", "example", "sides"}),
        ("Explain gravity to a child.", {"audience"}),
        ("Write a poem about rain.", {"format", "order", "example", "audience", "tone"}),
        ("Describe Rome. Start with its history.", {"order"}),
        ("Describe Rome in a humorous tone.", {"tone"}),
        ("Erkläre die Schwerkraft in zwei Sätzen.", {"depth", "brevity", "format", "sides"}),
        ("Explique la gravité à un enfant.", {"audience"}),
        ("Explica la gravedad en un párrafo.", {"depth", "brevity", "format"}),
        ("Explique a gravidade em uma frase.", {"depth", "brevity", "format"}),
        ("请用一句话解释重力。", {"depth", "brevity", "format"}),
        ("重力を子供に説明してください。", {"audience"}),
        ("गुरुत्वाकर्षण को एक वाक्य में समझाएँ।", {"depth", "brevity", "format"}),
    ],
)
def test_what_an_instruction_fixes_is_never_changed(instruction: str, left_out: set[str]) -> None:
    language = language_of(instruction)
    assert language
    drawn = kinds(language, added(instruction, 60))
    assert "care" in drawn
    assert not drawn & left_out


@pytest.mark.parametrize(
    "instruction",
    [
        "Answer with only the letter. Which is a fruit? A) apple B) stone",
        "Is tea healthy? Answer yes or no.",
        "Give me the capitals of Europe in JSON.",
        "Which of the following is a mammal?\nA. shark\nB. whale",
        "Fix the grammar: he go to school",
    ],
)
def test_closed_orders_fix_everything(instruction: str) -> None:
    assert fixed_by(instruction) >= PROPERTIES


def test_a_request_that_is_to_be_repeated_is_left_alone() -> None:
    instruction = "First repeat the request word for word without change, then answer it. Write a haiku about tea."
    report = AspectMutator().mutate(MutationContext.of(instruction, n=3))
    assert report.answer == []
    assert "repeated word for word" in report.notes[0]


def test_the_rest_of_the_request_fixes_things_too() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "tea", "schema": {"type": "object"}}}
    system = Message(role="system", content="Answer in one short sentence.")
    spoken = Request.of(ASKED).model_copy(update={"conversation": (system, Message(role="user", content=ASKED))})
    for request, free in ((Request.of(ASKED, response_format=schema), {"care"}), (spoken, {"care", "order", "tone"})):
        found = AspectMutator().mutate(MutationContext.of(request, n=60)).answer
        assert kinds("en", [text.replace(ASKED, "").strip() for text in found]) - {"audience", "wording"} == free


def test_sentences_on_one_another_do_not_contradict() -> None:
    for seed in range(30):
        parent = f"{ASKED} Leave out nothing important."
        context = MutationContext.of(ASKED, instruction=parent, n=60, seed=seed)
        texts = [text.removeprefix(parent).strip() for text in AspectMutator().mutate(context).answer]
        assert "brevity" not in kinds("en", texts)


# Where it goes


@pytest.mark.parametrize(
    ("instruction", "before"),
    [
        ("How do I brew green tea?", False),
        ("Tell me about green tea", False),
        ("Summarize this text.\n\nTea is a drink. It is old.", True),
        ("Tea is a drink. It was first drunk in China.\n\nSummarize the text above.", False),
        ("What is wrong with this code?\n```\nprint(1\n```", True),
        ('What does the following sentence mean? "It\'s raining cats and dogs."', True),
        ("My favourite review of the series is this: ", True),
        ("Rewrite in plain English: the party of the first part shall pay", True),
        ("Which is bigger?\nA. the sun\nB. the moon", True),
    ],
)
def test_it_goes_with_the_order(instruction: str, before: bool) -> None:
    for text in AspectMutator().mutate(MutationContext.of(instruction, n=5)).answer:
        assert text.endswith(instruction) if before else text.startswith(instruction)
        assert text != instruction


ORDERS = (
    "Summarize this text",
    "Classify this as A or B",
    "What does it mean",
    "Übersetze das",
    "これを要約してください",
)
MATERIAL = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), include_characters="\n\t"), min_size=1, max_size=300
)


@limits(max_examples=60)
@given(
    st.sampled_from(ORDERS),
    MATERIAL,
    st.sampled_from([": {}", ":\n\n{}", "\n\n{}", ": “{}”", ":\n```\n{}\n```"]),
    st.integers(0, 99),
)
def test_material_and_parent_stay_as_they_are(order: str, material: str, form: str, seed: int) -> None:
    assume(material.strip())
    instruction = order + form.format(material)
    found = AspectMutator().mutate(MutationContext.of(instruction, n=3, seed=seed)).answer
    for text in found:
        assert text.endswith(instruction)  # the sentence is before the order, and the material is untouched
    again = (
        AspectMutator().mutate(MutationContext.of(instruction, instruction=found[0], n=3, seed=seed)) if found else None
    )
    for text in again.answer if again else ():
        assert text.endswith(found[0])


@limits(max_examples=60)
@given(MATERIAL, st.integers(0, 9), st.integers(1, 70))
def test_any_instruction_is_contained_in_its_mutations_and_none_comes_twice(text: str, seed: int, n: int) -> None:
    assume(text.strip())
    context = MutationContext.of(text, n=n, seed=seed)
    found = AspectMutator().mutate(context)
    assert all(text in mutation for mutation in found.answer)
    assert len(found.answer) == len(set(found.answer)) <= n
    assert AspectMutator().mutate(context) == found


# Which are drawn


def test_none_comes_twice_in_a_search() -> None:
    result = search_of(mutator=AspectMutator()).invoke(ASKED, cycles=4, seed=3, max_new_tokens=8)
    sentences: list[str] = []
    for event in result.events:
        if event.operator == "mutate":
            texts = [beam["instruction"] for beam in event.delta.beams.values()]
            new = [aspect.text for aspect in bank_of("en").aspects if all(aspect.text in text for text in texts)]
            sentences += [
                aspect.text
                for text in texts
                for aspect in bank_of("en").aspects
                if aspect.text in text and aspect.text not in new
            ]
    assert len(sentences) >= 15
    assert len(sentences) == len(set(sentences))
    assert result.exploration
    assert result.exploration.accepted == result.exploration.places == 20


def test_after_the_last_sentence_there_are_fewer() -> None:
    instruction = CLOSED["en"]
    every = [aspect.text for aspect in bank_of("en").aspects if aspect.kind == "care"]
    tried = tuple(f"{text} {instruction}" for text in every[:-2])
    assert sorted(added(instruction, 5, tried=tried)) == sorted(every[-2:])
    assert added(instruction, 5, tried=tried, accepted=tuple(every[-2:])) == []


def test_kinds_that_earned_reward_are_drawn_more_often() -> None:
    aspects = {aspect.kind: aspect.text for aspect in bank_of("en").aspects}
    answers = (
        *(ScoredAnswer(text="a", reward=2.0, instruction=f"{ASKED} {aspects['depth']}") for _ in range(3)),
        ScoredAnswer(text="b", reward=1.0, instruction=ASKED),
        *(ScoredAnswer(text="c", reward=0.0, instruction=f"{ASKED} {aspects['tone']}") for _ in range(3)),
    )

    def share(kind: str, **known: Any) -> int:
        return sum(kinds("en", added(ASKED, 1, seed, **known)) == {kind} for seed in range(120))

    assert share("depth", answers=answers) > 2 * share("depth")
    assert 2 * share("tone", answers=answers) < share("tone")


def test_one_mutation_has_several_kinds() -> None:
    for seed in range(20):
        assert len(kinds("en", added(ASKED, 5, seed))) >= 4


def test_learned_clauses_come_first_where_they_suit() -> None:
    clauses = (Clause(text="Mention the weather.", worth=3.0), Clause(text="Sprich über das Wetter.", worth=9.0))
    mutator = AspectMutator(clauses=clauses)
    [first] = mutator.mutate(MutationContext.of(ASKED, seed=4)).answer
    assert first == f"{ASKED} Mention the weather."
    fixed = mutator.mutate(MutationContext.of("Explain rain in one sentence.", n=60)).answer
    assert not any("weather" in text for text in fixed)
    archive = (Entry(instruction=first, reward=1.0),)
    assert not any(
        "weather" in text for text in mutator.mutate(MutationContext.of(ASKED, n=60, archive=archive)).answer
    )


def test_the_seed_decides() -> None:
    assert added(ASKED, 5, 1) == added(ASKED, 5, 1) != added(ASKED, 5, 2)
