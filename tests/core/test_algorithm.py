"""Laws of Algorithm 1, over random searches."""

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given

from darwin_align import SearchConfig
from darwin_align.core import PRESETS, Population, darwin
from darwin_align.core.selection import ranked
from darwin_align.core.types import STATE, Beam
from tests.core.kit import ASKED, REQUEST, Case, cases, mutator_of, preset_of, search_of, seed_of, trace


def state(beam: Beam) -> dict[str, object]:
    return {name: getattr(beam, name) for name in STATE}


def written(beam: Beam) -> dict[str, object]:
    return {name: value for name, value in state(beam).items() if name != "reward"}


def survivors(population: Population, config: SearchConfig) -> list[int]:
    contenders = population.contenders
    order = ranked([population.beams[i].reward for i in contenders])
    return [contenders[j] for j in order[: config.survivors]]


@given(cases())
def test_a_finished_beam_never_changes(case: Case) -> None:
    for question, after in case.trace().steps:
        for old, new in zip(question.population.beams, after.beams, strict=True):
            if old.finished:
                assert written(new) == written(old)
                assert new.alive == old.alive
                assert new.ancestor == old.ancestor
                assert old.reward is None or new.reward == old.reward


@given(cases(selectors=["top_k"]))
def test_survivors_never_change_and_all_others_take_a_survivors_state(case: Case) -> None:
    for before, after in case.trace().of("select"):
        best = survivors(before, case.config)
        for i in before.contenders:
            old, new = before.beams[i], after.beams[i]
            if i in best or old.finished:
                assert state(new) == state(old)
                assert new.ancestor == old.ancestor
            else:
                assert new.ancestor.beam in best
                assert new.ancestor.step == before.step.index
            assert new.wins == old.wins + (i in best)


@given(cases())
def test_a_replaced_beam_holds_its_donors_state_and_its_own_instruction(case: Case) -> None:
    for before, after in case.trace().of("select"):
        for old, new in zip(before.beams, after.beams, strict=True):
            assert new.instruction == old.instruction
            if new.ancestor != old.ancestor:
                assert state(new) == state(before.beams[new.ancestor.beam].settled)
            else:
                assert state(new) == state(old.settled if new.alive else old)


@given(cases())
def test_a_state_only_grows_and_never_past_its_limit(case: Case) -> None:
    for before, after in case.trace().of("decode"):
        for old, new in zip(before.beams, after.beams, strict=True):
            assert new.tokens[: old.length] == old.tokens
            assert len(new.tokens) == new.length <= case.config.max_new_tokens
            assert new.length - old.length <= before.step.tokens
            assert not old.open or new.finished or new.length > old.length


@given(cases())
def test_every_contender_is_scored_before_anyone_is_replaced(case: Case) -> None:
    reward = case.search.scorer.reward
    for before, _ in case.trace(lookahead=0).of("select"):
        for i in before.contenders:
            assert before.beams[i].reward == reward(before.beams[i].text)


@given(cases())
def test_the_first_response_is_no_donor_is_not_replaced_and_is_scored_at_its_end(case: Case) -> None:
    run = case.trace()
    for question, after in run.steps:
        for i, beam in enumerate(after.beams):
            assert beam.ancestor is None or not after.beams[beam.ancestor.beam].first_response
            if beam.first_response:
                assert question.population.step.cycle == 0
                assert i == len(after.beams) - 1
                assert beam.instruction == ASKED
                assert (beam.ancestor, beam.wins, beam.log_weight) == (None, 0, 0.0)
                assert beam.reward is None or beam.finished
    assert run.result.first_response.first_response
    assert run.result.first_response.reward == case.search.scorer.reward(run.result.first_response.text)


@given(cases())
def test_the_first_response_is_the_same_whatever_search_surrounds_it(case: Case) -> None:
    config = case.config
    alone = trace(case.search, SearchConfig(cycles=0, max_new_tokens=config.max_new_tokens, seed=config.seed)).result
    assert case.trace().result.first_response == alone.best == alone.first_response


def test_the_first_response_is_the_same_under_every_preset() -> None:
    configs = [preset_of(name, seed=7, max_new_tokens=30) for name in PRESETS]
    results = [trace(search_of(mutator=mutator_of(config)), config).result for config in configs]
    assert len({result.first_response.text for result in results}) == 1


@given(cases())
def test_a_beam_decodes_in_one_go_what_it_decodes_in_steps(case: Case) -> None:
    by_hand = {name: getattr(case.config, name) for name in case.config.model_fields_set}
    kept = by_hand.keys() & {"mutations", "beams_per_mutation", "replacement_period", "max_new_tokens", "seed"}
    config = SearchConfig(**{name: by_hand[name] for name in kept}, selector="none", cycles=1)
    run = trace(case.search, config)
    for watched in ({"budget": {"seconds": 1e9}}, {"target_reward": 1e9}):  # who may call in between makes it step
        stepwise = trace(case.search, config.replace(**watched))
        assert run.result.ranking == stepwise.result.ranking
        assert run.result.usage.decoded_tokens == stepwise.result.usage.decoded_tokens
        assert len(list(run.of("decode"))) <= len(list(stepwise.of("decode")))


@given(cases())
def test_look_ahead_leaves_the_states_alone_and_the_first_response_asleep(case: Case) -> None:
    run = case.trace(**({"lookahead": 3} if case.config.replaces and not case.config.candidates else {}))
    for (question, after), (following, _) in pairwise(run.steps):
        ahead = question.operator == "score" and following.operator == "select" and case.config.replaces
        if ahead:
            for scored, kept in zip(after.beams, following.population.beams, strict=True):
                assert scored.tokens[: kept.length] == kept.tokens
                assert scored.reward == kept.reward
    for before, after in run.of("decode"):
        if before.step.tokens == 3 != case.config.replacement_period:
            for old, new in zip(before.beams, after.beams, strict=True):
                assert not old.first_response or old == new


