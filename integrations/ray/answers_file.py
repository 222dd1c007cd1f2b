"""Answers in parquet: one row a prompt, with the columns of a local run's lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from darwin_align.batch import Index

__all__ = ["SCHEMA", "failure_row", "opened", "read_answers", "rows_of", "table_of"]

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("answer", pa.string()),
        ("thoughts", pa.string()),  # null where the model has none
        ("tool_calls", pa.string()),  # JSON: the shape of arguments is each tool's own
        ("invalid_tool_calls", pa.string()),
        ("finish_reason", pa.string()),
        ("reward", pa.float64()),
        ("first_reward", pa.float64()),
        ("instruction", pa.string()),
        ("seed", pa.int64()),
        ("usage", pa.struct([(n, pa.int64()) for n in ("decoded_tokens", "policy_calls", "reward_calls")])),
        ("stop_reason", pa.string()),
        ("failure", pa.string()),
        ("input", pa.string()),
        ("fingerprint", pa.string()),
        ("line", pa.int64()),
        ("error", pa.string()),  # why there is no answer; null where there is one
        ("kind", pa.string()),  # "bad" or "failed" beside an error
    ]
)
_AS_JSON = ("tool_calls", "invalid_tool_calls")
_OWN = ("line", "error", "kind")
"""Columns that a local run's answers do not have."""


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make a table of records, answers and failures."""
    plain = [
        {name: json.dumps(value, ensure_ascii=False) if name in _AS_JSON else value for name, value in row.items()}
        for row in rows
    ]
    return pa.Table.from_pylist(plain, schema=SCHEMA)


def failure_row(key: str, line: int, digest: str, kind: str, error: str) -> dict[str, Any]:
    """A row for a prompt without an answer."""
    return {"id": key, "line": line, "input": digest, "kind": kind, "error": error}


def opened(path: Path) -> pq.ParquetFile | None:
    """Open a file of answers; ``None`` if it is torn, for a kill left it unfinished.

    Raises:
        OSError: it cannot be read. Its content may well be complete.
    """
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid:
        return None
    except OSError as error:
        if error.errno is not None:
            raise
        return None  # an error of Arrow's about the file's content


def rows_of(folder: Path, beside: Container[str] = ()) -> Iterator[dict[str, Any]]:
    """All rows of a folder's files, answers and failures. A file that a kill left unfinished has no rows.

    Args:
        folder: of parquet files.
        beside: names of files to leave out.

    Raises:
        OSError: a file cannot be read.
    """
    for path in sorted(path for path in folder.glob("*.parquet") if path.name not in beside):
        if (file := opened(path)) is None:
            logger.warning("%s is not whole: its prompts have no answer until the job goes on", path)
            continue
        with file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()


def read_answers(out: str | Path) -> Iterator[dict[str, Any]]:
    """Read the answers of a job, each as the line of a local run has it.

    Args:
        out: the job's folder.
    """
    met = Index()  # Ray may do a piece of work twice when a machine is lost
    try:
        for row in rows_of(Path(out) / "answers"):
            if row["error"] is None and met.add_answer(row["id"], row["input"]):
                yield _record(row)
    finally:
        met.close()


def _record(row: dict[str, Any]) -> dict[str, Any]:
    optional = (*_AS_JSON, "failure", "thoughts")
    kept = {name: value for name, value in row.items() if name not in _OWN}
    kept = {name: value for name, value in kept.items() if value is not None or name not in optional}
    return {name: json.loads(value) if name in _AS_JSON else value for name, value in kept.items()}
