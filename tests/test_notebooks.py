"""Every notebook runs from top to bottom without a word on stderr, and prints what the committed file holds.

Compared is the text of all outputs, streams and results alike. Not compared are images; times in seconds, addresses of
objects and ports, should one be printed; and cells tagged "varies". On another kind of processor than that which the
outputs were kept from, or under other versions, a seed need not give the same answer: there, running is all that is
asked.
"""

import re
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from notebooks.execute import execute, notebooks, place

LARGEST = 300 * 1024
"""Bytes of a notebook with its outputs."""
NAMES = [path.name for path in notebooks()]
# Half a minute of searches for the sake of a measurement: `make docs-check` and `make test-slow` run it.
RUN = [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("5_") else []) for name in NAMES]
PRIVATE = re.compile(r"(?:/(?:home|Users|root|tmp|var|work|opt)/|[A-Z]:\\|site-packages|\.venv)")
RAISED = re.compile(r"Traceback \(most recent call last\)|\x1b\[|0x[0-9a-f]{6,}")
VARYING = (
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:ms|s|seconds)\b"), "… s"),
    (re.compile(r"\b0x[0-9a-f]{6,}\b"), "0x…"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "127.0.0.1:…"),
)


@cache
def kept(name: str) -> NotebookNode:
    return nbformat.read(next(path for path in notebooks() if path.name == name), as_version=4)


@cache
def run(name: str) -> NotebookNode:
    return execute(next(path for path in notebooks() if path.name == name))


def codes(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: NotebookNode) -> list[str]:
    """What a cell printed and showed, without its pictures."""
    found = []
    for output in cell.outputs:
        told = [output.text] if output.output_type == "stream" else []
        told += [data for kind, data in sorted(output.get("data", {}).items()) if kind.startswith("text/")]
        found += ["\n".join(output.traceback)] if output.output_type == "error" else told
    return found


def steady(cell: NotebookNode) -> list[str]:
    if "varies" in cell.metadata.get("tags", ()):
        return []
    found = texts(cell)
    for pattern, instead in VARYING:
        found = [pattern.sub(instead, text) for text in found]
    return found


def noise(notebook: NotebookNode) -> list[str]:
    outputs = [output for cell in codes(notebook) for output in cell.outputs]
    return [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]


def test_there_are_five() -> None:
    assert [name[:2] for name in NAMES] == ["1_", "2_", "3_", "4_", "5_"]


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_file_is_whole_and_clean(name: str) -> None:
    notebook = kept(name)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in codes(notebook)] == list(range(1, len(codes(notebook)) + 1))
    assert noise(notebook) == []
    told = [text for cell in codes(notebook) for text in texts(cell)]
    assert told
    assert [text for text in told if PRIVATE.search(text) or RAISED.search(text) or str(Path.home()) in text] == []
    shown = [output.data for cell in codes(notebook) for output in cell.outputs if "data" in output]
    assert all("text/plain" in data for data in shown)  # what a reader without HTML or pictures gets
    assert {kind for data in shown for kind in data} <= {"text/plain", "text/html", "text/markdown", "image/png"}
    assert len(nbformat.writes(notebook)) < LARGEST


@pytest.mark.parametrize("name", RUN)
def test_it_runs_without_a_word_on_stderr(name: str) -> None:
    assert noise(run(name)) == []


@pytest.mark.parametrize("name", RUN)
def test_it_prints_what_is_kept(name: str) -> None:
    if (there := kept(name).metadata["kept_from"]) != place():
        pytest.skip(f"its outputs were kept from {there}, and this is {place()}")
    pairs = zip(codes(kept(name)), codes(run(name)), strict=True)
    changed = [
        (before.source, steady(before), steady(after)) for before, after in pairs if steady(before) != steady(after)
    ]
    assert changed == [], "look at these cells, and keep what is right by `make notebooks`"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    folder = next(path for path in notebooks() if path.name == name).parent
    prose = "\n".join(cell.source for cell in kept(name).cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#]+)", prose) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []
