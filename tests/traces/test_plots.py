"""Reward against tokens."""

import sys
from collections.abc import Iterator

import pytest
from matplotlib import pyplot

from darwin_align import DarwinSearch, SearchConfig, SearchResult, trace
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import MissingPackageError
from darwin_align.traces import plot_results


@pytest.fixture(scope="module")
def results() -> list[SearchResult]:
    config = SearchConfig(cycles=2, mutations=3, max_new_tokens=6, replacement_period=2, mutator="aspects")
    policy = ScriptedPolicy(["red", "green", "blue"], length=6)
    scorer = ScriptedScorer(reward=lambda text: float(text.split().count("red")))
    return DarwinSearch(policy=policy, scorer=scorer, config=config).batch(["Name red things.", "Name more."], seed=3)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def test_a_search_shows_every_score_and_the_best_so_far(results: list[SearchResult]) -> None:
    axes = trace(results[0]).plot()
    frame = trace(results[0]).to_frame()
    points = [tuple(point) for shown in axes.collections for point in shown.get_offsets()]
    assert {*points} == {*zip(frame.decoded_tokens, frame.reward, strict=True)} - _repeated(frame)
    [line] = axes.lines
    assert list(line.get_ydata()) == sorted(line.get_ydata())
    assert line.get_ydata()[-1] == results[0].reward
    assert max(line.get_xdata()) <= results[0].usage.decoded_tokens
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "first response", "unfinished", "finished", "best finished answer",
    ]  # fmt: skip


def _repeated(frame: object) -> set[tuple[float, float]]:
    ended = frame[frame.finish_reason.notna()]  # type: ignore[attr-defined]
    again = ended[ended.duplicated(["cycle", "beam", "text"])]
    first = ended.drop(again.index)
    open_ = frame[frame.finish_reason.isna()]  # type: ignore[attr-defined]
    kept = {*zip(first.decoded_tokens, first.reward, strict=True)}
    kept |= {*zip(open_.decoded_tokens, open_.reward, strict=True)}
    return {*zip(again.decoded_tokens, again.reward, strict=True)} - kept


def test_results_are_lines_on_given_axes(results: list[SearchResult]) -> None:
    _, own = pyplot.subplots()
    assert plot_results(results, ax=own) is own
    assert [line.get_ydata()[-1] for line in own.lines] == [result.reward for result in results]
    assert [text.get_text() for text in own.get_legend().get_texts()] == ["Name red things.", "Name more."]


def test_without_matplotlib_the_error_names_the_extra(
    results: list[SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"darwin-align\[plots\]"):
        trace(results[0]).plot()