@given(cases())
def test_the_best_is_the_best_rewarded_finished_answer(case: Case) -> None:
    run = case.trace()
    final = [beam for cycle in run.cycles for beam in cycle[-1][1].beams if beam.finished]
    assert run.result.reward == max(beam.reward for beam in final)
    assert run.result.reward >= run.result.first_response.reward
    assert run.result.stop_reason == "cycles"
    rewards = [beam.reward for beam in run.result.ranking]
    assert rewards == sorted(rewards, reverse=True)
    assert len({(beam.text, beam.tokens) for beam in run.result.ranking}) == len(rewards)


@given(cases())
def test_more_cycles_only_add_and_never_make_the_best_worse(case: Case) -> None:
    runs = [case.trace(cycles=cycles) for cycles in (0, 1, 2, 3) if cycles or not case.config.lookahead]
    for fewer, more in pairwise(runs):
        assert more.result.reward >= fewer.result.reward
        if fewer.config.cycles:
            known = len(fewer.result.events)
            assert [e.delta for e in more.result.events[:known]] == [e.delta for e in fewer.result.events]


def paper_archive(case: Case, cycles: list[list[tuple[object, Population]]]) -> list[dict[str, float]]:
    """The archive after each cycle, written down once more straight from the paper."""
    archives: list[dict[str, float]] = []
    for cycle in cycles:
        end = cycle[-1][1]
        first = [beam for beam in end.beams if beam.first_response]
        archive = dict(archives[-1]) if archives else {ASKED: first[0].reward}
        wins: dict[str, int] = defaultdict(int)
        reached: dict[str, float] = {}
        for beam in end.beams:
            if not beam.first_response:
                wins[beam.instruction] += beam.wins
                reached[beam.instruction] = max(reached.get(beam.instruction, -1e9), beam.reward)
        champions = sorted(reached, key=lambda i: (wins[i], reached[i]), reverse=True)[: case.config.champions]
        better = [i for i in champions if reached[i] > archive[end.parent]]
        for instruction in better:
            archive[instruction] = max(reached[instruction], archive.get(instruction, -1e9))
        if set(better) - {end.parent}:
            del archive[end.parent]
        archives.append(archive)
    return archives


@given(cases(selectors=["top_k"]))
def test_wins_champions_and_archive_are_the_papers(case: Case) -> None:
    run = case.trace()
    archives = paper_archive(case, run.cycles)
    assert run.result.archive.rewards == archives[-1]
    for number, cycle in enumerate(run.cycles):
        for i, beam in enumerate(cycle[-1][1].beams):
            won = [i in survivors(q.population, case.config) for q, _ in cycle if q.operator == "select"]
            assert beam.wins == sum(won)
        parent = cycle[0][0].population.parent
        assert parent in (archives[number - 1] if number else {ASKED})


@given(cases())
def test_the_archive_never_holds_an_instruction_worse_than_what_it_replaced(case: Case) -> None:
    lows = [min(trace(case.search, case.config.replace(cycles=n)).result.archive.rewards.values()) for n in (1, 2, 3)]
    assert lows == sorted(lows)


@given(cases())
def test_each_cycle_descends_from_an_entry_of_the_archive_before_it(case: Case) -> None:
    run = case.trace()
    for number, cycle in enumerate(run.cycles):
        before = case.trace(cycles=number).result.archive if number else None
        expected = before.sample(seed_of(case.config, "parent", number)) if before else ASKED
        assert {question.population.parent for question, _ in cycle} == {expected}


@given(cases())
def test_nb_beams_share_each_mutation(case: Case) -> None:
    for before, after in case.trace().of("mutate"):
        assert [beam.instruction for beam in before.beams if not beam.first_response] == (
            [before.parent] * case.config.beams
        )
        for group in after.groups():
            assert len({after.beams[i].instruction for i in group}) == 1
        assert sum(len(group) for group in after.groups()) == case.config.beams


def test_empty_answers_and_all_beams_finished_at_once() -> None:
    run = trace(search_of(ends=1.0), SearchConfig(seed=1, cycles=2))
    assert run.result.text == ""
    assert run.result.best.finish_reason == "stop"
    assert [question.operator for question, _ in run.steps] == ["mutate", "decode", "score", "select"] * 2


def test_one_beam() -> None:
    run = trace(search_of(), SearchConfig(mutations=1, seed=1, max_new_tokens=100))
    assert run.result.reward == max(beam.reward for beam in run.result.ranking)
    assert all(beam.ancestor is None for _, after in run.steps for beam in after.beams)


def test_an_answer_cut_at_its_length_has_a_remark() -> None:
    result = trace(search_of(ends=0.0), SearchConfig(seed=1, max_new_tokens=50)).result
    assert {beam.finish_reason for beam in result.ranking} == {"length"}
    assert {beam.length for beam in result.ranking} == {50}


def test_a_search_without_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"draw one and record it"):
        next(darwin(REQUEST, SearchConfig()))


@given(cases())
def test_no_selection_once_all_contenders_have_ended(case: Case) -> None:
    racing = False
    for question, _ in case.trace(lookahead=0).steps:
        population = question.population
        if question.operator == "decode":
            racing = any(population.beams[i].open for i in population.contenders)
        assert question.operator != "select" or racing


@given(cases())
def test_every_cycle_draws_anew(case: Case) -> None:
    seeds = [{question.population.step.seed for question, _ in cycle} for cycle in case.trace(cycles=3).cycles]
    assert [len(cycle) for cycle in seeds] == [1, 1, 1]
    assert len(set.union(*seeds)) == 3
