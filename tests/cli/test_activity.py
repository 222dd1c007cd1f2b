"""Long runs show that they live: a line before anything heavy is imported, then a line now and then."""

import subprocess
import sys
from pathlib import Path

import pytest

from darwin_align.cli.activity import working
from darwin_align.pocket import reward_path
from tests import processes

FIRST = """
import os, sys

class Watched:
    encoding = "utf-8"
    def write(self, text):
        heavy = [name for name in ("torch", "transformers", "langchain_core") if name in sys.modules]
        sys.__stdout__.write(f"{heavy} {text}")
        sys.__stdout__.flush()
        os._exit(0)  # what follows is not looked at
    def flush(self): ...
    def isatty(self): return False

sys.stderr = Watched()
from darwin_align.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("demo --json --preset sample", "loading models …"),
        ("chat --json", "loading models …"),
        ("batch in.jsonl --out out.jsonl", "starting …"),
        ("check-scorer", "starting …"),
        ("eval alpaca_eval --prompts prompts.json --preset sample --set max_tokens=8", "starting …"),
        ("eval mt_bench --prompts questions.jsonl --preset sample --set max_tokens=8", "starting …"),
        ("eval world sample --n 1 --set max_tokens=8", "starting …"),
        ("eval pool log.jsonl", "starting …"),
    ],
)
def test_the_first_sign_comes_before_heavy_imports(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    (tmp_path / "prompts.json").write_text('[{"instruction": "Hi.", "dataset": "x"}]')
    (tmp_path / "questions.jsonl").write_text('{"question_id": 1, "category": "stem", "turns": ["a", "b"]}\n')
    command = [sys.executable, "-c", FIRST, *line.split()]
    done = subprocess.run(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.startswith(f"[] {says}"), done.stdout + done.stderr


def test_lines_go_on_with_the_newest_state(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darwin_align.cli.activity._QUIET_SECONDS", 0.01)
    shown = ""
    with working("searching") as update:
        update("step 3\n\x1b[31m")
        while shown.count("\n") < 3:
            shown += capsys.readouterr().err
    assert shown.startswith("searching …\n")
    assert r" s, step 3\n\x1b[31m" + "\n" in shown


def test_a_demo_of_ones_own_models_is_short_and_says_how_to_ask_for_more(tmp_path: Path) -> None:
    """The embedded folders as anybody's models."""
    from darwin_align.pocket import policy_path

    models = ["--policy", str(policy_path()), "--reward", str(reward_path()), "--threads", "1"]
    done = processes.run("-m", "darwin_align.cli", "demo", "How do I brew green tea?", *models, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("loading models …\n")
    assert "searching …\n" in done.stderr
    output = " ".join(done.stdout.split())
    assert "1 cycles" in output
    assert "cycles=1 mutations=3 replacement_period=32 max_new_tokens=96" in output
    assert "--preset darwin searches as long as the paper does" in output
