"""Models behind URLs on the command line: a real llama.cpp server has the policy, the reward model is local."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.servers.launch import Server
from darwin_align.cli import main
from darwin_align.pocket import policy_path, reward_path
from tests.batch.kit import read_lines, write_lines

SMALL = ["--preset", "best_of_n", "--set", "mutations=2", "--set", "max_tokens=24"]


def models(llama: Server) -> list[str]:
    policy = ["--policy-url", llama.url, "--policy-tokenizer", str(policy_path())]
    return [*policy, "--reward", str(reward_path()), "--threads", "1", *SMALL]


def test_batch_reaches_a_server_by_its_url(llama: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_lines(
        tmp_path / "in.jsonl", [{"prompt": "How do I brew green tea?", "id": str(i)} for i in range(3)]
    )
    out = tmp_path / "out.jsonl"
    line = ["batch", str(prompts), "--out", str(out), "--seed", "1", "--json", *models(llama)]
    assert main(line) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert json.loads(shown.out)["answered"] == 3
    assert shown.err.startswith("starting …\nloading models …\n")
    lines = read_lines(out)
    assert {line["id"] for line in lines} == {"0", "1", "2"}
    assert all(line["answer"] and line["reward"] >= line["first_reward"] for line in lines)
    settings = json.loads((tmp_path / "out.run.json").read_text())["settings"]
    assert settings["config"]["mutations"] == 2
    assert llama.url in settings["policy"]
    assert main([*line, "--set", "cycles=0"]) == 2  # other settings are not mixed into the file
    assert "was begun under other settings" in capsys.readouterr().err


def test_so_do_demo_and_chat(
    llama: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["demo", "How do I brew green tea?", "--json", "--seed", "1", *models(llama)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["usage"]["decoded_tokens"] <= 3 * 24
    assert shown["gold"] is None  # the policy is not the embedded one, as far as the command knows
    monkeypatch.setattr("builtins.input", reader())
    assert main(["chat", "--json", "--seed", "1", *models(llama)]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == shown["answer"]


def reader() -> Callable[[str], str]:
    lines = iter(["How do I brew green tea?", "/quit"])
    return lambda prompt: next(lines)
