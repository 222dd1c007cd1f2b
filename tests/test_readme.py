"""Python snippets run as they stand, but for the address of their server; tables are what was measured."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import overoptimisation, quality
from darwin_align.evaluation.world import Contender

README = Path(__file__).parents[1] / "README.md"
ADDRESS = "http://127.0.0.1:8000"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_readme_has_its_snippets() -> None:
    assert len(SNIPPETS) >= 5


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: re.sub(r"\W+", " ", snippet.splitlines()[-1])[:40])
def test_snippet_runs_and_prints_something(
    snippet: str, request: pytest.FixtureRequest, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if ADDRESS in snippet:
        snippet = snippet.replace(ADDRESS, request.getfixturevalue("llama").url)
    exec(compile(snippet, str(README), "exec"), {})  # noqa: S102 - our own page
    printed = capsys.readouterr().out
    assert printed.strip()
    assert re.findall(r"^# prints: (.*)$", snippet, re.MULTILINE) in ([], printed.splitlines())


def test_no_blank_line_tears_a_table() -> None:
    text = README.read_text(encoding="utf-8")
    tables = re.findall(r"^(?:\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 5
    assert [table for table in tables if not re.match(r".*\n\|[-:| ]+\|\n", table)] == []


def test_the_table_of_the_family_is_what_was_measured() -> None:
    found = quality.read(quality.RESULTS / "quality.json")
    assert quality.markdown(found) in README.read_text(encoding="utf-8")
    assert {Contender.of(text).label for text in quality.CONTENDERS} == {one.label for one in found.standings}


def test_the_tables_of_overoptimisation_are_what_was_measured() -> None:
    page = (README.parent / "benchmarks" / "README.md").read_text(encoding="utf-8")
    found = json.loads((quality.RESULTS / "overoptimisation.json").read_text(encoding="utf-8"))
    assert overoptimisation.accuracy_table(found["accuracy"]) in page
    assert len(found["series"]) == 11
    for table in found["series"]:
        assert f"### {table['title']}\n\n{overoptimisation.markdown(table)}" in page
    for name, steps in found["dynamics"].items():
        assert f"### {name}\n\n{overoptimisation.dynamics_table(steps)}" in page
