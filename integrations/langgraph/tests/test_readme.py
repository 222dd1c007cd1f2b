"""The pages show what the examples print."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from darwin_align.integrations.langchain import extraction
from darwin_align.integrations.langgraph import agent, graph

HOSTS = Path(__file__).parents[2]
PAGES = {name: (HOSTS / name / "README.md").read_text(encoding="utf-8") for name in ("langchain", "langgraph")}
SHOWN = {
    name: block
    for page in PAGES.values()
    for name, block in re.findall(r"^\$ python -m (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
}


def test_every_example_is_shown_and_every_shown_one_is_there() -> None:
    modules = {
        f"darwin_align.integrations.{host}.{path.stem}"
        for host in PAGES
        for path in (HOSTS / host).glob("*.py")
        if "def main" in path.read_text(encoding="utf-8")
    }
    assert modules == SHOWN.keys()
    assert all(find_spec(name) for name in modules)


@pytest.mark.parametrize("example", [agent, graph, extraction])
def test_it_is_what_they_print(example: object, capsys: pytest.CaptureFixture[str]) -> None:
    example.main()
    printed, shown = capsys.readouterr().out, SHOWN[example.__name__]
    # Rewards may differ in their last digits from one kind of CPU to another.
    assert re.sub(r"-?\d+\.\d", "#", printed) == re.sub(r"-?\d+\.\d", "#", shown)
