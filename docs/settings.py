"""Tables of settings, generated from the classes: every field with its type, bounds, default and docstring."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from importlib import import_module
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.docstrings import readable

__all__ = ["field_table", "with_field_tables"]

_MARKER = re.compile(r"^<!-- settings: ([\w.]+) -->$", re.MULTILINE)
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def with_field_tables(markdown: str) -> str:
    """Put a table in the place of every line ``<!-- settings: package.Class -->``.

    Raises:
        ImportError: there is no such module.
        AttributeError: there is no such class in it.
    """
    return _MARKER.sub(lambda marker: field_table(_class_at(marker[1])), markdown)


def field_table(model: type[BaseModel]) -> str:
    """The fields of a pydantic model as a Markdown table."""
    fields = model.model_fields
    rows = [
        (f"`{name}`", _kind(fields[name]), _default(fields[name]), meaning)
        for name, meaning in _own_fields(model).items()
        if name in fields
    ]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(["| name | type | default | meaning |", "|---|---|---|---|", *(_line(row) for row in cells)])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _class_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _kind(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(one, name):g}"
        for one in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(one, name)
    ]
    return _type(field.annotation, " and ".join(limits))


def _type(annotation: Any, limits: str = "") -> str:
    if get_origin(annotation) in (Union, UnionType):
        kinds = sorted(get_args(annotation), key=lambda kind: kind is NoneType)
        return " or ".join("none" if kind is NoneType else _type(kind, limits) for kind in kinds)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value!r}`".replace("'", '"') for value in get_args(annotation))
    name = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    return f"{re.sub(r'[a-z_]+[.]', '', name)} {limits}".strip()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    return f"`{type(default).__name__}()`" if isinstance(default, BaseModel) else f"`{default!r}`".replace("'", '"')


def _own_fields(model: type[BaseModel]) -> dict[str, str]:
    """The fields that classes of this library define, and the docstring that follows each definition, on one line."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base.__module__.startswith("darwin_align.") and "[" not in base.__name__:
            [definition] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            for field, following in pairwise([*getattr(definition, "body", ()), ast.Pass()]):
                if isinstance(field, ast.AnnAssign):
                    found[ast.unparse(field.target)] = _docstring(following)
    return found


def _docstring(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(readable(str(statement.value.value)).split())
    return ""
