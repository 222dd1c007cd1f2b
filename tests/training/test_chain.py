"""The whole training from nothing, with three steps each: it runs to the end, measures, and ships nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from darwin_align.pocket import policy_path, reward_path

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_few_steps_run_the_whole_chain_and_ship_nothing(tmp_path: Path) -> None:
    shipped = {path: path.stat().st_mtime_ns for folder in (policy_path(), reward_path()) for path in folder.iterdir()}
    command = [sys.executable, "-m", "training", "--steps", "3", "--work", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1800)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert not metrics["passed"]  # nothing can be learned in three steps
    assert {"pair accuracy", "rewordings", "garbled sentences an answer"} <= metrics["figures"].keys()
    assert {path: path.stat().st_mtime_ns for path in shipped} == shipped
