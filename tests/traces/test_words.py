"""Words that changed between two instructions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_align.traces.words import changes, split

texts = st.text(alphabet=st.sampled_from("ab c,.?泡茶é\u0301👍🏽\u200d👩مر\n"), max_size=24) | st.text(max_size=12)


@given(texts)
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text


@given(texts, texts)
def test_what_both_have_and_what_came_is_the_child(parent: str, child: str) -> None:
    parts = changes(parent, child)
    assert "".join(text for kind, text in parts if kind != "added") == parent
    assert "".join(text for kind, text in parts if kind != "removed") == child
    assert all(text for _, text in parts)


@given(texts)
def test_a_text_is_its_own_rewording(text: str) -> None:
    assert all(kind == "same" for kind, _ in changes(text, text))


def test_neighbours_are_reported_as_one_change() -> None:
    parts = changes("How do I brew green tea?", "What is the best way to brew green tea?")
    assert [tuple(part) for part in parts] == [
        ("removed", "How do I"),
        ("added", "What is the best way to"),
        ("same", " brew green tea?"),
    ]


@pytest.mark.parametrize(
    ("parent", "child", "added"),
    [
        ("怎么泡茶？", "怎么泡绿茶？", ["绿"]),
        ("Go 👍🏽", "Go 👍🏽👩‍🔬", ["👩‍🔬"]),
        ("मेरी चाय", "मेरी हरी चाय", ["हरी "]),
        ("don't", "don't stop", [" stop"]),
    ],
)
def test_scripts_and_signs_stay_whole(parent: str, child: str, added: list[str]) -> None:
    assert [part.text for part in changes(parent, child) if part.kind == "added"] == added


def test_texts_too_long_to_compare_are_shown_one_after_the_other() -> None:
    parent, child = "word " * 2000, "words " * 2000
    assert [part.kind for part in changes(parent, child)] == ["removed", "added"]
    assert [part.kind for part in changes(parent, parent)] == ["same"]
