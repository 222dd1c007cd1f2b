"""The README and the pages of the site: snippets run as they stand, but for the address of their server; tables are
what was measured.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks import ifeval, overoptimisation, prompts, quality, real_tools, replicas
from darwin_align.evaluation.world import WorldMethod

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = "http://127.0.0.1:8000"
TABLE = re.compile(r"^(?:\|.*\n)+", re.MULTILINE)
BAR = re.compile(r"(?<!\\)\|")  # between two cells


class Snippet(NamedTuple):
    page: Path
    code: str

    @property
    def name(self) -> str:
        last = re.sub(r"\W+", " ", self.code.splitlines()[-1])
        return f"{self.page.stem} {last[:40]}"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in BAR.split(line)[1:-1]]


SNIPPETS = [
    Snippet(page, code)
    for page in PAGES
    for code in re.findall(r"^```python\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)
]


def test_the_readme_is_short_and_has_its_snippets() -> None:
    assert len(text_of(README).splitlines()) <= 150
    assert len([one for one in SNIPPETS if one.page == README]) >= 3
    assert len({one.page for one in SNIPPETS}) >= 6


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_snippet_runs_and_prints_something(
    snippet: Snippet, request: pytest.FixtureRequest, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = snippet.code
    if ADDRESS in code:
        code = code.replace(ADDRESS, request.getfixturevalue("llama").url)
    exec(compile(code, str(snippet.page), "exec"), {})  # noqa: S102 - our own page
    printed = capsys.readouterr().out
    assert printed.strip()
    assert re.findall(r"^# prints: (.*)$", code, re.MULTILINE) in ([], printed.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_are_whole(page: Path) -> None:
    for table in TABLE.findall(text_of(page) + "\n"):
        head, rule, *rows = table.splitlines()
        assert re.fullmatch(r"\|[-:| ]+\|", rule), f"a blank line tears the table after {head}"
        assert {len(cells(line)) for line in (rule, *rows)} == {len(cells(head))}, head


def test_the_table_of_the_family_is_what_was_measured() -> None:
    found = quality.read(quality.RESULTS / "quality.json")
    head, *rows = quality.markdown(found).splitlines()
    page = text_of(ROOT / "docs" / "benchmarks.md")
    assert "\n".join(rows) in page
    [own_head] = [line for line in page.splitlines() if line.startswith("| setting | gold | difference to darwin |")]
    assert len(cells(own_head)) == len(cells(head))
    assert {WorldMethod.of(text).label for text in quality.METHODS} == {one.label for one in found.standings}


def results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((quality.RESULTS / name).read_text(encoding="utf-8"))
    return found


def test_the_table_of_the_readme_is_that_of_ifeval() -> None:
    found = results("ifeval.json")
    assert ifeval.markdown(found) in text_of(ROOT / "docs" / "benchmarks.md")
    assert ifeval.markdown(found, short=True) in text_of(README)
    assert f"{found['prompts']} prompts" in text_of(README)


def test_the_readme_sums_the_embedded_table_up() -> None:
    gold = {one.label: f"{one.means['gold']:.2f}" for one in quality.read(quality.RESULTS / "quality.json").standings}
    text = " ".join(text_of(README).split())
    assert (
        f"darwin {gold['darwin']}, best of 22 {gold['best_of_n, 22']}, `learned_clauses` {gold['learned_clauses']}"
        in text
    )


def test_the_tables_of_the_small_pair_are_what_was_measured() -> None:
    page = text_of(ROOT / "docs" / "benchmarks.md")
    assert prompts.markdown(results("prompts.json")) in page
    assert real_tools.markdown(results("real_tools.json")) in page
    explored = results("exploration.json")["mutators"]["auto"]
    words = " ".join(page.split())
    assert f"{explored['distinct_on_topic']} of {explored['places']} places" in words
    reworded = results("exploration.json")["mutators"]["policy"]
    assert f"{reworded['distinct_on_topic']} of {reworded['places']} places does" in words
    assert f"the first {reworded['searches']} of these prompts, and {reworded['wasted_share']:.2f} tokens" in words


def test_what_a_plan_is_worth_is_what_was_measured() -> None:
    found = results("prefix_cache.json")["plan"]
    text = " ".join(text_of(ROOT / "docs" / "batch.md").split())
    assert f"Against {found['prompts']} real prompts" in text
    assert f"{found['planned_seconds']:.0f} seconds planned, {found['seconds']:.0f} taken" in text


def test_the_table_of_ordering_is_what_was_simulated() -> None:
    assert replicas.ordering_table(results("replicas.json")["ordering"]) in text_of(ROOT / "docs" / "benchmarks.md")


def test_the_table_of_tool_calls_is_what_was_measured() -> None:
    measured = json.loads((quality.RESULTS / "tools.json").read_text(encoding="utf-8"))["rows"]
    [table] = [table for table in TABLE.findall(text_of(ROOT / "docs" / "tools.md")) if table.startswith("| tools |")]
    shown = {", ".join(row[:2]): row[2:] for row in map(cells, table.splitlines()[2:])}
    assert shown == {
        name: [f"{row[one]['all_right']:.0%}" if one in row else "" for one in ("free", "schema", "grounded")]
        for name, row in measured.items()
    }


def test_the_tables_of_overoptimisation_are_what_was_measured() -> None:
    page = text_of(ROOT / "benchmarks" / "README.md")
    found = json.loads((quality.RESULTS / "overoptimisation.json").read_text(encoding="utf-8"))
    assert overoptimisation.accuracy_table(found["accuracy"]) in page
    assert len(found["series"]) == 11
    for table in found["series"]:
        assert f"### {table['title']}\n\n{overoptimisation.markdown(table)}" in page
    for name, steps in found["dynamics"].items():
        assert f"### {name}\n\n{overoptimisation.dynamics_table(steps)}" in page
