"""Every Python snippet of the README runs as it stands, but for the address of its server."""

import re
from pathlib import Path

import pytest

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
    assert capsys.readouterr().out.strip()
