"""Nothing that users, models or servers wrote steers the terminal: attack strings through every command."""

import io
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from darwin_align import SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.cli import main
from darwin_align.core.terminal import PrintableFormatter, printable, printable_json
from darwin_align.search import DarwinSearch
from tests import processes
from tests.backends.endpoint.fixtures.wire import ReceivedRequest, wire
from tests.test_reasoning import Thinker, count_good

ATTACK = (
    "\x1b]0;owned\x07\x1b[31mred\x1b[0m \x9b31m \x7f \u202eevil\u2066 [/foo] [link=https://evil.example]here[/link]"
)
SHOWN = (
    r"\x1b]0;owned\x07\x1b[31mred\x1b[0m \x9b31m \x7f \u202eevil\u2066 [/foo] [link=https://evil.example]here[/link]"
)
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def attacking(*_: Any, **settings: Any) -> DarwinSearch:
    """A search in which every text is an attack: the policy's, the mutator's, and the names in messages."""
    return DarwinSearch(
        policy=ScriptedPolicy([ATTACK.replace(" ", "_"), "[/bold]"], length=6),
        scorer=ScriptedScorer(reward=lambda text: float(len(text))),
        mutator=lambda request, instruction, n, seed: [f"{ATTACK} {instruction} {i}" for i in range(n)],
        guard=None,
        config=SearchConfig(cycles=2, mutations=2, replacement_period=2, **settings),
    )


def failing(*_: Any, **__: Any) -> DarwinSearch:
    def score(request: Any, responses: Any) -> list[float]:
        raise RuntimeError(f"the server said {ATTACK}")

    return DarwinSearch(policy=ScriptedPolicy(), scorer=score, config=SearchConfig(on_failure="raise", cycles=0))


def check_clean(text: str) -> None:
    assert not STEERING.search(text), ascii(text)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")


def run(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, str, str]:
    try:
        code = main(line)
    except SystemExit as stop:
        code = int(stop.code or 0)
    shown = capsys.readouterr()
    check_clean(shown.out)
    check_clean(shown.err)
    return code, shown.out, shown.err


def test_the_demo_prints_markup_and_escapes_as_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darwin_align.cli.demo.build_search", attacking)
    code, out, _ = run(capsys, "demo", ATTACK)
    assert code == 0
    assert f"You asked: {SHOWN}" in out
    assert f"{SHOWN} {SHOWN} 0" in out  # a reworded instruction, in the table of a cycle
    assert "[/bold]" in out


def test_the_demo_as_json_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darwin_align.cli.demo.build_search", attacking)
    code, out, _ = run(capsys, "demo", ATTACK, "--json")
    assert code == 0
    shown = json.loads(out)
    assert shown["instruction"] == ATTACK
    assert "\x1b]0;owned\x07" in shown["answer"]


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]) -> None:
    monkeypatch.setattr("darwin_align.cli.chat.build_search", attacking)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ATTACK}\n/quit\n"))
    code, out, _ = run(capsys, "chat", *how)
    assert code == 0
    assert "owned" in out


def test_chat_and_demo_tell_thoughts_from_the_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SearchConfig(mutator="identity", mutations=3, cycles=1, replacement_period=4, max_new_tokens=30)
    search = DarwinSearch(policy=Thinker(stops=True, length=24), scorer=count_good, config=config)
    result = search.invoke("Hi", seed=3)
    for command in ("chat", "demo"):
        monkeypatch.setattr(f"darwin_align.cli.{command}.build_search", lambda *_, **__: search)
    for command in (("chat",), ("demo", "Hi")):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
        _, out, _ = run(capsys, *command, "--seed", "3")
        assert result.text in out
        assert f"{len(result.thoughts.split())} words of thoughts" in out
        monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
        _, out, _ = run(capsys, *command, "--seed", "3", "--json")
        shown = json.loads(out)
        assert (shown["answer"], shown["thoughts"]) == (result.text, result.thoughts)


def test_batch_tells_fields_failures_and_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darwin_align.cli.batch.build_search", failing)
    line = json.dumps({"prompt": ATTACK, "id": ATTACK, f"{ATTACK}\nbatch: all done": 1})
    (tmp_path / "in.jsonl").write_text(line + "\n")
    out_path = tmp_path / f"out {ATTACK[:25]}.jsonl"
    code, out, err = run(capsys, "batch", str(tmp_path / "in.jsonl"), "--out", str(out_path), "--give-up-after", "1")
    assert code == 1
    assert (
        r"batch: giving up: 1 prompts failed in a row, the last with: RuntimeError: the server said \x1b]0;owned" in err
    )
    assert r"Gave up: 1 prompts failed in a row, the last with: RuntimeError: the server said \x1b]0;owned" in out
    assert "\nbatch: all done" not in out


def test_check_scorer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"{ATTACK} {i}", "better": f"{ATTACK} no", "worse": "yes"} for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text("def score(request, responses):\n    return [-len(r.text) for r in responses]\n")
    for how in ((), ("--json",)):
        line = ("check-scorer", "--pairs", str(tmp_path / "pairs.jsonl"), "--reward", f"{tmp_path / 'mine.py'}:score")
        code, out, _ = run(capsys, *line, *how)
        assert code == 1
        assert "owned" in out


async def attack_back(asked: ReceivedRequest) -> Response:
    return JSONResponse({"error": {"message": ATTACK, "type": ATTACK[:10]}}, status_code=400)


def test_what_servers_say_of_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with wire(attack_back) as server:
        code, _, err = run(capsys, "check-scorer", "--url", server.url, "--judge", "--model", "m")
    assert code in (1, 2)
    assert "owned" in err


@pytest.mark.parametrize(
    "line",
    [
        ["demo", f"--{ATTACK.replace(' ', '')}"],
        [ATTACK],
        ["demo", "Hi.", "--preset", ATTACK],
        ["demo", "Hi.", "--set", f"{ATTACK}=1"],
        ["demo", "Hi.", "--reward", f"{ATTACK[:20]}.py:score"],
        ["demo", "Hi.", "--policy", ATTACK[:20], "--reward", ATTACK[:20]],
        ["batch", ATTACK, "--out", "out.jsonl"],
        ["check-scorer", "--pairs", ATTACK],
        ["eval", "world", ATTACK],
        ["eval", "alpaca_eval", "--prompts", ATTACK[:20]],
        ["eval", "mt_bench", "--name", f"/{ATTACK}", "--prompts", "{questions}"],
        ["serve", "--models", ATTACK],
        ["serve", "--host", ATTACK],
        ["serve", "--presets", ATTACK],
    ],
)
def test_errors_that_quote_what_was_given(line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question_id": 1, "category": "stem", "turns": ["a", "b"]}\n')
    code, _, err = run(capsys, *(str(questions) if text == "{questions}" else text for text in line))
    assert code in (1, 2)
    assert "owned" in err
    assert "Traceback" not in err


def test_an_unexpected_error_is_a_clean_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darwin_align.cli.demo.build_search", failing)
    code, _, err = run(capsys, "demo", "Hi.")
    assert code == 1
    assert r"RuntimeError: the server said \x1b]0;owned" in err


def test_logs_and_warnings_are_clean() -> None:
    script = f"""
import logging, darwin_align.cli.entry as entry
def run(arguments):
    logging.getLogger("darwin_align.search").warning("the server said %s", {ATTACK!r})
    return 0
entry.add_demo = lambda commands: commands.add_parser("demo").set_defaults(run=run)
raise SystemExit(entry.main(["demo"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"the server said {SHOWN}\n"
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "%s", (ATTACK,), None)
    assert PrintableFormatter().format(record) == SHOWN


def test_a_terminal_sees_the_spinner_and_no_attack() -> None:
    """On a real pseudo-terminal: rich draws, and none of the attack's sequences comes through."""
    script = """
import sys
from tests.cli.test_terminal import ATTACK, attacking
import darwin_align.cli.demo as demo
demo.build_search = attacking
from darwin_align.cli import main
raise SystemExit(main(["demo", ATTACK]))
"""
    mine, theirs = pty.openpty()
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TERM": "xterm-256color", "COLUMNS": "200"}
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(
        command,
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=root,
    )
    os.close(theirs)
    seen = b""
    while select.select([mine], [], [], 120)[0]:
        try:
            part = os.read(mine, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(mine)
    assert process.wait(60) == 0, seen
    text = seen.decode("utf-8")
    assert "searching" in text
    assert r"\x1b]0;owned\x07" in text.replace("\x1b[0m", "").replace("\x1b[1m", "")
    for sequence in ("\x1b]0;", "\x1b[31mred", "\x9b", "\u202e", "\x1b]8;"):
        assert sequence not in text, ascii(sequence)


def test_what_is_harmless_stays() -> None:
    text = "Grüße, 世界! 👩‍👩‍👧 naïve\ttab\nline שלום"
    assert printable(text) == text
    assert printable_json({"a": text}) == json.dumps({"a": text}, ensure_ascii=False)
    assert json.loads(printable_json([ATTACK, "\ud800"])) == [ATTACK, "\ud800"]
    assert printable("\ud800 \U000e0041") == r"\ud800 \U000e0041"


def test_output_that_the_encoding_lacks_is_escaped() -> None:
    script = """
import sys
from darwin_align.cli import main
sys.stdout.reconfigure(encoding="ascii")
raise SystemExit(main(["demo", "Grüße 世界", "--preset", "sample"]))
"""
    done = processes.run("-c", script)
    assert done.returncode == 0, done.stderr
    assert r"Gr\xfc\xdfe \u4e16\u754c" in done.stdout
