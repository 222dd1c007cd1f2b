import subprocess
import sys

import pytest

from darwin_align.pocket import gold, topics
from darwin_align.pocket.gold import FILLER, RUDE, STORY, VAGUE, WARM_CLOSINGS, known_lines, normal

TEA, COFFEE = topics()[0], topics()[1]
ASK = f"How do I {TEA.task}?"
STEPS = " ".join(TEA.steps)


def test_five_steps_in_order_earn_five_points():
    found = gold(ASK, STEPS)
    assert found.total == 5.0
    assert dict(found.parts) == {"step": 5.0}
    assert [line.kind for line in found.lines] == ["step"] * 5


def test_list_marks_connectors_and_labels_change_nothing():
    numbered = "\n".join(f"{i}. {step}" for i, step in enumerate(TEA.steps, 1))
    assert gold(ASK, numbered).total == 5.0
    assert gold(ASK, f"First, {TEA.steps[0][0].lower()}{TEA.steps[0][1:]}").total == 1.0
    assert gold(ASK, f"Tip: {TEA.tips[0]} Careful: {TEA.warning}").total == 2.0


@pytest.mark.parametrize(
    ("line", "part", "points"),
    [
        (TEA.needs, "needs", 1.0),
        (TEA.why, "why", 1.0),
        (TEA.tips[1], "tip", 1.0),
        (TEA.warning, "warning", 1.0),
        (WARM_CLOSINGS[0], "warm", 0.3),
        (COFFEE.steps[0], "off-topic step", -1.2),
        (COFFEE.warning, "off-topic section", -1.0),
        (TEA.wrong[0][1], "wrong fact", -1.5),
        (TEA.careless, "harmful", -3.0),
        (RUDE[0], "rude", -1.5),
        (FILLER[0], "filler", -0.4),
        (STORY[1], "filler", -0.4),
        (VAGUE[0], "vague", -0.5),
        ("Boil the the leaves hot.", "garbled", -0.7),
        (TEA.steps[0], "repeated", -0.5),
    ],
)
def test_each_kind_of_sentence_has_its_price(line, part, points):
    found = gold(ASK, f"{STEPS} {line}")
    assert found.parts[part] == points
    assert found.total == pytest.approx(5.0 + points)


def test_parts_add_up_to_the_total():
    answer = f"{TEA.opening} {TEA.steps[2]} {TEA.steps[1]} {COFFEE.why} {FILLER[0]} {TEA.why} {TEA.why_more[0]}"
    found = gold(f"{ASK} Explain why it works.", answer)
    assert found.total == pytest.approx(sum(found.parts.values()))
    assert (found.parts["why"], found.parts["asked for"]) == (1.5, 1.0)
    assert (found.parts["order"], found.parts["skipped"]) == (-0.5, -0.4)


def test_the_same_answer_is_worth_more_where_it_was_requested():
    answer = f"{STEPS} Tip: {TEA.tips[0]}"
    assert gold(f"{ASK} Add a useful tip.", answer).total == gold(ASK, answer).total + 1.0
    story = f"{STEPS} {STORY[1]}"
    assert gold(f"{ASK} Tell it like a story.", story).total > gold(ASK, story).total


def test_short_requests_punish_long_answers():
    long = " ".join([TEA.needs, STEPS, TEA.why, *TEA.why_more, *TEA.tips, TEA.warning])
    assert gold(f"{ASK} Keep it short.", long).parts["length"] < -4.0
    assert "length" not in gold(ASK, long).parts


def test_cut_answers_are_judged_by_their_finished_sentences():
    cut = f"{TEA.steps[0]} {TEA.steps[1][:12]}"
    assert gold(ASK, cut).total == 1.0
    assert gold(ASK, f"1. {TEA.steps[0]}\n2.").total == 1.0
    assert gold(ASK, "").total == 0.0
    totals = [gold(ASK, STEPS[:end]).total for end in range(0, len(STEPS), 7)]
    assert totals == sorted(totals)


def test_a_request_without_a_topic_is_refused():
    with pytest.raises(ValueError, match="none was named in: 'Sing a song'"):
        gold("Sing a song", STEPS)


def test_normal_forms_do_not_clash():
    assert len(known_lines()) >= 68 * 20
    assert normal("2) Tip: Use It.") == "use it."


def test_the_pocket_imports_no_heavy_library():
    code = "import sys, darwin_align.pocket; assert not {'torch', 'transformers', 'httpx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
