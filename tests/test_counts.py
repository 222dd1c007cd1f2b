"""Figures of the code itself: ``Any`` per 1,000 lines, and the depth of the stack from a chat model to a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.any_count import LIMIT, PACKAGE, Counted, count
from benchmarks.frames import longest_chain

TYPED = ("core", "formats", "operators", "evaluation", "pocket", "storage", "traces", "search")
"""Parts that keep the limit by themselves; the others, over torch and transformers, as a whole."""


@pytest.fixture(scope="module")
def counted() -> Counted:
    return count()


def part_of(counted: Counted, name: str) -> Counted:
    """A folder, or the modules at the top whose names begin so."""
    folders = {file: file.relative_to(PACKAGE).parts for file in counted}
    kept = {f for f, (first, *rest) in folders.items() if first == name or (not rest and first.startswith(name))}
    return Counted({file: counted[file] for file in kept})


@pytest.mark.parametrize("part", TYPED)
def test_a_typed_part_keeps_the_limit(counted: Counted, part: str) -> None:
    found = part_of(counted, part)
    assert found
    assert found.per_thousand <= LIMIT


def test_the_package_keeps_the_limit(counted: Counted) -> None:
    assert counted.per_thousand <= LIMIT


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(a: Any, *b: Any) -> Any: ...", 3),
        ("x: dict[str, Any] | Mapping[str, Any] = {}", 0),
        ("x: dict[int, Any] = {}", 1),
        ("x: dict[str, list[Any]] = {}", 1),
        ("from langchain_core.runnables import Runnable\nx: Runnable[Any, Any]", 0),
        ("class C:\n    def invoke(self, x: Any, **kwargs: Any) -> Any: ...", 0),
        ("class C:\n    def __init__(self, **kwargs: Any) -> None: ...", 1),
        ("class C:\n    def invoke(self) -> None:\n        x: Any = 1", 1),
        ('"""Any."""\n# Any\n', 0),
    ],
)
def test_what_counts(tmp_path: Path, code: str, expected: int) -> None:
    (tmp_path / "module.py").write_text(code, encoding="utf-8")
    [(found, _)] = count(tmp_path).values()
    assert found == expected


def test_the_stack_to_a_token_does_not_grow() -> None:
    names = [frame.name for frame in longest_chain()]
    assert (names[0], names[-1]) == ("invoke", "Sampler.draw")
    assert len(names) <= 19  # lower it with every frame that goes
