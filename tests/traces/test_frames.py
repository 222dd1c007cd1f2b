"""Searches as data frames: one row a beam and score, and one row a search."""

import sys

import pytest

from darwin_align import DarwinSearch, SearchConfig, SearchResult, trace
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import MissingPackageError
from darwin_align.traces import results_frame


@pytest.fixture(scope="module")
def result() -> SearchResult:
    config = SearchConfig(cycles=2, mutations=3, max_new_tokens=6, replacement_period=2, mutator="aspects")
    policy = ScriptedPolicy(["red", "green", "blue"], length=6)
    scorer = ScriptedScorer(reward=lambda text: float(text.split().count("red")))
    return DarwinSearch(policy=policy, scorer=scorer, config=config).invoke("Name red things.", seed=3)


def test_every_score_is_a_row(result: SearchResult) -> None:
    frame = trace(result).to_frame()
    assert len(frame) == sum(
        beam.reward is not None
        for one in trace(result).answered
        if one.event.operator == "score"
        for beam in one.after.beams
    )
    assert frame.reward.max() == result.reward
    assert set(frame.cycle) == {0, 1}
    last = frame[frame.text == result.text]
    assert not last.empty
    assert (frame.reward == frame.text.str.split().apply(lambda words: words.count("red"))).all()
    assert frame.decoded_tokens.is_monotonic_increasing
    assert frame.decoded_tokens.iloc[-1] == result.usage.decoded_tokens


def test_a_replaced_beam_goes_on_from_anothers_text(result: SearchResult) -> None:
    frame = trace(result).to_frame()
    assert frame.replaced.any()
    for row in frame[frame.replaced].itertuples():
        later = frame[(frame.cycle == row.cycle) & (frame.beam == row.beam) & (frame.step == row.step + 1)]
        assert all(not text.startswith(row.text) for text in later.text)


def test_results_are_rows(result: SearchResult) -> None:
    frame = results_frame([result, result])
    assert list(frame.text) == [result.text] * 2
    assert list(frame.decoded_tokens) == [result.usage.decoded_tokens] * 2
    assert frame.accepted.iloc[0] == frame.places.iloc[0] == 6


def test_without_pandas_the_error_names_the_extra(result: SearchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match=r"darwin-align\[frames\]"):
        trace(result).to_frame()
