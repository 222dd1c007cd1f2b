"""``darwin-align eval`` as a user meets it, on the embedded pair: also killed, and gone on with."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers.launch import Server
from darwin_align import evaluation
from darwin_align.cli import main, parser
from darwin_align.cli.options import check_models, read_settings
from darwin_align.core.errors import ConfigError
from darwin_align.langchain.assignments import settings_of
from darwin_align.pocket import held_out, policy_path, reward_path
from tests import processes
from tests.evaluation.kit import judging, official, write_instructions, write_questions, write_references

PAGE = Path(evaluation.__file__).with_name("README.md")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a benchmark in this process, where the models are loaded once."""

    def run_here(*arguments: str | Path) -> Done:
        try:
            code = main(["eval", *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return run_here


def kill_midway(process: processes.Process, ledger: Path, lines: int, deadline: float = 300) -> bytes:
    """Kill the command without warning once so many lines are kept, and return what it had kept."""
    end = time.monotonic() + deadline
    try:
        while not ledger.exists() or ledger.read_bytes().count(b"\n") < 1 + lines:
            assert process.poll() is None, "it was through before it could be killed"
            assert time.monotonic() < end, "it keeps nothing"
            time.sleep(0.005)
    finally:
        process.kill()
        process.communicate()
    return ledger.read_bytes()


def check_resumed(run: Run, benchmark: str, tmp_path: Path, options: list[str | Path], total: int) -> None:
    """A run that is killed midway and run again gives what an uninterrupted one gives."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = run(benchmark, *options, "--out", whole)
    assert done.returncode == 0, done.stderr
    line = ["-m", "darwin_align.cli", "eval", benchmark, *map(str, options), "--out", str(cut)]
    kept = kill_midway(processes.Process(*line), cut / "answers.jsonl", max(1, total // 2))
    assert kept.count(b"\n") - 1 < total, "it was through before it was killed"
    again = run(benchmark, *options, "--out", cut)
    assert again.returncode == 0, again.stderr
    now = (cut / "answers.jsonl").read_bytes()
    assert now.startswith(kept[: kept.rfind(b"\n") + 1])  # nothing was lost
    keys = [json.loads(line)["key"] for line in now.decode().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == total  # nothing is there twice
    assert files(cut) == files(whole)


def files(out: Path) -> dict[str, Any]:
    """The official files, apart from times."""
    found = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    found.pop("answers.jsonl")
    return {name: re.sub(r'"tstamp": [\d.]+', "", path.read_text(encoding="utf-8")) for name, path in found.items()}


def embedded_instructions(path: Path, n: int) -> Path:
    """Questions that the embedded pair knows."""
    data = [{"dataset": "embedded", "instruction": text} for text in held_out(n)]
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.slow
def test_alpaca_eval_is_killed_and_gone_on_with(run: Run, tmp_path: Path) -> None:
    prompts = embedded_instructions(tmp_path / "prompts.json", 6)
    check_resumed(run, "alpaca_eval", tmp_path, ["--prompts", prompts, "--set", "cycles=1", "--concurrency", "2"], 6)


SCRIPTED = """
import sys, time
from pathlib import Path
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.evaluation.mt_bench import answer
from darwin_align.evaluation.official import questions
from tests.evaluation.kit import subject

class Slow(ScriptedPolicy):
    def generate(self, rows):
        time.sleep(0.02)
        return super().generate(rows)

answer(subject(Slow()), questions(sys.argv[1]), Path(sys.argv[2]), concurrency=3, progress=False)
"""


@pytest.mark.slow
def test_mt_bench_is_killed_again_and_again_and_gone_on_with(tmp_path: Path) -> None:
    prompts, whole, cut = write_questions(tmp_path / "questions.jsonl", 12), tmp_path / "whole", tmp_path / "cut"
    line = ["-c", SCRIPTED, str(prompts)]
    processes.run(*line, str(whole)).check_returncode()
    kept = b""
    for lines in (5, 15):
        now = kill_midway(processes.Process(*line, str(cut)), cut / "answers.jsonl", lines)
        assert now.startswith(kept[: kept.rfind(b"\n") + 1])
        kept = now
    processes.run(*line, str(cut)).check_returncode()
    now = (cut / "answers.jsonl").read_bytes()
    assert now.startswith(kept[: kept.rfind(b"\n") + 1])
    keys = [json.loads(line)["key"] for line in now.decode().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 24
    assert files(cut) == files(whole)


@pytest.mark.slow
def test_a_hundred_prompts_of_alpaca_eval_are_killed_and_gone_on_with(run: Run, tmp_path: Path) -> None:
    prompts = official("alpaca_eval_instructions.json")
    check_resumed(run, "alpaca_eval", tmp_path, ["--prompts", prompts, "--limit", "100"], 100)


@pytest.mark.slow
def test_the_80_questions_of_mt_bench_are_killed_and_gone_on_with(run: Run, tmp_path: Path) -> None:
    prompts = official("mt_bench_questions.jsonl")
    check_resumed(run, "mt_bench", tmp_path, ["--prompts", prompts, "--category-temperatures"], 160)


def test_alpaca_eval_with_a_judge_prints_its_figures(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the extra eval is not installed")
    prompts = embedded_instructions(tmp_path / "prompts.json", 6)
    with judging() as judge:
        options = ["--prompts", prompts, "--out", tmp_path / "out", "--set", "cycles=1", "--reference", "first"]
        options += ["--judge-url", judge.url, "--judge-model", "rule"]
        done = run("alpaca_eval", *options)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^win rate +\d+\.\d\d  \(standard error \d", done.stdout, re.MULTILINE), done.stdout
        assert "length_controlled_minimal" in done.stdout
        assert "note: the judge's prompt is our own" in done.stdout
        shown = json.loads(run("alpaca_eval", *options, "--json").stdout)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert shown == {"out": str(tmp_path / "out"), **results}
    assert shown["n_total"] == 6


def test_mt_bench_with_a_judge_prints_its_figures(run: Run, tmp_path: Path) -> None:
    prompts, right = write_questions(tmp_path / "questions.jsonl"), write_references(tmp_path / "gpt-4.jsonl")
    with judging() as judge:
        options = ["--prompts", prompts, "--out", tmp_path / "out", "--preset", "sample", "--references", right]
        done = run("mt_bench", *options, "--judge-url", judge.url, "--judge-model", "rule")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^score +\d+\.\d\d  \(95% ", done.stdout, re.MULTILINE), done.stdout
    assert "8 answers graded" in done.stdout
    assert "without a reference" not in done.stdout


def test_models_behind_urls_take_the_benchmark(run: Run, tmp_path: Path, llama: Server) -> None:
    """A policy on a real server with a local reward model; the same server judges, for which it is too simple."""
    prompts = embedded_instructions(tmp_path / "prompts.json", 2)
    options = ["--prompts", prompts, "--out", tmp_path / "out", "--preset", "best_of_n", "--set", "mutations=2"]
    options += ["--set", "max_tokens=60", "--policy-url", llama.url, "--policy-tokenizer", policy_path()]
    done = run("alpaca_eval", *options, "--reward", reward_path(), "--name", "remote")
    assert done.returncode == 0, done.stderr
    outputs = json.loads((tmp_path / "out" / "model_outputs.json").read_text(encoding="utf-8"))
    assert [one["generator"] for one in outputs] == ["remote", "remote"]
    assert all(one["output"] for one in outputs)
    judge = ["--judge-url", llama.url, "--judge-model", "policy", "--reference", "first", "--judge-mode", "text"]
    judged = run("alpaca_eval", *options, "--reward", reward_path(), "--name", "remote", *judge)
    verdicts = [json.loads(line) for line in (tmp_path / "out" / "judgments.jsonl").read_text().splitlines()][1:]
    assert all(one["reply"] for one in verdicts)
    if judged.returncode:  # both answers differ from the plain sample, and it babbles
        assert "verdicts can be read: is the judge a chat model that obeys?" in judged.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset", "darwn"], "did you mean 'darwin'?"),
        (["--set", "cycles"], "is no pair: write --set cycles=VALUE"),
        (["--set", "cycle=1"], "--set 'cycle' is unknown: did you mean 'cycles'?"),
        (["--set", "cycles=x"], "cycles"),
        (["--set", "seed=1"], "give --seed"),
        (["--set", "max_tokens=9", "--set", "max_new_tokens=8"], "max_new_tokens=… is given twice"),
        (["--policy", "somewhere"], "--policy and --reward go together"),
        (["--reward-url", "http://x"], "--policy and --reward go together"),
        (["--policy", "x", "--policy-url", "http://x"], "--policy is a local model and --policy-url a remote one"),
        (["--policy-model", "x"], "--policy-model needs --policy-url"),
        (["--reward-dialect", "x"], "--reward-dialect needs --reward-url"),
        (["--device", "cpu"], "--device needs --policy or --reward"),
        (["--api-key-env", "PATH"], "--api-key-env needs --policy-url or --reward-url"),
        (["--name", "a/b"], "leave out slashes"),
        (["--judge-model", "x"], "--judge-model needs --judge-url"),
        (["--judge-url", "http://x"], "--judge-url needs --judge-model"),
        (["--judge-url", "http://x", "--judge-model", "m", "--judge-api-key-env", "NO_KEY"], "NO_KEY is not set"),
        (["--judge-url", "http://x", "--judge-model", "m", "--hand-over"], "give one of them"),
        (["--package-python", "x"], "--package-python needs --hand-over"),
        (["--limit", "0"], "0 is none: give 1 or more"),
        (["--concurrency", "none"], "invalid"),
        (["--prompts", "{missing}"], "cannot read {missing}"),
    ],
)
@pytest.mark.parametrize("which", ["alpaca_eval", "mt_bench"])
def test_bad_input_is_refused_before_anything_is_loaded(
    run: Run, tmp_path: Path, which: str, arguments: list[str], says: str
) -> None:
    write = write_instructions if which == "alpaca_eval" else write_questions
    prompts = write(tmp_path / "prompts")
    given = [one.format(missing=tmp_path / "none") for one in arguments]
    check_refused(run(which, "--prompts", prompts, "--out", tmp_path / "out", *given), says, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["alpaca_eval", "--template", "x"], "--template needs --judge-url"),
        (["alpaca_eval", "--gamed", "x"], "--gamed needs --judge-url"),
        (["alpaca_eval", "--annotators-config", "x"], "--annotators-config needs --hand-over"),
        (["mt_bench", "--references", "{prompts}"], "are for a judge"),
        (["mt_bench", "--references", "{missing}"], "--references {missing}: there is no such file"),
        (["mt_bench", "--category-temperatures", "--set", "temperature=1"], "contradict each other"),
        (["mt_benc"], "invalid choice"),
        ([], "required"),
    ],
)
def test_bad_input_to_one_benchmark_is_refused(run: Run, tmp_path: Path, arguments: list[str], says: str) -> None:
    names = {"missing": tmp_path / "none", "prompts": write_questions(tmp_path / "questions.jsonl")}
    options = ["--prompts", str(names["prompts"]), "--out", str(tmp_path / "out")] if arguments else []
    check_refused(run(*(one.format(**names) for one in arguments), *options), says, tmp_path)


def check_refused(done: Done, says: str, tmp_path: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert says.format(missing=tmp_path / "none") in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_run_under_other_settings_is_refused_with_their_names(run: Run, tmp_path: Path) -> None:
    prompts = embedded_instructions(tmp_path / "prompts.json", 1)
    options = ["alpaca_eval", "--prompts", prompts, "--out", tmp_path / "out", "--name", "toy"]
    assert run(*options, "--preset", "sample").returncode == 0
    again = run(*options, "--preset", "best_of_n", "--seed", "1")
    assert again.returncode == 2
    for words in ("was begun under other settings", "seed was 0 and is now 1", "cycles was 0 and is now 1"):
        assert words in again.stderr


def test_a_program_that_is_not_there_is_said(run: Run, tmp_path: Path) -> None:
    prompts = embedded_instructions(tmp_path / "prompts.json", 1)
    options = ["alpaca_eval", "--prompts", prompts, "--out", tmp_path / "out", "--preset", "sample", "--hand-over"]
    options += ["--reference", "first", "--package-python"]
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\necho 'no module' >&2; exit 1\n", encoding="utf-8")
    bare.chmod(0o755)
    for python, says in (
        (bare, "cannot import alpaca_eval (no module)"),
        (tmp_path / "none", "cannot be run (No such"),
    ):
        done = run(*options, python)
        assert done.returncode == 2
        assert says in done.stderr


@pytest.mark.parametrize("does", ["", "c.parser()"], ids=["import", "options"])
def test_the_program_loads_no_model_code_before_its_options_are_known(does: str) -> None:
    heavy = ("torch", "transformers", "httpx", "langchain_core", "darwin_align.backends.endpoint")
    script = f"import sys, darwin_align.cli as c; {does}\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("which", ["alpaca_eval", "mt_bench"])
def test_what_the_figures_take_is_missed_before_anything_is_answered(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    write = write_instructions if which == "alpaca_eval" else write_questions
    options = ["--prompts", write(tmp_path / "prompts"), "--out", tmp_path / "out"]
    monkeypatch.setitem(sys.modules, "scipy", None)
    done = run(which, *options, "--judge-url", "http://127.0.0.1:9", "--judge-model", "m")
    check_refused(done, "pip install 'darwin-align[eval]'", tmp_path)


def test_every_file_that_is_no_code_is_in_the_wheel() -> None:
    root = Path(evaluation.__file__).parents[1]
    data = tomllib.loads((root.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packed = {path for pattern in data["package-data"]["darwin_align"] for path in root.glob(pattern)}
    folders = [root / "evaluation", root / "traces"]
    lying = {path for folder in folders for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    assert PAGE in lying
    assert lying <= packed


# -- the page with the paper's table


def page_commands() -> list[list[str]]:
    """Every row's command, with the page's shell variables filled in."""
    text = PAGE.read_text(encoding="utf-8")
    variables = dict(re.findall(r'^export (\w+)="(.*?)"$', text.replace("\\\n", " "), re.MULTILINE))
    found = re.findall(r"^\|[^|]+\| `(darwin-align eval [^`]+)` \|", text, re.MULTILINE)
    return [shlex.split(re.sub(r"\$(\w+)", lambda match: variables[match[1]], line)) for line in found]


def test_the_page_has_a_command_for_every_row_of_the_papers_table() -> None:
    assert len(page_commands()) == 17 + 6 + 3


@pytest.mark.parametrize("line", page_commands(), ids=lambda line: " ".join(line[3:])[-60:])
def test_every_command_of_the_page_is_understood(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = parser().parse_args(line[1:])
    read_settings(arguments)
    check_models(arguments)
    assert arguments.policy
    assert arguments.judge_url


def test_the_settings_of_a_row_are_the_papers() -> None:
    config, sampling = settings_of("darwin", ["cycles=3", "beams_per_mutation=2"])
    assert (config.mutations, config.beams, config.survivors, config.replacement_period) == (5, 10, 3, 40)
    assert (config.max_new_tokens, sampling.temperature, sampling.top_k) == (2048, 0.7, 40)
    assert settings_of("best_of_n", ["mutations=14"])[0].answers == 15
    with pytest.raises(ConfigError):
        settings_of("darwin", ["survivors=9"])


def test_no_key_is_saved_in_a_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the extra eval is not installed")
    monkeypatch.setenv("MY_JUDGE_KEY", "sk-very-secret")
    prompts = embedded_instructions(tmp_path / "prompts.json", 3)
    options = ["alpaca_eval", "--prompts", prompts, "--out", tmp_path / "out", "--preset", "best_of_n"]
    with judging() as judge:
        options += ["--judge-url", judge.url, "--judge-model", "rule", "--judge-api-key-env", "MY_JUDGE_KEY"]
        assert run(*options, "--reference", "first").returncode == 0
        assert judge.received
        assert {received.headers["authorization"] for received in judge.received} == {"Bearer sk-very-secret"}
    for folder, _, names in os.walk(tmp_path / "out"):
        for name in names:
            assert "sk-very-secret" not in (Path(folder) / name).read_text(encoding="utf-8")
