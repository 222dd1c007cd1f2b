"""``eval world``: records that resume, summaries by hand, and a page that is whole."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from darwin_align.cli import main
from darwin_align.core import Clause, write_clauses
from darwin_align.core.errors import ConfigError
from darwin_align.evaluation import world
from darwin_align.evaluation.world import WorldMethod, measure, summary
from darwin_align.evaluation.world_page import page, plain
from darwin_align.pocket import dev
from darwin_align.pocket.pair import pocket_clauses
from tests.evaluation.kit import Whole

pytestmark = pytest.mark.slow

QUICK = ["sample", "two: best_of_n mutations=1"]


def methods(*texts: str) -> list[WorldMethod]:
    return [WorldMethod.of(text) for text in texts]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("world")
    return out, measure(methods(*QUICK), out, n=3, seeds=(0, 1), split="dev", progress=False)


def test_every_search_is_recorded_with_its_figures(run: tuple[Path, list[dict[str, Any]]]) -> None:
    _, records = run
    assert len(records) == 2 * 2 * 3
    assert {record["instruction"] for record in records} == set(dev(3))
    for record in records:
        assert record["seconds"] > 0
        assert set(world.FIGURES) <= record.keys()
    plain_samples = [record for record in records if record["method"] == "sample"]
    assert all(record["gold"] == record["first_gold"] for record in plain_samples)
    pairs = [record for record in records if record["method"] == "best_of_n mutations=1"]
    assert all(record["reward"] >= record["first_reward"] for record in pairs)
    assert any(record["reward"] > record["first_reward"] for record in pairs)


def test_a_run_goes_on_where_it_was_cut(run: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    out, whole = run
    lines = (out / "searches.jsonl").read_bytes().splitlines(keepends=True)
    torn = tmp_path / "searches.jsonl"
    torn.write_bytes(b"".join(lines[:5]) + lines[5][:30])
    again = measure(methods(*QUICK), tmp_path, n=3, seeds=(0, 1), split="dev", progress=False)
    timeless = [{k: v for k, v in record.items() if "seconds" not in k} for record in (*whole, *again)]
    assert timeless[: len(whole)] == timeless[len(whole) :]
    assert torn.read_bytes().startswith(b"".join(lines[:5])), "what was there stays as it was"


def test_a_run_may_grow_and_what_is_there_is_not_searched_again(
    run: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, records = run
    monkeypatch.setattr(WorldMethod, "search", lambda self: pytest.fail(f"{self.label} was searched again"))
    assert measure(methods(*QUICK), out, n=3, seeds=(1, 0), split="dev", progress=False)[:3] == records[3:6]
    assert len(measure(methods("sample"), out, n=2, seeds=(0,), split="dev", progress=False)) == 2


@pytest.mark.parametrize(("more", "message"), [({"split": "held_out"}, "split was"), ({"concurrency": 2}, "timed was")])
def test_other_manners_are_refused_in_one_folder(
    run: tuple[Path, list[dict[str, Any]]], more: dict[str, Any], message: str
) -> None:
    settings = {"split": "dev", **more}
    with pytest.raises(ConfigError, match=message):
        measure(methods("sample"), run[0], n=1, progress=False, **settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("darvin", "unknown preset 'darvin': did you mean 'darwin'"),
        ("darwin cycle=2", "did you mean 'cycles'"),
        ("darwin guard=no", "use guard=on or guard=off"),
        ("darwin reward=/nowhere/at/all", "there is no such folder"),
        ("darwin cycles", "no pair"),
        ("learned_clauses clauses=/nowhere/at/all", "/nowhere/at/all cannot be read as clauses"),
    ],
)
def test_methods_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        WorldMethod.of(text)


def test_methods_are_known_by_what_decides_their_answers() -> None:
    first, second = methods("a: darwin cycles=2 temperature=1", "b: darwin temperature=1 cycles=2")
    assert first.text == second.text
    assert (first.label, second.label) == ("a", "b")
    assert (first.config.cycles, first.sampling.temperature) == (2, 1)
    assert WorldMethod.of("darwin guard=off").search().guard is None


def test_a_methods_clauses_come_from_a_file_or_are_the_pairs(tmp_path: Path) -> None:
    file, learned = tmp_path / "clauses.json", (Clause(text="Be kind.", worth=0.2),)
    write_clauses(file, learned)
    assert WorldMethod.of(f"learned_clauses clauses={file}").search().config.clauses == learned
    assert WorldMethod.of("learned_clauses").search().config.clauses == pocket_clauses()
    with pytest.raises(ConfigError, match="clauses only serves mutator='clauses'"):
        WorldMethod.of(f"darwin clauses={file}")


@pytest.mark.parametrize("module", ["numpy"])
def test_what_the_figures_take_is_missed_before_any_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    monkeypatch.setattr(WorldMethod, "search", lambda self: pytest.fail(f"{self.label} was searched"))
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["eval", "world", "sample", "--n", "2", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"need {module}" in error
    assert "pip install 'darwin-align[eval]'" in error
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=f"need {module}"):
        summary(methods("sample"), [], split="dev")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sample", "--n", "0"], "argument --n: 0 is none: give 1 or more"),
        (["sample", "--n", "1000000"], "n=1000000 is too many: the world gives at most 10000 instructions"),
        (["sample", "--concurrency", "0"], "argument --concurrency: 0 is none: give 1 or more"),
        (["sample", "--against", "nobody"], "no method is called 'nobody'"),
        (["sample", "sample"], "two methods are called 'sample'"),
        (["a: sample", "a: best_of_n"], "two methods are called 'a': leave one out, or give each a label"),
        (["sample", "--temperatures", "1", "1.0"], "two methods are called 'sample temperature=1'"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_measured_is_refused_before_any_search(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(WorldMethod, "search", lambda self: pytest.fail(f"{self.label} was searched"))
    try:
        code = main(["eval", "world", *options, "--out", str(tmp_path / "out")])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n=0 is none"),
        ({"n": 10_001}, "n=10001 is too many"),
        ({"concurrency": 0}, "concurrency=0 is impossible"),
    ],
)
def test_impossible_numbers_are_refused_in_python_too(tmp_path: Path, given: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(methods("sample"), tmp_path / "out", progress=False, **given)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="there are no methods"):
        measure([], tmp_path / "out", progress=False)


RECORDS = [
    {"method": name, "instruction": f"i{i}", "seed": seed, "gold": float(value), "reward": 1.0, "words": 10}
    for name, golds in {"darwin": ((9, 11), (5, 5), (7, 9)), "sample": ((4, 6), (5, 3), (1, 3))}.items()
    for i, of_seeds in enumerate(golds)
    for seed, value in enumerate(of_seeds)
]


def test_a_summary_by_hand() -> None:
    found = summary(methods("darwin", "plain: sample"), RECORDS, split="held_out", against=["plain"])
    darwin, plain_sample = found.standings
    assert (found.instructions, found.seeds) == (3, (0, 1))
    assert darwin.means == {"gold": pytest.approx(46 / 6), "reward": 1.0, "words": 10.0}
    assert plain_sample.differences == {}
    difference = darwin.differences["plain"]  # of the instructions' means: 5, 1 and 6
    assert difference.mean == 4.0
    assert 1.0 <= difference.low < 4.0 < difference.high <= 6.0
    assert darwin.intervals["reward"] == (1.0, 1.0)
    with pytest.raises(ConfigError, match="no method is called 'darvin': did you mean 'darwin'"):
        summary(methods("darwin"), RECORDS, split="dev", against=["darvin"])


def test_the_page_is_whole_and_loads_nothing(run: tuple[Path, list[dict[str, Any]]]) -> None:
    found = summary(methods("<b>: sample", QUICK[1]), run[1], split="dev", against=["two"])
    text, parser = page(found), Whole()
    parser.feed(text)
    assert parser.open == []
    assert [load for load in parser.loads if "=#" not in load] == []
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert text.count("<figure>") == 5
    assert page(found) == text
    assert json.loads(json.dumps(plain(found)))["standings"][1]["label"] == "two"


def test_the_command_prints_a_table_and_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--n", "2", "--split", "dev", "--against", "two", "--out", str(tmp_path)]
    assert main(["eval", "world", *QUICK, *options]) == 0
    head, first, second, _ = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["gold", "less", "two's", "reward"]
    assert first.startswith("sample ")
    assert second.startswith("two ")
    standings = json.loads((tmp_path / "results.json").read_text())["standings"]
    assert f"{standings[0]['means']['gold']:.2f}" in first
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_temperatures_multiply_the_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--temperatures", "0.7", "1", "--n", "1", "--split", "dev", "--concurrency", "4", "--out", str(tmp_path)]
    assert main(["eval", "world", "sample", "two: best_of_n mutations=1", *options]) == 0
    head, *rows, _ = capsys.readouterr().out.splitlines()
    assert [row.split("  ")[0].strip() for row in rows] == [
        "sample temperature=0.7",
        "sample temperature=1",
        "two T=0.7",
        "two T=1",
    ]
    assert "seconds" not in head
