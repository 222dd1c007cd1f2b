"""Clauses: sentences about how to answer, added to an instruction."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from darwin_align.core.errors import ConfigError
from darwin_align.core.json_types import Json
from darwin_align.core.record import Settings

__all__ = ["Clause", "read_clauses", "sentences", "with_clauses", "write_clauses"]

_ENDED = re.compile(r"[.?!…。！？]\s*$")


class Clause(Settings):
    """A sentence about how to answer, and what it was worth on other instructions."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    worth: float = 0.0
    """How far answers to instructions with it lay above the mean of their search, in standard deviations of reward."""


def sentences(text: str) -> list[str]:
    """Split at line breaks, and at marks that end a sentence and that a space follows, but for a small letter behind.

    >>> sentences("How do I brew green tea? Use 3.5 cups, e.g. of milk. Leave nothing out.")
    ['How do I brew green tea?', 'Use 3.5 cups, e.g. of milk.', 'Leave nothing out.']
    """
    found = re.split(r"(?<=[.?!…])\s+(?![a-z])|(?<=[。！？])|\n+", text)
    return [sentence.strip() for sentence in found if sentence.strip()]


def with_clauses(instruction: str, clauses: Sequence[str]) -> str:
    r"""Add sentences: on a line of their own where the text has lines or no end mark, so that they stay sentences.

    >>> with_clauses("How do I brew green tea?", ["Be kind.", "Leave nothing out."])
    'How do I brew green tea? Be kind. Leave nothing out.'
    >>> with_clauses("Green tea", ["Be kind."])
    'Green tea\nBe kind.'
    """
    text = instruction
    for index, clause in enumerate(clauses):
        gap = "\n\n" if not index and "\n" in instruction else " " if _ENDED.search(text) else "\n"
        text = f"{text.rstrip()}{gap}{clause}"
    return text


def write_clauses(file: str | Path, clauses: Iterable[Clause], **about: Json) -> None:
    """Save clauses as JSON, beside further fields that describe them."""
    data = {**about, "clauses": [clause.model_dump() for clause in clauses]}
    Path(file).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_clauses(file: str | Path) -> tuple[Clause, ...]:
    """Read clauses that :func:`write_clauses` saved.

    Raises:
        ConfigError: there is no such file, or it contains no clauses.
    """
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as clauses: {error}") from error
    found = data.get("clauses") if isinstance(data, dict) else None
    if not (isinstance(found, list) and found and all(isinstance(one, dict) for one in found)):
        raise ConfigError(f"{file} contains no clauses: write it by write_clauses(file, learn_clauses(results))")
    return tuple(Clause(**clause) for clause in found)
