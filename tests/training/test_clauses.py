"""Learning the pair's clauses, on a handful of instructions."""

import json
from functools import partial

import pytest

from darwin_align.core import learn_clauses, read_clauses
from darwin_align.core.errors import ConfigError
from darwin_align.pocket.pair import pocket_clauses
from darwin_align.pocket.world import CLAUSES, GOOD_CLAUSES
from training import clauses


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    file = tmp_path_factory.mktemp("clauses") / "clauses.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clauses, "learn_clauses", partial(learn_clauses, least=4))  # the ten of the whole are too many
        clauses.main(8, 0, file)
    return file


@pytest.mark.slow
def test_a_few_instructions_teach_the_clauses_of_the_world(written):
    found = read_clauses(written)
    texts = [clause.text for clause in found]
    assert set(texts) <= {text for wordings in CLAUSES.values() for text in wordings}
    assert texts[0] in {text for name in GOOD_CLAUSES for text in CLAUSES[name]}
    assert set(texts) & {clause.text for clause in pocket_clauses()[:2]}
    assert all(clause.worth == round(clause.worth, 3) > 0 for clause in found)


@pytest.mark.slow
def test_the_file_records_how_it_was_made_and_its_cost(written):
    record = json.loads(written.read_text(encoding="utf-8"))
    assert record["about"] == "python -m training.clauses: mutate_best_of_n on dev(8), seed 0"
    assert 8 * 1000 < record["decoded_tokens"] < 8 * 5000


def test_the_shipped_file_is_of_this_form():
    record = json.loads(clauses.FILE.read_text(encoding="utf-8"))
    assert record["about"].startswith("python -m training.clauses: mutate_best_of_n on dev(")
    assert record["decoded_tokens"] > 0
    assert read_clauses(clauses.FILE) == pocket_clauses()


@pytest.mark.slow
def test_too_few_instructions_teach_nothing_and_say_so(tmp_path):
    with pytest.raises(ConfigError, match="no clause was added to 10 instructions in these 1 searches"):
        clauses.main(1, 0, tmp_path / "clauses.json")
    assert not list(tmp_path.iterdir())
