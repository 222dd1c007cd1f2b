"""A griffe extension: docstrings as the site shows them, with roles as code and doctests as code blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":[a-z]+:`([^`<]+?)(\s+<[^`>]+>)?`")
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n\1 *\S.*)*", re.MULTILINE)


class ReadableDocstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object, where it has one."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)


def readable(docstring: str) -> str:
    """Turn roles into code and doctests into fenced blocks."""
    return _DOCTEST.sub(_fenced, _ROLE.sub(_code, docstring))


def _code(role: re.Match[str]) -> str:
    title, target = role.groups()
    return f"``{title if target or title[0] != '~' else title.rpartition('.')[2]}``"


def _fenced(doctest: re.Match[str]) -> str:
    indent = doctest[1]
    return f"{indent}```pycon\n{doctest[0]}\n{indent}```"
