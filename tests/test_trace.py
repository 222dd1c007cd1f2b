"""What a trace says of a search: its lineage, its texts' authors, its costs and dynamics, to JSON and back."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_align import Budget, Request, SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core import PRESETS, Usage
from darwin_align.core.errors import ConfigError, ReplayError
from darwin_align.traces import Dynamics, Lane, Trace, jaccard, rank_biased_overlap, write_html
from tests.core.kit import Case, cases, mutator_of, preset_of, search_of, trace
from tests.traces.kit import known, spoken

# Who is ahead: b after step 1, then a that goes on with b's text, then c that goes on with both.
RELAY = {"bb": 3.0, "bbaa": 5.0, "bbaacc": 9.0, "bbaabb": 7.0}


def parts(lane: Lane) -> list[tuple[int, int, str]]:
    return [(piece.step, piece.beam, piece.text) for piece in lane.pieces]


def test_a_relay_is_told_as_it_was() -> None:
    lineage = Trace.of(known(RELAY)).lineage()
    assert lineage.winner == (0, 2)
    assert parts(lineage.answer) == [(0, 1, "bb"), (1, 0, "aa"), (2, 2, "cc")]
    [cycle] = lineage.cycles
    assert [lane.text for lane in cycle.lanes] == ["bbaaaa", "bbaabb", "bbaacc", "eeeeee"]
    assert [[point.took for point in lane.points] for lane in cycle.lanes[:3]] == [
        [1, None, None],
        [None, 0, None],
        [1, 0, None],
    ]
    assert [[point.source for point in lane.points] for lane in cycle.lanes[:3]] == [[0, 1, 0], [1, 1, 0], [2, 1, 0]]
    assert [[point.won for point in lane.points] for lane in cycle.lanes[:3]] == [
        [False, True, False],
        [True, False, False],
        [False, False, True],
    ]
    assert lineage.first_response.beam == 3
    assert lineage.answer.instruction == "Write c"


def test_a_beam_that_takes_a_finished_state_ends_with_it() -> None:
    lineage = Trace.of(known({"aa": 3.0}, ends={"a": 2})).lineage()
    [cycle] = lineage.cycles
    assert cycle.steps == 3  # the first response alone goes on
    for lane in cycle.lanes[:3]:
        assert (lane.text, lane.finish_reason, parts(lane)) == ("aa", "stop", [(0, 0, "aa")])
    assert [[point.took for point in lane.points] for lane in cycle.lanes[:3]] == [[None], [0], [0]]


@given(cases())
def test_texts_are_made_of_their_pieces_and_the_pieces_belong_to_their_writers(case: Case) -> None:
    run = case.trace()
    lineage = Trace.of(run.result).lineage()
    assert lineage.answer.text == run.result.text
    assert lineage.first_response.text == run.result.first_response.text
    for cycle, steps in zip(lineage.cycles, run.cycles, strict=True):
        written = writers(steps)
        for lane, authors in zip(cycle.lanes, written, strict=True):
            told = [piece.beam for piece in lane.pieces for _ in piece.text]
            assert told == authors
            assert lane.text == "".join(piece.text for piece in lane.pieces)
            assert [piece.step for piece in lane.pieces] == list(range(len(lane.pieces)))


def writers(steps) -> list[list[int]]:  # type: ignore[no-untyped-def]
    """The author of every character, kept by hand."""
    authors: list[list[int]] = [[] for _ in steps[0][0].population.beams]
    last = None
    for question, after in steps:
        step = (question.operator, question.population.step.index)
        if question.operator == "decode" and step != last:  # twice in a step: a look-ahead
            for i, (old, new) in enumerate(zip(question.population.beams, after.beams, strict=True)):
                authors[i] = authors[i] + [i] * (len(new.text) - len(old.text))
        if question.operator == "select":
            index = question.population.step.index
            before = [list(of) for of in authors]
            for i, (old, new) in enumerate(zip(question.population.beams, after.beams, strict=True)):
                if new.ancestor != old.ancestor and new.ancestor is not None and new.ancestor.step == index:
                    authors[i] = before[new.ancestor.beam]
        last = step
    return authors


@given(cases())
def test_points_say_what_every_step_did(case: Case) -> None:
    run = case.trace()
    lineage = Trace.of(run.result).lineage()
    for before, after in run.of("select"):
        for i, (old, new) in enumerate(zip(before.beams, after.beams, strict=True)):
            points = [p for p in lineage.cycles[before.step.cycle].lanes[i].points if p.step == before.step.index]
            for point in points:
                assert (point.length, point.won) == (old.length, new.wins > old.wins)
                assert point.reward == old.reward
                assert point.dropped == (old.alive and not new.alive)


@given(cases(), st.integers(0, 30))
def test_a_search_that_failed_is_told_as_it_ended(case: Case, number: int) -> None:
    whole = case.trace(budget={"seconds": 1e9})
    if not any(question.operator == "score" for question, _ in whole.steps[:number]) or number >= len(whole.steps):
        return
    result = case.trace(fails_at=number, budget={"seconds": 1e9}).result
    told = Trace.of(result)
    assert told.result == result
    assert told.lineage().answer.text == result.text
    assert told.lineage().first_response.text == result.first_response.text
    assert "failed for good" in told.to_html()


@given(cases())
def test_costs_add_up_to_the_usage(case: Case) -> None:
    result = case.trace(seconds=0.25).result
    total = Usage()
    for cost in Trace.of(result).costs():
        total += cost.usage
    assert total == result.usage


def test_a_trace_goes_to_json_and_back() -> None:
    result = spoken()
    told = Trace.of(result)
    again = Trace.from_json(told.to_json())
    assert again == told
    assert again.result == result
    assert again.to_html() == told.to_html()
    assert json.loads(told.to_json())["schema"] == 1


def test_a_resumed_search_is_told_like_one_that_was_never_interrupted() -> None:
    search = search_of()
    whole = search.invoke("Hi", seed=2)
    resumed = search.invoke("Hi", seed=2, replay=whole.events[:7])
    assert Trace.of(resumed).lineage() == Trace.of(whole).lineage()


def test_events_that_do_not_belong_or_do_not_suffice_are_refused() -> None:
    told = Trace.of(spoken())
    short = told.model_copy(update={"events": told.events[:-3]})
    with pytest.raises(ReplayError, match="the events end before the search does: next comes"):
        short.lineage()
    with pytest.raises(ReplayError, match="more events"):
        told.model_copy(update={"events": (*told.events, told.events[-1])}).lineage()
    with pytest.raises(ReplayError, match="another request"):
        told.model_copy(update={"request": Request.of("Something else")}).lineage()


@pytest.mark.parametrize(
    "settings",
    [
        {"cycles": 0},
        {"cycles": 1, "mutations": 1},
        {"cycles": 1, "selector": "none"},
        {"cycles": 3, "budget": Budget(tokens=30)},
        {"cycles": 2, "beams_per_mutation": 2, "lookahead": 3},
        {"cycles": 1, "selector": "smc"},
        {"cycles": 2, "selector": "tournament", "max_new_tokens": 3},
    ],
    ids=" ".join,
)
def test_every_kind_of_search_has_a_page(settings: dict) -> None:  # type: ignore[type-arg]
    result = trace(
        search_of(), SearchConfig(**{"seed": 4, "max_new_tokens": 20, "replacement_period": 4, **settings})
    ).result
    assert Trace.of(result).lineage().answer.text == result.text
    assert "<h1" in Trace.of(result).to_html()
    assert result._repr_html_().startswith("<iframe sandbox srcdoc=")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_trace_read_back_from_json_draws_the_same_page(preset: str) -> None:
    config = preset_of(preset, seed=3, max_new_tokens=30, budget=Budget(tokens=100_000))
    told = Trace.of(trace(search_of(mutator=mutator_of(config)), config).result)
    again = Trace.from_json(told.to_json())
    assert again == told
    assert again.to_html() == told.to_html()


def test_what_differs_from_the_defaults_is_marked() -> None:
    given = {"mutations": 2, "cycles": 3, "max_new_tokens": 30, "seed": 3}
    page = Trace.of(trace(search_of(), SearchConfig(**given)).result).to_html()
    rows = dict(re.findall(r'<th scope="row">([\w ]+)</th><td( class="given")?>', page))
    assert {name for name, mark in rows.items() if mark} >= {"mutations", "max new tokens", "seed"}
    assert not rows["cycles"], "the default, though given by hand"
    assert not rows["survivors"], "a default that gave way to a small search"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_page(preset: str) -> None:
    config = preset_of(preset, seed=3, max_new_tokens=30)
    result = trace(search_of(mutator=mutator_of(config)), config).result
    assert Trace.of(result).lineage().answer.text == result.text
    assert "<h1" in Trace.of(result).to_html()


def test_dynamics_by_hand() -> None:
    # Two of three are the best. Step 1: b, a. Step 2: the two that go on from there with c's letters or their own.
    rewards = {"aa": 2.0, "bb": 3.0, "cc": 1.0, "aaaa": 1.0, "bbbb": 4.0, "aacc": 2.5, "bbcc": 2.5}
    result = known(rewards, survivors=2, length=4)
    told = Trace.of(result).dynamics(p=0.5)
    one, two = told.moments
    assert (one.best, one.jaccard, one.overlap) == ((1, 0), None, None)
    assert two.best == (1, 2)  # b with bbbb, then c with its donor's text
    assert two.jaccard == pytest.approx(1 / 3)  # {0, 1} and {1, 2}
    # Agreement at depth 1 is 1, at depth 2 and below 1/2: 0.5 * (1) + 0.25 * (1/2) + 0.25 * (1/2).
    assert two.overlap == pytest.approx(0.75)
    assert one.has_winner
    assert two.has_winner  # the winning instruction is b's
    assert result.instruction == "Write b"
    assert [change.has_winner for change in told.by_step()] == [1.0, 1.0]


def test_dynamics_of_many_searches_are_means() -> None:
    told = [Trace.of(spoken(seed=seed)).dynamics() for seed in range(3)]
    joined = Dynamics.joined(told)
    assert len(joined.moments) == sum(len(one.moments) for one in told)
    first = joined.by_step()[0]
    assert first.cycles == 6
    assert first.jaccard is None
    assert 0 <= first.has_winner <= 1
    with pytest.raises(ConfigError, match="different p"):
        Dynamics.joined([told[0], Trace.of(spoken()).dynamics(p=0.5)])
    assert Dynamics.joined([]).by_step() == ()


rankings = st.lists(st.integers(0, 8), unique=True, max_size=7)


@given(rankings, rankings, st.sampled_from([0.1, 0.5, 0.9, 0.98]))
def test_rank_biased_overlap_is_the_sum_that_it_stands_for(one: list[int], other: list[int], p: float) -> None:
    short, long = sorted((one, other), key=len)

    def agreement(depth: int) -> float:
        """Seen where both lists go on; further down as it was where each of them ended."""
        s, deep = len(short), len(long)
        common = len(set(short[:depth]) & set(long[:depth]))
        at_s = len(set(short) & set(long[:s])) / s
        if depth <= s:
            return common / depth
        if depth <= deep:
            return (common + at_s * (depth - s)) / depth
        return (len(set(short) & set(long)) + at_s * (deep - s)) / deep

    if not short:
        assert rank_biased_overlap(one, other, p) == (0.0 if long else 1.0)
        return
    expected = sum((1 - p) * p ** (depth - 1) * agreement(depth) for depth in range(1, 3000))
    assert rank_biased_overlap(one, other, p) == pytest.approx(expected)
    assert rank_biased_overlap(one, other, p) == rank_biased_overlap(other, one, p)
    assert 0 <= rank_biased_overlap(one, other, p) <= 1


@given(rankings, rankings)
def test_jaccard(one: list[int], other: list[int]) -> None:
    assert jaccard(one, other) == jaccard(other, one)
    assert (jaccard(one, other) == 1) == (set(one) == set(other))


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0])
def test_a_persistence_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        rank_biased_overlap("ab", "ab", p)


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, target = spoken(), tmp_path / "trace.html"
    assert write_html(result, target) == target
    whole = target.read_text(encoding="utf-8")
    assert whole == Trace.of(result).to_html()
    assert oct(target.stat().st_mode & 0o777) == oct(_plain(tmp_path).stat().st_mode & 0o777)

    def full(self: Path, other: Path) -> Path:
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk is full"):
        write_html(Trace.of(result), str(target))
    assert target.read_text(encoding="utf-8") == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "trace.html"]
    with pytest.raises(FileNotFoundError):
        write_html(result, tmp_path / "nowhere" / "trace.html")


def _plain(folder: Path) -> Path:
    (folder / "plain").write_text("")
    return folder / "plain"


SCRIPT = """
import sys
from darwin_align.core import SearchResult
result = SearchResult.from_json(open(sys.argv[1], encoding="utf-8").read())
assert "darwin_align.traces" not in sys.modules and result._repr_html_() is None
from darwin_align import trace
assert trace(result).to_html() and trace(result).dynamics()
assert result._repr_html_() == trace(result).to_snippet()
print([name for name in ("torch", "transformers", "httpx", "langchain_core") if name in sys.modules])
"""


def test_core_knows_no_page_until_traces_are_imported_and_they_need_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(spoken().to_json(), encoding="utf-8")
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "result.json")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_result_without_events_has_no_picture() -> None:
    assert spoken().model_copy(update={"events": ()})._repr_html_() is None


def test_first_responses_that_decode_alone_are_no_lookahead() -> None:
    # The last beam ended, the first response goes on for several steps without any question to the scorer.
    result = search_of(
        policy=ScriptedPolicy(length=30, replies={"Say Version 1.": "good"}), scorer=ScriptedScorer()
    ).invoke("Say", seed=3, cycles=1, replacement_period=5)
    assert Trace.of(result).lineage().first_response.text == result.first_response.text
