"""Batches over long streams, and the most memory that the process has held after each."""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from darwin_align.batch import run_batch
from tests.batch.kit import scripted


def rows(n: int) -> Iterator[Any]:
    for i in range(n):
        yield {"prompt": "x" * 300, "id": i} if i % 1000 == 0 else {"id": i, "prompt": 5, "other": "y" * 300}


def held(folder: str, n: int) -> dict[str, int]:
    report = run_batch(scripted(cycles=0), rows(n), Path(folder) / f"{n}.jsonl")
    return {
        "new": report.new,
        "bad": report.bad,
        "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps([held(sys.argv[1], int(n)) for n in sys.argv[2:]]))
