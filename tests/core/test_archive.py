"""The archive's rule, duplicates included."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from darwin_align.core import Archive, Entry

NAMES = st.sampled_from("abcdef")
REWARDS = st.integers(-3, 3).map(float)
ENTRIES = st.builds(Entry, instruction=NAMES, reward=REWARDS)


def archive_of(**rewards: float) -> Archive:
    return Archive(entries=tuple(Entry(instruction=name, reward=reward) for name, reward in rewards.items()))


def entries(**rewards: float) -> list[Entry]:
    return list(archive_of(**rewards).entries)


@pytest.mark.parametrize(
    ("parent", "champions", "after"),
    [
        ("a", {"b": 2.0}, {"b": 2.0}),  # the better child replaces its parent
        ("a", {"b": 1.0}, {"a": 1.0}),  # an equal one does not
        ("a", {"b": 0.5, "c": 3.0}, {"c": 3.0}),
        ("a", {"b": 2.0, "c": 3.0}, {"b": 2.0, "c": 3.0}),  # all that beat the parent enter
        ("a", {"a": 4.0}, {"a": 4.0}),  # the parent itself got better: it stays
        ("a", {"a": 4.0, "b": 2.0}, {"b": 2.0}),  # another one did too: the parent leaves
        ("a", {}, {"a": 1.0}),
    ],
)
def test_update(parent: str, champions: dict[str, float], after: dict[str, float]) -> None:
    assert archive_of(a=1.0).updated(parent, entries(**champions)).rewards == after


def test_a_duplicate_keeps_its_larger_reward() -> None:
    archive = archive_of(a=1.0, b=5.0)
    assert archive.updated("a", entries(b=2.0)).rewards == {"b": 5.0}
    assert archive.updated("a", entries(b=7.0)).rewards == {"b": 7.0}


@given(st.dictionaries(NAMES, REWARDS, min_size=1), st.lists(ENTRIES, max_size=5), st.data())
def test_nothing_enters_that_is_not_better_than_the_parent(
    rewards: dict[str, float], champions: list[Entry], data: st.DataObject
) -> None:
    parent = data.draw(st.sampled_from(sorted(rewards)))
    before = archive_of(**rewards)
    after = before.updated(parent, champions)
    assert before.rewards == rewards  # the old archive is left as it was
    assert after.entries
    for name, reward in after.rewards.items():
        assert name in rewards or reward > rewards[parent]
        assert reward >= rewards.get(name, reward)
    assert set(rewards) - set(after.rewards) <= {parent}
    assert min(after.rewards.values()) >= min(rewards.values())


def test_parents_are_drawn_uniformly() -> None:
    archive = archive_of(a=1.0, b=9.0, c=-4.0)
    counts = Counter(archive.sample(seed) for seed in range(3000))
    assert chisquare([counts[name] for name in "abc"]).pvalue > 1e-3
