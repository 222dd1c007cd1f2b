import random
from statistics import fmean

from darwin_align.pocket import gold, topics
from darwin_align.pocket.gold import known_lines, normal
from darwin_align.pocket.world import Instruction, draw_from, parse
from training.annotator import preference, verdict
from training.answers import answer, garble
from training.comparisons import clause_twins, groups, topic_twins
from training.conversations import sample
from training.mutations import DRIFT, reword


def _mean_gold(clauses, count=300):
    rng = random.Random(1)
    instructions = [Instruction(rng.choice(topics()), 0, clauses) for _ in range(count)]
    return fmean(gold(Instruction(one.topic, 0).text, answer(one, rng)).total for one in instructions)


def test_the_writer_writes_known_sentences_only():
    rng = random.Random(0)
    for _ in range(200):
        instruction = draw_from(rng, "train")
        found = gold(instruction.text, answer(instruction, rng))
        assert found.lines
        assert all(normal(line.text) in known_lines() for line in found.lines)


def test_clauses_move_the_quality():
    bare, good, bad = _mean_gold(()), _mean_gold((("care", 0), ("full", 0))), _mean_gold((("guess", 0),))
    assert bad < bare < good


def test_garbling_is_noticed():
    rng, text = random.Random(2), " ".join(topics()[3].steps)
    instruction = f"How do I {topics()[3].task}?"
    assert fmean(gold(instruction, garble(text, rng)).total for _ in range(20)) < gold(instruction, text).total


def test_rewordings_keep_the_topic_and_the_training_split():
    rng, moved = random.Random(3), 0
    for _ in range(600):
        source = draw_from(rng, "train")
        found = reword(source, rng)
        assert parse(found.text) == found
        assert found.split == "train"
        moved += found.topic is not source.topic
    assert moved <= 600 * DRIFT * 4


def test_the_annotator_is_kinder_to_wrong_facts_than_gold():
    topic, rng = topics()[0], random.Random(4)
    instruction, text = f"How do I {topic.task}?", topic.wrong[0][1]
    seen = {round(verdict(instruction, text, rng), 2) for _ in range(50)}
    assert len(seen) == 2
    assert min(seen) >= gold(instruction, text).total
    assert preference(0.0) == 0.5
    assert preference(3.0) > 0.9


def test_twins_differ_by_the_request_only():
    rng = random.Random(5)
    one, two, replies = clause_twins(rng, "train")
    assert one.topic is two.topic
    assert gold(one.text, replies[0]).total > gold(one.text, replies[1]).total
    assert gold(two.text, replies[1]).total > gold(two.text, replies[0]).total
    one, two, _ = topic_twins(rng, "train")
    assert one.topic is not two.topic
    assert one.clauses == two.clauses


def test_streams_are_deterministic():
    for make in (lambda rng: [sample(rng) for _ in range(20)], lambda rng: [next(groups(rng)) for _ in range(20)]):
        assert make(random.Random(6)) == make(random.Random(6))


def test_no_held_out_request_is_trained_on():
    rng = random.Random(7)
    for _ in range(500):
        for message in sample(rng)[0]:
            body = message["content"].removeprefix("Rewrite this request.\n<request>\n").removesuffix("\n</request>")
            instruction = parse(body)
            assert instruction is None or instruction.split == "train"
