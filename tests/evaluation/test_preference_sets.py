"""Preference sets of others in the scorer check: PandaLM, LLMBar, RewardBench."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from darwin_align.cli import main
from darwin_align.core.errors import ConfigError
from darwin_align.evaluation import Pair, check, read_pairs
from darwin_align.evaluation.pairs import read_pair_file
from tests.evaluation.kit import official

PANDA = {"instruction": "Shorten.", "input": "It is, so to say, raining.", "response1": "It rains.", "response2": "So."}
BAR = {"instruction": "Name a fruit.", "output_1": "A pear.", "output_2": "A chair.", "label": 1, "subset": "Natural"}
BENCH = {"id": 3, "prompt": "2 + 2?", "chosen": "4", "rejected": "5", "subset": "math-prm", "chosen_model": "human"}


def write(path: Path, *rows: Any) -> Path:
    text = "\n".join(map(json.dumps, rows))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_each_form_is_read(tmp_path: Path) -> None:
    rows = ({**PANDA, "votes": [1, 0, 1]}, {**PANDA, "annotator1": 2, "annotator2": 2, "annotator3": 1}, BAR, BENCH)
    first, second, bar, bench = read_pairs(write(tmp_path / "mixed.jsonl.gz", *rows))
    assert first.request.instruction == "Shorten.\n\nIt is, so to say, raining."
    assert (first.better, first.worse, first.subset) == ("It rains.", "So.", "")
    assert (second.better, second.worse) == ("So.", "It rains.")
    assert (bar.better, bar.worse, bar.subset) == ("A pear.", "A chair.", "Natural")
    assert (bench.better, bench.worse, bench.subset) == ("4", "5", "math-prm")
    (official_form,) = read_pairs(
        write(tmp_path / "dataset.json", [{**BAR, "input": BAR["instruction"], "instruction": ""}])
    )
    assert official_form.request == bar.request
    own = {"prompt": "x", "better": "a", "worse": "b", "subset": "mine"}
    assert read_pairs(write(tmp_path / "own.jsonl", own))[0].subset == "mine"


def test_rows_without_a_majority_are_left_out_and_counted(tmp_path: Path) -> None:
    votes = ([1, 1, 1], [0, 0, 1], [0, 1, 2], [1, 2], [2, 2, 0])
    file = read_pair_file(write(tmp_path / "panda.jsonl", *({**PANDA, "votes": list(one)} for one in votes)))
    assert [pair.better for pair in file.pairs] == ["It rains.", "So."]
    assert file.left_out == 3
    blank = {**PANDA, "response2": " ", "votes": [2, 2, 2]}
    assert read_pair_file(write(tmp_path / "blank.jsonl", blank, BAR)).left_out == 1
    with pytest.raises(ConfigError, match="holds no pair on which a majority agrees"):
        read_pairs(write(tmp_path / "ties.jsonl", {**PANDA, "votes": [0, 0, 0]}))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (PANDA, r"'votes' must be a list of 1, 2 and 0 \(a tie\), not \[\]"),
        ({**PANDA, "votes": [1, 3]}, r"'votes' must be a list of 1, 2 and 0"),
        ({**PANDA, "votes": "1"}, r"'votes' must be a list"),
        ({**PANDA, "votes": [1], "response2": None}, r"'response2' must be a text, not None"),
        ({**PANDA, "votes": [1], "response2": "It rains."}, r"both answers are 'It rains.'"),
        ({**BAR, "label": 3}, r"'label' must be 1 or 2, the better answer, not 3"),
        ({**BAR, "label": True}, r"'label' must be 1 or 2"),
        ({**BAR, "instruction": None}, r"there is no prompt: give 'instruction'"),
        ({**BAR, "subset": 7}, r"'subset' must be a text, not 7"),
        ({**BENCH, "subset": 7}, r"'subset' must be a text"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    file = write(tmp_path / "mine.jsonl", BAR, row)
    with pytest.raises(ConfigError, match=rf"mine.jsonl, line 2: .*{says}"):
        read_pairs(file)


def pairs_of(subset: str, n: int, *, longer: bool) -> list[Pair]:
    """The better answer names the number; it is a third longer, or of the same length."""
    more = " indeed truly" if longer else ""
    return [
        Pair.of(
            f"Which of {subset} is number {i}?", f"It is number {i} here{more}", "It is some other one", subset=subset
        )
        for i in range(n)
    ]


def test_figures_by_subset_and_of_answers_of_one_length() -> None:
    pairs = [*pairs_of("long", 6, longer=True), *pairs_of("same", 4, longer=False)]
    report = check(lambda request, responses: [float(len(response.text.split())) for response in responses], pairs)
    long, same = report.subsets
    assert (long.name, same.name) == ("long", "same")
    assert (long.accuracy.wins, long.accuracy.n, long.matched) == (6, 6, None)
    assert long.longer_better is not None
    assert long.longer_better.share == 1.0
    assert (same.accuracy.share, same.accuracy.ties) == (0.5, 4)  # by length nothing is known there
    assert same.matched is not None
    assert same.matched.n == 4
    assert same.longer_better is None
    assert report.matched is not None
    assert (report.matched.n, report.matched.share) == (4, 0.5)
    text = report.render()
    assert "(of answers of one length, ±10%)" in text
    assert "in long" in text
    assert type(report).from_json(report.to_json()) == report
    assert not check(lambda request, responses: [1.0 for _ in responses], pairs_of("", 3, longer=True)).subsets


def test_the_command_says_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**PANDA, "instruction": f"{i}.", "votes": [0, 0, 0] if i == 3 else [1, 1, 2]} for i in range(5)]
    (tmp_path / "mine.py").write_text("def score(request, responses):\n    return [len(r.text) for r in responses]\n")
    line = [
        "check-scorer",
        "--pairs",
        str(write(tmp_path / "p.jsonl", *rows)),
        "--reward",
        f"{tmp_path / 'mine.py'}:score",
    ]
    main(line)
    assert "Rows left out, as the votes on them name no better answer: 1." in capsys.readouterr().out
    main([*line, "--json"])
    assert json.loads(capsys.readouterr().out)["left_out"] == 1


def test_the_published_sets_have_the_figures_that_are_known_of_them() -> None:
    panda = read_pair_file(official("real/pandalm.jsonl.gz"))
    assert (len(panda.pairs), panda.left_out) == (662, 91)  # people preferred a blank answer once
    bar = read_pairs(official("real/llmbar.jsonl.gz"))
    assert len(bar) == 188
    assert {pair.subset for pair in bar} == {
        "Natural", *(f"Adversarial/{name}" for name in ("Neighbor", "GPTInst", "GPTOut", "Manual"))
    }  # fmt: skip
