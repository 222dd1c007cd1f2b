import pytest

from darwin_align import DarwinChatModel, SearchConfig
from darwin_align.core import PRESETS, Clause
from darwin_align.core.errors import ConfigError
from darwin_align.pocket import held_out
from darwin_align.pocket.pair import pocket_clauses, pocket_search
from darwin_align.pocket.world import BAD_CLAUSES, CLAUSES, GOOD_CLAUSES, parse

MINE = (Clause(text="Add a useful tip.", worth=0.5),)


def _wordings(names):
    return {text for name in names for text in CLAUSES[name]}


def test_what_was_learned_are_good_clauses_of_the_world():
    texts = [clause.text for clause in pocket_clauses()]
    assert set(texts) <= _wordings(GOOD_CLAUSES)
    assert not set(texts) & _wordings(BAD_CLAUSES)
    assert len(set(texts)) == len(texts) <= 8


def test_they_raised_rewards_best_first():
    worths = [clause.worth for clause in pocket_clauses()]
    assert worths == sorted(worths, reverse=True)
    assert worths[-1] > 0
    assert pocket_clauses()[0].text in CLAUSES["full"]


def test_the_pairs_search_has_them():
    search = pocket_search(SearchConfig.preset("learned_clauses"))
    assert search.config.clauses == pocket_clauses()
    assert pocket_search().invoke("How do I brew green tea?", mutator="clauses", max_tokens=5, seed=1).config.clauses
    assert DarwinChatModel(mutator="clauses").search.config.clauses == pocket_clauses()


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"learned_clauses"}))
def test_no_other_preset_does(name):
    assert pocket_search(SearchConfig.preset(name)).config.clauses == ()


def test_clauses_by_hand_win_over_them():
    assert pocket_search(SearchConfig.preset("learned_clauses", clauses=MINE)).config.clauses == MINE
    with pytest.raises(ConfigError, match="and there are none"):
        pocket_search(SearchConfig.preset("learned_clauses"), clauses=())


def test_instructions_get_learned_clauses():
    instruction = held_out(1)[0]
    result = pocket_search(SearchConfig.preset("learned_clauses", mutations=6)).invoke(instruction, seed=2)
    learned, own = {clause.text for clause in pocket_clauses()}, parse(instruction)
    for beam in result.ranking:
        added = parse(beam.instruction)
        assert added.topic is own.topic
        assert added.clauses[: len(own.clauses)] == own.clauses
        assert {CLAUSES[name][i] for name, i in added.clauses[len(own.clauses) :]} <= learned
    assert any(beam.instruction != instruction for beam in result.ranking)
    assert not any(event.delta.usage.decoded_tokens for event in result.events if event.operator == "mutate")
    assert result.reward > result.first_response.reward
