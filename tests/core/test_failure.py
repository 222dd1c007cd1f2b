"""An operator that fails for good ends a search with the best scored so far, as a spent budget would."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from darwin_align import Population, SearchConfig, SearchResult
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.core import Event, Usage, darwin
from darwin_align.core.errors import ReplayError
from tests.core.kit import ASKED, REQUEST, Case, Trace, cases, search_of, trace

GONE = "the server is gone"
SMALL: dict[str, Any] = {"max_new_tokens": 20, "replacement_period": 6, "cycles": 2, "seed": 11}


def scored_before(run: Trace, number: int) -> bool:
    return any(question.operator == "score" for question, _ in run.steps[:number])


def step_of(run: Trace, number: int) -> int:
    """The number of the question with which the step of this one began; a mutation is a step of its own."""
    places = [(q.operator == "mutate", q.population.step.cycle, q.population.step.index) for q, _ in run.steps]
    return places.index(places[number])


@st.composite
def failures(draw: st.DrawFn) -> tuple[Case, Trace, int]:
    """A search, undisturbed, and the number of the question that is going to fail, with something to end with."""
    case = draw(cases())
    whole = case.trace(budget={"seconds": 1e9})  # a clock, so that all selectors step alike
    number = draw(st.integers(0, len(whole.steps) - 1))
    assume(scored_before(whole, number))
    return case, whole, number


@given(failures())
def test_it_ends_as_if_the_budget_had_been_spent_before_the_step_that_failed(given_: tuple[Case, Trace, int]) -> None:
    case, whole, number = given_
    assume(whole.steps[number][0].operator != "select")
    before = step_of(whole, number)
    assume(before)
    failed = case.trace(seconds=1.0, fails_at=number, budget={"seconds": 1e9}).result
    spent = case.trace(seconds=1.0, budget={"seconds": before}).result
    assert spent.stop_reason == "budget: seconds"
    for name in ("best", "ranking", "first_response", "archive"):
        assert getattr(failed, name) == getattr(spent, name), name
    assert failed.reward is not None
    # A budget is looked at before a cycle, a mutator fails in it.
    assert failed.cycles == spent.cycles + (whole.steps[number][0].operator == "mutate")


@given(failures())
def test_it_ends_with_the_best_finished_and_scored_or_the_best_scored(given_: tuple[Case, Trace, int]) -> None:
    case, whole, number = given_
    run = case.trace(fails_at=number, budget={"seconds": 1e9})
    operator, result = whole.steps[number][0].operator, run.result
    seen = [question.population for question, _ in run.steps] + [cycle[-1][1] for cycle in run.cycles[:-1]]
    finished = [beam.reward for p in seen for beam in p.beams if beam.finished and beam.reward is not None]
    if finished:
        assert result.reward == max(finished)
        assert result.best.finished
        assert len(result.ranking) == len({(beam.text, beam.tokens) for beam in result.ranking}) > 0
    else:
        assert result.best.finish_reason == "length"
        assert not result.ranking
        last = next(population for population in reversed(seen) if _needs_nothing(population))
        contenders = [last.beams[i] for i in last.contenders]
        assert result.reward == max(beam.reward for beam in contenders)
        assert result.text in {beam.text for beam in contenders if beam.reward == result.reward}
    assert (result.stop_reason, result.failure) == (f"failure: {operator}", GONE)


def _needs_nothing(population: Population) -> bool:
    return all(population.beams[i].reward is not None for i in population.contenders)


@given(failures())
def test_the_failure_is_the_last_event_and_its_seconds_count(given_: tuple[Case, Trace, int]) -> None:
    case, whole, number = given_
    run = case.trace(seconds=0.5, fails_at=number, budget={"seconds": 1e9})
    question, after = run.steps[-1]
    *known, last = run.result.events
    assert [event.model_copy(update={"seconds": 0.0}) for event in known] == list(whole.result.events[:number])
    step = question.population.step
    assert (last.operator, last.cycle, last.step) == (question.operator, step.cycle, step.index)
    assert (last.failure, last.seconds, last.search) == (GONE, 0.5, known[0].search)
    assert (last.delta.beams, last.delta.usage, last.delta.notes) == ({}, Usage(), ())
    assert after == question.population
    assert run.result.usage == question.population.usage + Usage(seconds=0.5)
    assert run.result.cycles == step.cycle + 1


@given(failures())
def test_a_broken_off_result_and_its_events_survive_json(given_: tuple[Case, Trace, int]) -> None:
    case, _, number = given_
    result = case.trace(seconds=0.25, fails_at=number, budget={"seconds": 1e9}).result
    assert SearchResult.from_json(result.to_json()) == result
    for event in result.events:
        assert Event.from_json(event.to_json()) == event
        assert ('"failure"' in event.to_json()) == (event is result.events[-1])


@given(failures())
def test_its_events_fold_to_the_same_result(given_: tuple[Case, Trace, int]) -> None:
    case, _, number = given_
    result = case.trace(seconds=0.25, fails_at=number, budget={"seconds": 1e9}).result
    algorithm = darwin(REQUEST, result.config.replace(on_failure="raise"))  # a recorded failure is no new one
    next(algorithm)
    for event in result.events[:-1]:
        algorithm.send(event)
    with pytest.raises(StopIteration) as stop:
        algorithm.send(result.events[-1])
    assert stop.value.value.model_copy(update={"config": result.config}) == result


@given(cases())
def test_a_search_may_end_by_failure_from_its_first_reward_on(case: Case) -> None:
    run = case.trace()
    may_end = [question.has_best for question, _ in run.steps]
    assert may_end == [scored_before(run, number) for number in range(len(run.steps))]
    assert not may_end[0]


@given(cases())
def test_a_failure_before_any_reward_is_refused(case: Case) -> None:
    first = [question.operator for question, _ in case.trace().steps].index("score")
    for number in range(first + 1):
        with pytest.raises(ReplayError, match=r"nothing was scored that the search could end with: leave the event"):
            case.trace(fails_at=number)


def test_rewards_of_a_step_whose_selection_failed_count_and_its_wins_do_not() -> None:
    """Two steps of six letters: the last selection comes after all have ended."""
    config, search = SearchConfig(**{**SMALL, "cycles": 1, "max_new_tokens": 12}), search_of(ends=0.0, levels=1000)
    whole = trace(search, config)
    last = max(number for number, (question, _) in enumerate(whole.steps) if question.operator == "select")
    result = trace(search, config, fails_at=last).result
    failed = whole.steps[last][0].population
    assert result.reward == max(beam.reward for beam in failed.beams) == whole.result.reward
    assert {beam.wins for beam in whole.result.ranking} - {beam.wins for beam in result.ranking} == {2}
    assert result.archive.rewards == {ASKED: result.first_response.reward}
    assert whole.result.archive != result.archive


def test_what_was_decoded_after_the_last_scoring_is_lost() -> None:
    config = SearchConfig(**SMALL)
    whole = trace(search_of(ends=0.0), config)
    decoded = [number for number, (question, _) in enumerate(whole.steps) if question.operator == "decode"][1]
    at_decode, at_score = (trace(search_of(ends=0.0), config, fails_at=number) for number in (decoded, decoded + 1))
    assert at_score.steps[-1][0].operator == "score"
    assert at_score.steps[-1][0].population.beams[0].length == 12
    assert at_score.result.best == at_decode.result.best
    assert (at_score.result.best.length, at_score.result.first_response.length) == (6, 6)


def test_a_beam_that_was_dropped_is_nothing_to_end_with() -> None:
    def drop_all(rewards: Any, finished: Any, weights: Any, seed: int) -> Any:
        return [index if done else None for index, done in enumerate(finished)], weights

    run = trace(search_of(ends=0.0, selector=drop_all), SearchConfig(**SMALL))
    select, decode = (run.steps[number][0] for number in (3, 4))
    assert (select.operator, decode.operator) == ("select", "decode")
    assert any(beam.reward is not None for beam in decode.population.beams)
    assert (select.has_best, decode.has_best) == (True, False)


def test_the_first_response_alone_is_something_to_end_with() -> None:
    """Plain samples: the one answer is decoded and scored, then another cycle fails to begin."""
    run = trace(search_of(ends=1.0), SearchConfig(**SMALL), fails_at=4)
    assert run.steps[-1][0].operator == "mutate"
    assert run.result.best == run.result.first_response
    assert run.result.stop_reason == "failure: mutate"


def test_an_invalid_answer_loses_to_valid_ones_here_too() -> None:
    class Vetoing(ScriptedScorer):
        def invoke(self, input: Population, config: Any = None, **kwargs: Any) -> Population:
            answer = super().invoke(input, config)
            best = max(input.unscored, key=lambda i: answer.beams[i].reward)
            return answer.with_beams({best: answer.beams[best].model_copy(update={"valid": False})})

    search = search_of(ends=0.0, scorer=Vetoing(reward=lambda text: float(sum(map(ord, text)))))
    failed = trace(search, SearchConfig(**SMALL), fails_at=3)
    rewards = sorted(beam.reward for beam in failed.steps[-1][0].population.beams if beam.reward is not None)
    assert failed.steps[-1][0].operator == "select"
    # The first response comes first among those that are not vetoed, but it has no reward yet.
    assert failed.result.best.valid
    assert failed.result.reward == rewards[-2] < rewards[-1]


def test_an_undisturbed_search_reports_no_failure() -> None:
    result = trace(search_of(), SearchConfig(**SMALL)).result
    assert (result.failure, result.stop_reason) == (None, "cycles")
    assert "failure" not in result.to_json()
    assert all(event.failure is None for event in result.events)


@pytest.mark.parametrize(
    ("config", "fingerprint"),
    [
        (SearchConfig(seed=11), 4260477156638890353),
        (SearchConfig(seed=11, mutations=2, cycles=1, max_new_tokens=20, budget={"tokens": 9}), 736742945836218963),
    ],
)
def test_what_to_do_on_a_failure_is_no_part_of_the_fingerprint(config: SearchConfig, fingerprint: int) -> None:
    """The numbers are those of searches recorded before there was such a setting."""
    for on_failure in ("best_so_far", "raise"):
        changed = config.replace(on_failure=on_failure)
        assert next(darwin(REQUEST, changed)).search == fingerprint
        assert SearchConfig.from_json(changed.to_json()) == changed
    assert SearchConfig(on_failure="raise") != SearchConfig()
    assert config.identity == config.to_json()
    assert config.replace(replacement_period=7).identity != config.identity
