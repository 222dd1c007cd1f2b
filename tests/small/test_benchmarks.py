"""The programs that made the figures of the documentation, on two prompts of the real small pair."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import exploration, ifeval, prompts, real_tools
from darwin_align.small import INSTALL, is_installed, policy_path

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not is_installed(), reason=INSTALL)]
SHORT = ["--set", "max_tokens=8", "--set", "replacement_period=4"]


def written(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "prompts.jsonl", {"prompt": "How do I brew green tea?"}, {"prompt": "Name three birds."})


def test_prompts(file: Path, tmp_path: Path) -> None:
    out, results = tmp_path / "out", tmp_path / "prompts.json"
    prompts.main(["--file", str(file), *SHORT, "--n", "2", "--out", str(out), "--results", str(results)])
    found = json.loads(results.read_text())
    rows = prompts.markdown(found).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [text.partition(": ")[0] for text in prompts.METHODS]
    assert found["prompts"] == 2
    assert {"gold", "reward", "seconds", "guided"} <= found["methods"][-1]["means"].keys()


def test_ifeval(tmp_path: Path) -> None:
    row = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    file = written(
        tmp_path / "ifeval.jsonl", *({"key": n, "prompt": f"Name {n} birds, no commas.", **row} for n in (1, 2))
    )
    results = tmp_path / "ifeval.json"
    line = [str(file), *SHORT, "--n", "2", "--tokens", "48", "--out", str(tmp_path / "out"), "--results", str(results)]
    ifeval.main(line)
    found = json.loads(results.read_text())
    assert (found["prompts"], found["group_sizes"]["broken"]) == (2, 2)
    assert len(ifeval.markdown(found).splitlines()) == 2 + len(ifeval.METHODS)


def test_exploration(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "exploration.json"
    line = [str(file), "--policy", str(policy_path()), "--cycles", "1", "--max-new-tokens", "8", "--mutators", "auto"]
    exploration.main([*line, "--prompts", "2", "--out", str(out)])
    [row] = json.loads(out.read_text())["mutators"].values()
    assert row["places"] == 10
    assert row["distinct_on_topic"] > 8


def test_tools(tmp_path: Path) -> None:
    out = tmp_path / "tools.json"
    real_tools.main(["--n", "2", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert rows.keys() == {"household", "everyday"}
    assert all(tuple(row) == real_tools.COLUMNS for row in rows.values())
    assert rows["household"]["schema"]["right_tool"] > 0
