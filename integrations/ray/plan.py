"""The plan of a job: the prompts without an answer, in files of parts that workers read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from darwin_align.batch import Errors, Fields, Index, Prompt, check_row, prompts, refuse_orphaned_answers
from darwin_align.integrations.ray.answers_file import opened, rows_of

__all__ = ["Plan", "read_part"]


class Plan:
    """One run's work, made by one pass over the source; memory does not grow with it.

    Args:
        out: the job's folder.
        source: what :func:`darwin_align.batch.run_batch` takes.
        names: other names of the rows' fields.
        rows_per_part: prompts that one worker answers at a time; what a kill may cost.
    """

    def __init__(self, out: Path, source: Any, names: Fields, rows_per_part: int) -> None:
        self.out, self.source, self.names, self.rows_per_part = out, source, names, rows_per_part
        self.parts: list[str] = []
        self.bad = self.answered = 0

    def make(self, index: Index, errors: Errors, *, accept_changes: bool) -> None:
        """Write the prompts without an answer into parts.

        Raises:
            ConfigError: the input lacks prompts that are answered.
        """
        folder = self.out / "plan"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for part in _pieces(self._unanswered(index, errors), self.rows_per_part):
            path = folder / f"part-{len(self.parts):06d}.parquet"
            pq.write_table(pa.table({"prompt": [json.dumps(asdict(prompt)) for prompt in part]}), path)
            self.parts.append(os.fspath(path.resolve()))
        if not accept_changes:
            refuse_orphaned_answers(index, self.out)

    def load(self, index: Index) -> None:
        """Add the prompts that have an answer to the index, and delete files that a kill left unfinished.

        Raises:
            OSError: a file cannot be read. It stays, for its answers may be whole and were paid for.
        """
        folder = self.out / "answers"
        for path in folder.glob("*.parquet"):
            if (file := opened(path)) is None:
                path.unlink()
            else:
                file.close()
        for row in rows_of(folder):
            if row["error"] is None and index.add_answer(row["id"], row["input"]):
                self.answered += 1

    def _unanswered(self, index: Index, errors: Errors) -> Iterator[Prompt]:
        for row in prompts(self.source, self.names):
            match check_row(row, index):
                case Prompt() as prompt:
                    yield prompt
                case dict() as error:
                    errors.append(error)
                    self.bad += 1


def read_part(path: str) -> list[Prompt]:
    """Read a part's prompts."""
    return [Prompt(**json.loads(text)) for text in pq.read_table(path).column("prompt").to_pylist()]


def _pieces(prompts: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    piece: list[Prompt] = []
    for prompt in prompts:
        piece.append(prompt)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece
