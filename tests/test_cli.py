"""The command line as a user meets it: in a process of its own, on the embedded pair."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from darwin_align.pocket import topics

QUESTION = "How do I brew green tea?"
QUICK = ["--preset", "sample"]


def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "darwin_align.cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_demo_json_holds_one_object_with_the_promised_keys() -> None:
    done = run("demo", QUESTION, "--json", "--seed", "3")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    promised = {"answer", "reward", "first_response", "first_reward", "gold", "first_gold", "cycles", "usage"}
    assert promised <= shown.keys()
    assert shown["reward"] >= shown["first_reward"]
    assert shown["cycles"] == 3
    assert shown["usage"]["decoded_tokens"] > 0
    again = json.loads(run("demo", QUESTION, "--json", "--seed", "3").stdout)
    assert again["answer"] == shown["answer"]


def test_demo_explains_the_method_on_one_screen() -> None:
    done = run("demo", QUESTION)
    assert done.returncode == 0, done.stderr
    for word in (
        "You asked",
        "A plain sample",
        "DARWIN's answer",
        "Gold",
        "Cycle 3",
        "took the text",
        "Won under",
        "seed 0",
    ):
        assert word in done.stdout
    assert "knows" not in done.stdout


def test_demo_says_so_when_it_does_not_know_the_topic() -> None:
    done = run("demo", "What is the capital of France?", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "everyday topics only" in done.stdout
    assert "gold" not in done.stdout.lower()


def test_demo_lists_its_topics() -> None:
    listed = run("demo", "--topics").stdout.splitlines()
    assert listed == [topic.task for topic in topics()]
    assert len(listed) >= 60


def test_chat_keeps_history_until_reset() -> None:
    done = run("chat", *QUICK, "--seed", "1", stdin=f"{QUESTION}\n{QUESTION}\n/reset\n{QUESTION}\n/quit\nnot read\n")
    assert done.returncode == 0, done.stderr
    parts = [part.split("[reward")[0].strip() for part in done.stdout.split("you>")]
    first, second, after_reset, third = parts[1:5]
    assert first == third  # forgotten
    assert after_reset == ""
    assert first != second  # the same question in another context
    assert done.stdout.count("[reward") == 3


def test_chat_as_json_lines() -> None:
    done = run("chat", *QUICK, "--json", "--seed", "1", stdin=f"{QUESTION}\n")
    assert [json.loads(line)["seed"] for line in done.stdout.splitlines()] == [1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo", "  "], "no text"),
        (["demo", "--preset", "darwn"], "did you mean 'darwin'?"),
        (["demo", "--policy", "somewhere"], "--policy and --reward go together"),
        (["demo", "--seed", "x"], "invalid int value"),
        (["dmeo"], "invalid choice"),
        ([], "required"),
    ],
)
def test_bad_input_exits_with_2_and_says_what_to_change(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_stops_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "darwin_align.cli", "demo", "--topics"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_model_exits_with_1(tmp_path: Path) -> None:
    done = run("demo", QUESTION, "--policy", str(tmp_path / "none"), "--reward", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "none" in done.stderr
    assert "Traceback" not in done.stderr
