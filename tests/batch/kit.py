"""What the tests of batches share."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core import SearchConfig
from darwin_align.search import DarwinSearch
from tests import processes

QUICK = {"cycles": 1, "mutations": 2, "mutator": "identity"}


def scripted(policy: Any = None, scorer: Any = None, **config: Any) -> DarwinSearch:
    parts = {"policy": policy or ScriptedPolicy(), "scorer": scorer or ScriptedScorer()}
    return DarwinSearch(**parts, config=SearchConfig(**{**QUICK, **config}))


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def by_key(path: Path) -> dict[str, bytes]:
    lines = path.read_bytes().splitlines(keepends=True)
    found = {json.loads(line)["id"]: line for line in lines}
    assert len(found) == len(lines), "a key is there twice"
    return found


def start(*arguments: object, model: Sequence[object] = ()) -> processes.Process:
    """The command in a process of its own, on the embedded pair in double precision, or on a scripted one."""
    return processes.Process("-m", "tests.batch.driver", *map(str, model), "batch", *map(str, arguments))


def finish(process: processes.Process, stdin: str | None = None) -> tuple[int, str, str]:
    out, err = process.communicate(stdin, timeout=300)
    return process.wait(0), out, err
