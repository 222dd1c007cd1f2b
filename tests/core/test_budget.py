"""A spent budget ends a search with the best so far, at most one step late, and never with an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_align import Budget, SearchConfig
from darwin_align.core import Usage
from tests.core.kit import Case, Trace, cases, search_of, trace


def spent(usage: Usage) -> dict[str, float]:
    return {"tokens": usage.decoded_tokens, "reward_calls": usage.reward_calls, "seconds": usage.seconds}


def check_ends_within_a_step(run: Trace, name: str, limit: float, step: float) -> None:
    opened = [question.population for question, _ in run.steps if question.operator in ("mutate", "decode")]
    budgeted = [p for p in opened if p.step.operator == "mutate" or p.step.tokens != run.config.lookahead]
    # The first step is always taken, whatever the mutations before it cost.
    later = [p for p in budgeted if (p.step.cycle, p.step.index) > (0, 0)]
    assert all(spent(population.usage)[name] < limit for population in later)
    before = next(spent(p.usage)[name] for p in opened if p.step.operator == "decode")
    assert spent(run.result.usage)[name] < max(limit, before + 1e-9) + step


def check_ends_with_the_best(run: Trace) -> None:
    last = [cycle[-1][1].beams for cycle in run.cycles]
    finished = [beam for beams in last for beam in beams if beam.finished]
    partial = [beam.reward for beams in last for beam in beams if not beam.first_response and beam.reward is not None]
    if finished:
        assert run.result.reward == max(beam.reward for beam in finished)
    else:
        assert run.result.best.finish_reason == "length"
        assert run.result.reward == max(partial, default=None)


@given(cases(), st.integers(1, 120))
def test_tokens(case: Case, limit: int) -> None:
    run = case.trace(budget={"tokens": limit})
    rows = case.config.beams + 1
    check_ends_within_a_step(run, "tokens", limit, rows * (1 + case.config.lookahead))
    check_ends_with_the_best(run)
    assert run.result.stop_reason in ("cycles", "budget: tokens")


@given(cases(), st.integers(1, 40))
def test_reward_calls(case: Case, limit: int) -> None:
    run = case.trace(budget={"reward_calls": limit})
    check_ends_within_a_step(run, "reward_calls", limit, case.config.beams + 1)
    check_ends_with_the_best(run)


@given(cases(), st.floats(0.5, 30))
def test_seconds(case: Case, limit: float) -> None:
    run = case.trace(seconds=1.0, budget={"seconds": limit})
    check_ends_within_a_step(run, "seconds", limit, step=5.0)  # decode, decode and score ahead, score, select
    check_ends_with_the_best(run)


@given(cases())
def test_a_budget_that_is_not_reached_changes_nothing(case: Case) -> None:
    free, roomy = case.trace(), case.trace(budget={"reward_calls": 10**6, "tokens": 10**6})
    assert roomy.result.best == free.result.best
    assert roomy.result.archive == free.result.archive
    assert roomy.result.stop_reason == "cycles"


@pytest.mark.parametrize("selector", ["top_k", "none"])
def test_a_budget_smaller_than_one_answer_cuts_it_with_a_remark(selector: str) -> None:
    run = trace(search_of(ends=0.0), SearchConfig(selector=selector, seed=3, budget=Budget(tokens=60)))
    assert run.result.best == run.result.first_response
    assert (run.result.best.finish_reason, run.result.best.length) == ("length", 60)
    assert run.result.reward is not None
    assert run.result.stop_reason == "budget: tokens"
    assert run.result.cycles == 0
    assert run.result.notes == (
        "the budget (tokens) is smaller than one whole answer, which was cut after 60 tokens: give the search more",
    )


def test_a_plain_sample_that_the_budget_cuts_has_a_remark() -> None:
    result = trace(search_of(ends=0.0), SearchConfig(cycles=0, seed=3, budget=Budget(tokens=7))).result
    assert (result.best.length, result.best.finish_reason, result.stop_reason) == (7, "length", "budget: tokens")


def test_a_budget_spent_by_the_first_response_alone_still_answers() -> None:
    result = trace(search_of(), SearchConfig(seed=3, budget=Budget(seconds=1.0)), seconds=2.0).result
    assert result.best == result.first_response
    assert result.text
    assert result.best.finish_reason == "stop"
    assert result.reward is not None
    assert result.stop_reason == "budget: seconds"
    assert [event.operator for event in result.events] == ["decode", "score"]


@given(cases(), st.integers(1, 200))
def test_a_whole_answer_comes_first(case: Case, limit: int) -> None:
    """Whatever the budget allows beyond the plain sample, that one is the sample of a search without a budget."""
    free, run = case.trace(), case.trace(budget={"tokens": limit})
    whole, found = free.result.first_response, run.result.first_response
    if limit >= whole.length:
        assert found == whole
        assert run.result.reward >= whole.reward
        assert not run.result.remarks
    else:
        assert found.length == limit
        assert found.finish_reason == "length"
        assert run.result.remarks
    first = run.result.events[:2]
    assert [(event.operator, event.delta.beams.keys()) for event in first] == [
        (operator, {case.config.beams if case.config.cycles else 0}) for operator in ("decode", "score")
    ]


@given(cases(), st.integers(1, 200))
def test_every_question_has_the_rest_of_the_budget(case: Case, limit: int) -> None:
    run = case.trace(budget={"tokens": limit, "seconds": 1000.0}, seconds=1.0)
    for question, _ in run.steps:
        step, usage = question.population.step, question.population.usage
        assert step.tokens_left == max(1, limit - usage.decoded_tokens)
        assert step.seconds_left == 1000.0 - usage.seconds
        assert step.grace_seconds == 100.0
    assert all(question.population.step.seconds_left is None for question, _ in case.trace().steps)


def test_the_first_limit_that_is_reached_is_named() -> None:
    budget = Budget(tokens=10, reward_calls=2, seconds=1.5)
    assert budget.spent(Usage(decoded_tokens=9, reward_calls=1, seconds=1.4)) is None
    assert budget.spent(Usage(decoded_tokens=10)) == "tokens"
    assert budget.spent(Usage(reward_calls=2)) == "reward_calls"
    assert budget.spent(Usage(seconds=1.5)) == "seconds"
    assert Budget().spent(Usage(decoded_tokens=10**9, reward_calls=10**9, seconds=1e9)) is None


@given(cases(), st.integers(1, 120))
def test_a_cycle_that_was_cut_leaves_the_archive_as_it_was(case: Case, limit: int) -> None:
    run = case.trace(budget={"tokens": limit}, lookahead=0)
    if not run.cycles[-1][-1][1].open:
        return
    whole = len(run.cycles) - 1
    if whole:
        assert run.result.archive == case.trace(cycles=whole, lookahead=0).result.archive
    else:
        first = run.result.first_response
        assert run.result.archive.rewards == ({} if first.reward is None else {first.instruction: first.reward})


@given(cases())
def test_a_budget_that_is_spent_by_the_very_last_step_cut_nothing(case: Case) -> None:
    # Counted under a budget: there the first response is scored alone, elsewhere together with those that equal it.
    calls = case.trace(budget={"reward_calls": 10**6}).result.usage.reward_calls
    assert case.trace(budget={"reward_calls": calls}).result.stop_reason == "cycles"
    assert case.trace(budget={"reward_calls": max(1, calls - 1)}).result.stop_reason in (
        "cycles",
        "budget: reward_calls",
    )
