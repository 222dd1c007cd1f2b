"""The check of a GPU: its rehearsal on a CPU, and what it keeps of a section that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Check, run_section


@pytest.mark.slow
def test_a_dry_run_goes_through_every_section(tmp_path):
    file = tmp_path / "check.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--dry-run", "--out", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    report = json.loads(file.read_text())
    assert report["dry_run"]
    found = report["sections"]
    assert set(found) == {"device", *gpu_check.SECTIONS}
    assert all(section["rows"] and section["error"] is None for section in found.values())
    for row in found["equality"]["rows"]:
        assert (row["same_as_recompute"], row["same_as_generate"], row["same_search"]) == (4, 4, True)
    assert [row["passes"] for row in found["decode_1b"]["rows"]] == [6, 6]
    assert [row["prompts"] for row in found["search"]["rows"]] == [1, 2]


def test_a_dry_run_leaves_no_figures_among_the_results(capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main(["--dry-run", "--out", str(gpu_check.RESULTS / "gpu_check.json")])
    assert "a dry run measures nothing" in capsys.readouterr().err


def broken(check):
    yield {"value": 1}
    raise RuntimeError("CUDA error: an illegal memory access")


def dying(check):
    yield {"value": 1}
    os._exit(3)


def hanging(check):
    yield {"value": 1}
    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=True)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("section", "seconds", "error"),
    [(broken, 60, "an illegal memory access"), (dying, 60, "exit code 3"), (hanging, 2, "not done after its 2 s")],
)
def test_a_section_that_fails_keeps_its_rows(section, seconds, error):
    begun = time.monotonic()
    found = run_section(section, Check(dry=True), seconds)
    assert found["rows"] == [{"value": 1}]
    assert error in found["error"]
    assert time.monotonic() - begun < 50
