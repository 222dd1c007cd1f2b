"""The job on a cluster of this machine's two cores: killed, gone on with, and compared with a local run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from darwin_align.batch import run_batch
from darwin_align.pocket import held_out

pytestmark = pytest.mark.slow


def start(asked: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "darwin_align.integrations.ray", str(asked), "--out", str(out)]
    options = ["--rows-per-part", "2", "--concurrency", "2", "--seed", "3"]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *options], env={**os.environ, **quiet}, **pipes)  # noqa: S603


def test_killed_and_gone_on_with_it_gives_a_local_runs_answers(tmp_path: Path) -> None:
    from darwin_align.integrations.ray import read_answers
    from darwin_align.integrations.ray.__main__ import embedded

    asked, out = tmp_path / "in.jsonl", tmp_path / "out"
    asked.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in held_out(8)))
    killed = start(asked, out)
    while not list((out / "answers").glob("*.parquet")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    kept = {line["id"]: line for line in read_answers(out)}

    again = start(asked, out)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    answers = {line["id"]: line for line in read_answers(out)}
    assert f"8 answered ({8 - len(kept)} by this run)" in said
    assert kept.items() <= answers.items()

    run_batch(embedded(), asked, tmp_path / "local.jsonl", seed=3)
    lines = map(json.loads, (tmp_path / "local.jsonl").read_bytes().splitlines())
    assert answers == {line["id"]: line for line in lines}
