"""Every documented command without the packages of its extra: it names the extra before anything is loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import processes

WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked} else super().find_spec(name, path, target)

assert not {blocked} & set(sys.modules)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
RUN = """
import runpy
sys.argv = ["program", *{arguments}]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
finally:
    if "torch" in sys.modules:
        sys.stderr.write("TORCH IS LOADED")
"""
EXTRAS = {
    "rich", "llguidance", "sklearn", "scipy", "matplotlib", "pyarrow", "fastapi", "starlette", "uvicorn", "openai",
    "prometheus_client", "ray", "langgraph", "langchain", "accelerate", "bitsandbytes", "langdetect",
}  # fmt: skip


def split(command: str) -> tuple[str, list[str]]:
    """The module that the command runs, and its arguments."""
    program, *arguments = command.split()
    return "darwin_align.cli" if program == "darwin-align" else f"darwin_align.integrations.{program}", arguments


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.parquet").write_bytes(b"PAR1")
    (tmp_path / "in.jsonl").write_text('{"prompt": "How do I brew green tea?"}\n')
    (tmp_path / "prompts.json").write_text('[{"instruction": "Hi.", "dataset": "x"}]')
    (tmp_path / "questions.jsonl").write_text('{"question_id": 1, "category": "stem", "turns": ["a", "b"]}\n')
    languages = {"key": 1, "prompt": "Hi.", "instruction_id_list": ["language:response_language"]}
    (tmp_path / "ifeval.jsonl").write_text(json.dumps({**languages, "kwargs": [{"language": "de"}]}) + "\n")
    return tmp_path


JUDGE = "--judge-url http://127.0.0.1:9 --judge-model m"


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("command", "blocked", "extra"),
    [
        ("darwin-align demo", "rich", "cli"),
        slow("darwin-align batch in.parquet --out out.jsonl", "pyarrow", "parquet"),
        slow("darwin-align batch in.jsonl --out out.jsonl --metrics-port 9", "prometheus_client", "metrics"),
        ("darwin-align serve", "fastapi", "serve"),
        slow("darwin-align serve", "uvicorn", "serve"),
        slow("darwin-align serve", "openai", "serve"),
        slow("darwin-align serve", "prometheus_client", "serve"),
        slow("openai_server", "fastapi", "serve"),
        slow("darwin-align eval pool log.jsonl", "scipy", "eval"),
        slow(f"darwin-align eval alpaca_eval --prompts prompts.json {JUDGE}", "scipy", "eval"),
        slow(f"darwin-align eval alpaca_eval --prompts prompts.json {JUDGE}", "sklearn", "eval"),
        slow(f"darwin-align eval mt_bench --prompts questions.jsonl {JUDGE}", "scipy", "eval"),
        slow("darwin-align eval ifeval ifeval.jsonl", "langdetect", "ifeval"),
        slow("ray in.jsonl --out answers", "ray", "ray"),
        slow("ray in.jsonl --out answers", "pyarrow", "ray"),
        ("langgraph.agent", "langchain", "langgraph"),
        slow("langgraph.agent", "langgraph", "langgraph"),
        slow("langgraph.graph", "langgraph", "langgraph"),
    ],
)
def test_a_missing_extra_is_named_before_anything_is_loaded(
    command: str, blocked: str, extra: str, folder: Path
) -> None:
    module, arguments = split(command)
    script = WITHOUT.format(blocked={blocked}) + RUN.format(arguments=arguments, module=module)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, timeout=300, check=False
    )
    assert done.returncode in (1, 2), done.stderr
    assert f"pip install 'darwin-align[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "TORCH IS LOADED" not in done.stderr
    assert "loading models" not in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "darwin-align --help",
        slow("darwin-align serve --help"),
        slow("ray --help"),
        slow("darwin-align check-scorer"),
        "darwin-align demo --json --preset sample",
        "darwin-align batch in.jsonl --out out.jsonl --set cycles=0",
    ],
)
def test_what_needs_no_extra_works_without_all_of_them(command: str, folder: Path) -> None:
    module, arguments = split(command)
    done = processes.run("-m", module, *arguments, cwd=folder, before=WITHOUT.format(blocked=EXTRAS))
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
def test_a_page_that_cannot_be_drawn_is_said_at_the_start(folder: Path) -> None:
    module, arguments = split("darwin-align eval world sample --n 1 --set max_tokens=8 --json")
    script = WITHOUT.format(blocked={"matplotlib"}) + RUN.format(arguments=arguments, module=module)
    done = processes.run("-c", script, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(
        "starting …\nthere will be no page.html: it takes matplotlib, pip install 'darwin-align[plots]'"
    )
    assert json.loads(done.stdout)
