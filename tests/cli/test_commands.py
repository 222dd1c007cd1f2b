"""The command line as a user meets it: in a process of its own, on the embedded pair.

One demo and what needs no model are fresh processes; the others are forked (tests/processes.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from darwin_align import SearchConfig
from darwin_align.cli.report import _method
from darwin_align.pocket import reward_path, topics
from tests import processes

QUESTION = "How do I brew green tea?"
QUICK = ["--preset", "sample"]
GOOD_PAIRS = [
    {
        "prompt": "How do I brew green tea?",
        "better": f"{opening} Boil fresh water in the kettle for the green tea.",
        "worse": f"{opening} Even a child knows this. Stop asking me such silly things.",
    }
    for opening in ("Here is how to brew green tea.", "Good choice, brewing green tea is a joy.")
]


def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return processes.run("-m", "darwin_align.cli", *arguments, stdin=stdin)


def run_fresh(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "darwin_align.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_demo_json_holds_one_object_with_the_promised_keys() -> None:
    done = run("demo", QUESTION, "--json", "--seed", "3", "--set", "cycles=1")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    promised = {"answer", "reward", "first_response", "first_reward", "gold", "first_gold", "cycles", "usage"}
    assert promised <= shown.keys()
    assert shown["reward"] >= shown["first_reward"]
    assert shown["cycles"] == 1
    assert shown["usage"]["decoded_tokens"] > 0


def test_demo_explains_the_method_on_one_screen() -> None:
    done = run_fresh("demo", QUESTION, "--set", "mutations=3", "--set", "max_tokens=64")
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
    listed = run_fresh("demo", "--topics").stdout.splitlines()
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


@pytest.mark.slow
def test_check_scorer_finds_the_embedded_reward_model_sane() -> None:
    done = run("check-scorer")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["Scorer check of LocalScorer: 40 pairs, seed 0", "passed (8 ok)"]
    assert "it knows nothing else" in lines[-1]
    assert max(map(len, lines)) <= 100


def test_check_scorer_as_json() -> None:
    done = run("check-scorer", "--json", "--seed", "3")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["passed"], shown["seed"], shown["pairs"]) == (True, 3, 40)
    assert shown["accuracy"]["share"] > 0.9
    assert [found["severity"] for found in shown["findings"]] == ["ok"] * 8
    assert all(found["sentence"] for found in shown["findings"])
    assert len(shown["outcomes"]) == 40


@pytest.mark.parametrize(("swapped", "code", "says"), [(False, 0, "passed"), (True, 1, "NOT PASSED")])
def test_check_scorer_on_pairs_of_ones_own(tmp_path: Path, swapped: bool, code: int, says: str) -> None:
    file = tmp_path / "mine.jsonl"
    sides = ("rejected", "chosen") if swapped else ("chosen", "rejected")
    rows = [{"prompt": row["prompt"], sides[0]: row["better"], sides[1]: row["worse"]} for row in GOOD_PAIRS * 6]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = run("check-scorer", "--pairs", str(file), "--reward", str(reward_path()))
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "Scorer check of LocalScorer: 12 pairs, seed 0"
    assert done.stdout.splitlines()[1].startswith(says)
    assert "it knows nothing else" not in done.stdout
    assert ("upside down" in done.stdout) is swapped


@pytest.mark.slow
def test_check_scorer_judges_another_model_by_the_general_pairs() -> None:
    done = run("check-scorer", "--reward", str(reward_path()))  # it knows nothing of them
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("Scorer check of LocalScorer: 24 pairs, seed 0\nNOT PASSED")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--pairs", "{missing}"], "cannot read pairs from {missing} (No such file or directory)"),
        (["--pairs", "{bad}"], "{bad}, line 1: the field 'worse' is missing"),
        (["--dialect", "tei"], "--dialect needs --url"),
        (["--model", "m"], "--model needs --url"),
        (["--tokenizer", "t"], "--tokenizer needs --url"),
        (["--api-key-env", "PATH"], "--api-key-env needs --url"),
        (["--judge"], "--judge needs --url"),
        (["--url", "http://x", "--reward", "{missing}"], "--reward is a local model and --url a remote one"),
        (["--url", "http://x", "--judge"], "--judge needs --model"),
        (["--url", "http://x", "--judge", "--model", "m", "--dialect", "tei"], "--dialect is for reward endpoints"),
        (["--url", "http://x", "--judge", "--model", "m", "--tokenizer", "t"], "--tokenizer is for reward endpoints"),
        (["--url", "http://x", "--api-key-env", "NO_SUCH_KEY"], "the environment variable NO_SUCH_KEY is not set"),
        (["--seed", "x"], "invalid int value"),
    ],
)
def test_check_scorer_refuses_bad_input_with_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x", "better": "y"}', encoding="utf-8")
    names = {"missing": tmp_path / "missing", "bad": tmp_path / "bad.jsonl"}
    done = run("check-scorer", *(argument.format(**names) for argument in arguments))
    assert done.returncode == 2, done.stdout + done.stderr
    assert says.format(**names) in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_check_scorer_says_which_pair_is_too_long(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    rows = [*GOOD_PAIRS, {"prompt": "Count.", "better": "one two " * 5000, "worse": "no"}]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = run("check-scorer", "--pairs", str(file))
    assert done.returncode == 2
    assert "reward model's context" in done.stderr
    assert "asked for pair 3 (Count.)" in done.stderr


def test_a_reader_that_stops_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "darwin_align.cli", "demo", "--topics"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_check_scorer_of_a_missing_model_exits_with_1(tmp_path: Path) -> None:
    done = run("check-scorer", "--reward", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "none" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_model_exits_with_1(tmp_path: Path) -> None:
    done = run("demo", QUESTION, "--policy", str(tmp_path / "none"), "--reward", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("preset", "says", "says_not"),
    [
        ("darwin", "take the text of one of them. Instructions that did better", "finished"),
        ("learned_clauses", "adds learned clauses to the instruction", "After every"),
        (
            "smc",
            "After every 40 tokens all beams are scored against the original instruction, and 'smc' says",
            "rewords",
        ),
    ],
)
def test_the_demo_explains_the_search_that_was_run(preset: str, says: str, says_not: str) -> None:
    description = _method(SearchConfig.preset(preset))
    assert says in description
    assert says_not not in description
