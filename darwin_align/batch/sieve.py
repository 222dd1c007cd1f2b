"""Which rows need an answer: the checks of every row, in local runs and in those on many machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darwin_align.batch.index import Index
from darwin_align.batch.prompt import Prompt
from darwin_align.batch.source import Read
from darwin_align.core.errors import ConfigError

__all__ = ["bad", "refuse_strangers", "sift"]


def sift(row: Read, index: Index) -> Prompt | dict[str, Any] | None:
    """Return a row's prompt, or what is wrong with it as a line for the file of errors; ``None`` if it is answered.

    >>> from darwin_align.batch.source import prompts
    >>> index = Index()
    >>> rows = [{"prompt": "Hi", "id": "a"}, {"prompt": "Ho", "id": "a"}]
    >>> [type(sift(row, index)).__name__ for row in prompts(rows)]
    ['Prompt', 'dict']
    """
    prompt = row.prompt
    if prompt is None:
        return bad(row.line, row.key, row.reason)
    met = index.meet(prompt.key, prompt.line)
    if met.first_line != prompt.line:
        return bad(prompt.line, prompt.key, f"line {met.first_line} has the same id: give each prompt its own")
    if met.answered is None:
        return prompt
    if met.answered == prompt.digest:
        return None
    reason = "the output has an answer to another prompt of this id: give it another id, or another output"
    return bad(prompt.line, prompt.key, reason)


def bad(line: int, key: str | None, reason: str) -> dict[str, Any]:
    """A line for the file of errors: no run can answer this row."""
    return {"line": line, **({} if key is None else {"id": key}), "kind": "bad", "reason": reason}


def refuse_strangers(index: Index, output: Path) -> None:
    """Refuse an input that lacks prompts which the output answers, once all rows were met.

    Raises:
        ConfigError: it does.
    """
    strangers, first = index.unmet()
    if strangers:
        raise ConfigError(
            f"{output} holds {strangers} answers to prompts that the input does not have (as {first!r}): lines "
            "were changed, moved or taken out since. Give the earlier input, another output, or accept the "
            "changes; prompts with an id of their own may move"
        )
