"""The changelog's table of renamed names: the new ones exist, the old ones do not."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROW = re.compile(r"^\| `(darwin_align[\w.]+)` \| `(darwin_align[\w.]+)` \|$", re.MULTILINE)
ROWS = ROW.findall((Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8"))


def exists(path: str) -> bool:
    """Whether a module has the name, or the attribute or field of a class."""
    modules = path.split(".")
    rest: list[str] = []
    while modules:
        try:
            found: object = import_module(".".join(modules))
            break
        except ModuleNotFoundError:
            rest.insert(0, modules.pop())
    for name in rest:
        if not hasattr(found, name):
            return name in getattr(found, "model_fields", getattr(found, "__annotations__", {})) and name == rest[-1]
        found = getattr(found, name)
    return True


def test_the_table_is_read() -> None:
    assert len(ROWS) > 40


@pytest.mark.parametrize(("old", "new"), ROWS)
def test_a_renamed_name(old: str, new: str) -> None:
    assert exists(new)
    assert not exists(old)
