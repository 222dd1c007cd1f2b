"""Which rows need an answer: the checks of every row, in local runs and in those on many machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darwin_align.batch.index import Index
from darwin_align.batch.prompt import Prompt
from darwin_align.batch.source import Read
from darwin_align.core.errors import ConfigError

__all__ = ["check_row", "error_record", "refuse_orphaned_answers"]


def check_row(row: Read, index: Index) -> Prompt | dict[str, Any] | None:
    """Return a row's prompt, or what is wrong with it as a line for the file of errors; ``None`` if it is answered.

    >>> from darwin_align.batch.source import prompts
    >>> index = Index()
    >>> rows = [{"prompt": "Hi", "id": "a"}, {"prompt": "Ho", "id": "a"}]
    >>> [type(check_row(row, index)).__name__ for row in prompts(rows)]
    ['Prompt', 'dict']
    """
    prompt = row.prompt
    if prompt is None:
        return error_record(row.line, row.key, row.reason)
    status = index.register_row(prompt.key, prompt.line)
    if status.first_line != prompt.line:
        reason = f"line {status.first_line} has the same id: give each prompt its own"
        return error_record(prompt.line, prompt.key, reason)
    if status.answered is None:
        return prompt
    if status.answered == prompt.digest:
        return None
    reason = "the output has an answer to another prompt of this id: give it another id, or another output"
    return error_record(prompt.line, prompt.key, reason)


def error_record(line: int, key: str | None, reason: str) -> dict[str, Any]:
    """A line for the file of errors: no run can answer this row."""
    return {"line": line, **({} if key is None else {"id": key}), "kind": "bad", "reason": reason}


def refuse_orphaned_answers(index: Index, output: Path) -> None:
    """Refuse an input that lacks prompts which the output answers, once all rows are registered.

    Raises:
        ConfigError: it does.
    """
    orphaned, first = index.answers_without_row()
    if orphaned:
        raise ConfigError(
            f"{output} holds {orphaned} answers to prompts that the input does not have (as {first!r}): lines "
            "were changed, moved or taken out since. Give the earlier input, another output, or accept the "
            "changes; prompts with an id of their own may move"
        )
