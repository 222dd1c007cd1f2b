import random

import pytest

from darwin_align.pocket import MUTATION_PROMPT, dev, held_out, topics
from darwin_align.pocket.world import CLAUSES, PHRASINGS, Instruction, draw, fits, parse, understand


def test_topics_are_many_and_complete():
    found = topics()
    assert len(found) >= 60
    assert found[0].task == "brew green tea"
    for topic in found:
        assert (len(topic.items), len(topic.steps), len(topic.wrong)) == (3, 5, 3)
        assert all(0 <= step < 5 for step, _ in topic.wrong)


def test_every_sentence_of_the_topics_is_its_own():
    lines = [
        line.casefold()
        for t in topics()
        for line in (*t.steps, *(w for _, w in t.wrong), t.why, *t.why_more, *t.tips, t.warning, t.careless, t.needs)
    ]
    assert len(lines) == len(set(lines))


def test_requests_survive_the_round_trip():
    rng = random.Random(0)
    for _ in range(500):
        drawn = draw(rng)
        assert parse(drawn.text) == drawn
        assert fits(drawn.asks)


def test_every_phrasing_and_clause_parses():
    topic = topics()[5]
    for phrasing in range(len(PHRASINGS)):
        for name, wordings in CLAUSES.items():
            for wording in range(len(wordings)):
                drawn = Instruction(topic, phrasing, ((name, wording),))
                assert parse(drawn.text.upper()) == drawn


@pytest.mark.parametrize("text", ["", "   ", "Hello", "How do I fly to the moon?", "How do I boil eggs? Sing it."])
def test_foreign_requests_do_not_parse(text):
    assert parse(text) is None


def test_foreign_wording_is_understood_by_its_topic():
    found = understand("hey, could somebody brew green tea for me? Add a useful tip.")
    assert found is not None
    assert (found.topic.task, found.phrasing, found.asks) == ("brew green tea", -1, {"tip"})
    with pytest.raises(ValueError, match="foreign wording"):
        _ = found.text
    assert understand("What is the meaning of life?") is None


def test_splits_are_deterministic_and_disjoint():
    kept, tuning = held_out(200), dev(200)
    assert kept == held_out(200)
    assert held_out(50) == kept[:50]
    splits = [{parse(text).split for text in some} for some in (kept, tuning)]
    assert splits == [{"held_out"}, {"dev"}]
    assert len(set(kept)) == 200


def test_the_bare_request_is_trained_on():
    assert all(parse(f"How do I {topic.task}?").split == "train" for topic in topics())


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        held_out(0)


def test_mutation_prompt_delimits_the_request():
    assert MUTATION_PROMPT.format(instruction="X") == "Rewrite this request.\n<request>\nX\n</request>"
