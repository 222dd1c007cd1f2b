"""Processes that are killed, asked to end, or run beside each other: nothing is lost, and nothing is done twice."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darwin_align.pocket import held_out
from tests.batch.driver import run
from tests.batch.kit import by_key, finish, read_lines, start, write_lines
from tests.processes import Process

PROMPTS = 10
PAIR: list[object] = []
QUICK: list[object] = ["--scripted", 0]
SLOW: list[object] = ["--scripted", 0.05]


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[Any] = [
        {"prompt": prompt, "id": i} if i % 2 else {"prompt": prompt} for i, prompt in enumerate(held_out(PROMPTS))
    ]
    return write_lines(tmp_path_factory.mktemp("rows_file") / "in.jsonl", [*rows[:5], b"nonsense\n", *rows[5:]])


def uninterrupted(rows_file: Path, out: Path, model: list[object]) -> Path:
    code, _, err = finish(start(rows_file, "--out", out, "--concurrency", 3, model=model))
    assert code == 1, err  # one bad line
    assert len(by_key(out)) == PROMPTS
    return out


def kill_while_it_works(rows_file: Path, out: Path, model: list[object], rng: random.Random) -> int:
    """Kill the command at some moment after its first new answer, or before it."""
    before = out.stat().st_size if out.exists() else 0
    process = start(rows_file, "--out", out, "--concurrency", 3, model=model)
    early = rng.random() < 0.2
    while not early and process.poll() is None and (not out.exists() or out.stat().st_size <= before):
        time.sleep(0.002)
    time.sleep(rng.random() * (0.5 if early else 0.15))
    process.kill()
    return finish(process)[0]


def killed_and_gone_on(
    rows_file: Path, folder: Path, *, kills: int, seed: int, model: list[object], killed: list[object]
) -> None:
    """Kill runs, and see that they and one more write what an uninterrupted run writes."""
    rng, fewest, codes = random.Random(seed), 0, set()
    expected, out = uninterrupted(rows_file, folder / "whole.jsonl", model), folder / "out.jsonl"
    for _ in range(kills):
        codes.add(kill_while_it_works(rows_file, out, killed, rng))
        whole = out.read_bytes().count(b"\n") if out.exists() else 0
        assert whole >= fewest  # nothing is lost
        fewest = whole
        if rng.random() < 0.5 and whole and out.read_bytes().endswith(b"\n"):  # as if the kill had hit a write
            torn = by_key(expected).popitem()[1]
            with out.open("ab") as file:
                file.write(torn[: rng.randrange(1, len(torn) - 1)])
    code, _, err = finish(
        start(rows_file, "--out", out, "--concurrency", 1, model=model)
    )  # order and company do not matter
    assert code == 1, err
    assert by_key(out) == by_key(expected)  # byte for byte
    errors = [path.with_name(f"{path.stem}.errors.jsonl").read_bytes() for path in (out, expected)]
    assert errors[0] == errors[1]
    assert [error["line"] for error in read_lines(out.with_name("out.errors.jsonl"))] == [6]


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_killed_three_times_it_gives_the_lines_of_an_uninterrupted_run(
    rows_file: Path, tmp_path: Path, seed: int
) -> None:
    killed_and_gone_on(rows_file, tmp_path, kills=3, seed=seed, model=QUICK, killed=SLOW)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_so_does_the_embedded_pair_killed_ten_times(rows_file: Path, tmp_path: Path, seed: int) -> None:
    killed_and_gone_on(rows_file, tmp_path, kills=10, seed=seed, model=PAIR, killed=PAIR)


def scripted_input(tmp_path: Path, n: int = 200) -> Path:
    return write_lines(tmp_path / "in.jsonl", [{"prompt": f"prompt {i}"} for i in range(n)])


def await_sign(seen: Callable[[], object], process: Process) -> None:
    """Wait for a sign of what the process does, however long it takes to come so far."""
    while not seen():
        assert process.poll() is None, finish(process)
        time.sleep(0.005)


def start_held(rows_file: Path, out: Path, *arguments: object) -> tuple[Process, Path]:
    """A run whose first prompts are under way, and stay so until the file is removed."""
    hold = out.with_name("hold")
    hold.touch()
    process = start(rows_file, "--out", out, *arguments, model=[*QUICK, "--hold", hold])
    await_sign(hold.with_suffix(".reached").exists, process)
    return process, hold


STOPPING = "stopping after the prompts in flight"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_requested_to_end_it_finishes_what_is_in_flight(tmp_path: Path, number: int) -> None:
    out = tmp_path / "out.jsonl"
    process, hold = start_held(scripted_input(tmp_path), out, "--concurrency", 2)
    process.send_signal(number)
    await_sign(lambda: STOPPING in process.errors, process)
    hold.unlink()
    code, said, err = finish(process)
    assert code == 130, err
    assert err.count(STOPPING) == 1
    assert "Interrupted: run the same command again to go on" in said
    assert "Traceback" not in err
    begun = len(by_key(out))
    assert 1 <= begun <= 2
    code, said, err = finish(start(tmp_path / "in.jsonl", "--out", out, "--json", model=QUICK))
    assert code == 0, err
    report = json.loads(said)
    assert (report["answered"], report["new"], report["code"]) == (200, 200 - begun, 0)
    assert len(by_key(out)) == 200


def test_requested_twice_it_drops_what_is_in_flight(tmp_path: Path) -> None:
    process, _ = start_held(scripted_input(tmp_path), tmp_path / "out.jsonl")
    process.send_signal(signal.SIGINT)
    await_sign(lambda: STOPPING in process.errors, process)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, said, err = finish(process)
    assert code == 130, err
    assert "0 answered" in said
    assert "Traceback" not in err


def test_two_processes_on_one_output_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    first, _ = start_held(scripted_input(tmp_path), out)
    code, _, err = finish(start(tmp_path / "in.jsonl", "--out", out, model=QUICK))
    assert code == 2
    assert "another process is writing to" in err
    first.kill()
    finish(first)
    assert finish(start(tmp_path / "in.jsonl", "--out", out, model=QUICK))[0] == 0


def test_other_settings_end_with_2(tmp_path: Path) -> None:
    rows_file, out = scripted_input(tmp_path, 3), tmp_path / "out.jsonl"
    assert finish(start(rows_file, "--out", out, model=QUICK))[0] == 0
    code, _, err = finish(start(rows_file, "--out", out, model=[*QUICK, "--cycles", 2]))
    assert code == 2
    assert "config.cycles was 1 and is now 2" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{missing}", "--out", "{out}"], "there is no such file"),
        (["{rows_file}"], "--out"),
        (["{rows_file}", "--out", "{rows_file}"], "would be written over"),
        (["{rows_file}", "--out", "{out}", "--concurrency", "0"], "1 at least"),
        (["{rows_file}", "--out", "{out}", "--concurrency", "x"], "invalid int value"),
        (["{rows_file}", "--out", "{out}", "--id-field", "prompt"], "cannot both be called"),
        (["{rows_file}", "--out", "{folder}"], "is a folder"),
    ],
)
def test_bad_usage_ends_with_2(
    tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {
        "missing": tmp_path / "none",
        "rows_file": scripted_input(tmp_path, 2),
        "out": tmp_path / "o",
        "folder": tmp_path,
    }
    try:
        code = run(["--scripted", "0", "batch", *(word.format(**names) for word in arguments)])
    except SystemExit as left:  # argparse's way
        code = left.code
    said, err = capsys.readouterr()
    assert (code, said) == (2, ""), err
    assert says in err


def test_lines_by_a_pipe_and_words_at_the_end(tmp_path: Path) -> None:
    lines = '{"prompt": "one", "lang": "en"}\n{"prompt": 5}\n'
    code, said, err = finish(start("-", "--out", tmp_path / "out.jsonl", model=QUICK), lines)
    assert code == 1, err
    assert f"1 answered (1 by this run), 1 bad lines: {tmp_path / 'out.jsonl'}" in said
    assert f"Why not the others: {tmp_path / 'out.errors.jsonl'}" in said
    assert "Fields that were not read: lang" in said
    assert "batch: an unknown number of prompts" in err


def test_a_kill_leaves_no_lock_and_no_strangers_files(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    process = start(scripted_input(tmp_path), "--out", out, "--concurrency", 2, model=SLOW)
    await_sign(lambda: out.exists() and out.stat().st_size, process)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl", "out.run.json"}
