"""Searches as data frames: one row a beam and score, and one row a search."""

import sys
from collections.abc import Sequence

import pytest

from darwin_align import DarwinSearch, SearchConfig, SearchResult, trace
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core import Event
from darwin_align.core.errors import MissingPackageError
from darwin_align.operators import Continuation, Row
from darwin_align.traces import Trace, results_frame


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


class Remembering(ScriptedPolicy):
    """Remembers every answer that it continued."""

    def __init__(self) -> None:
        super().__init__(["red", "green", "blue"], length=7)
        self.said = set[str]()

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        continuations = super().generate(rows)
        self.said |= {one.text for one in continuations}
        return continuations


@pytest.mark.parametrize("lookahead", [0, 1])
def test_the_json_of_a_result_holds_everything_that_was_said(lookahead: int) -> None:
    policy = Remembering()
    scorer = ScriptedScorer(reward=lambda text: float(text.split().count("red")))
    config = SearchConfig(
        cycles=2, mutations=3, max_new_tokens=8, replacement_period=2, lookahead=lookahead, mutator="identity"
    )
    result = DarwinSearch(policy=policy, scorer=scorer, config=config).invoke("Name red things.", seed=3)
    kept = {result.first_response.text, *(beam.text for beam in result.ranking)}
    replaced = {text for text in policy.said if not any(answer.startswith(text) for answer in kept)}
    assert replaced
    events = tuple(Event.model_validate(event) for event in result.model_dump()["events"])
    for again in (
        trace(SearchResult.from_json(result.to_json())),
        Trace.from_json(trace(result).to_json()),
        Trace(request=result.request, config=result.config, events=events),
    ):
        decoded = [one.after for one in again.answered if one.event.operator == "decode"]
        assert policy.said <= {beam.text for population in decoded for beam in population.beams}
