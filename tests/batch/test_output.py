"""The files: torn lines, strangers' files, locks, settings."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darwin_align.batch import run_batch
from darwin_align.batch.index import Index
from darwin_align.batch.job import BatchReport, companion_paths
from darwin_align.batch.output import Answers, Errors
from darwin_align.batch.prompt import as_json
from darwin_align.core.errors import ConfigError
from tests.batch.kit import by_key, read_lines, scripted

ASKED = ["one", "two", {"prompt": "three", "id": "drei"}]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """An output that is done."""
    out = tmp_path / "whole" / "out.jsonl"
    assert run_batch(scripted(), ASKED, out).code == 0
    return out


def test_every_torn_last_line_is_taken_off_and_answered_anew(whole: Path) -> None:
    data = whole.read_bytes()
    kept = by_key(whole)
    last = data.rstrip(b"\n").rfind(b"\n") + 1
    for cut in {*range(last + 1, len(data), 9), len(data) - 1}:
        whole.write_bytes(data[:cut])
        report = run_batch(scripted(), ASKED, whole)
        assert (report.new, report.answered) == (1, 3)
        assert by_key(whole) == kept


@pytest.mark.parametrize(
    "content",
    [b"my notes", b"my notes\n", b'{"id": 5, "input": "x"}', b'{"id": 5, "input": "x"}\n', b"[]\n", b"\x00" * 9],
)
def test_a_strangers_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(content)
    with pytest.raises(ConfigError, match=r"out.jsonl, line 1 is no answer of a batch: give another output"):
        run_batch(scripted(), ASKED, out)
    assert out.read_bytes() == content
    assert list(tmp_path.iterdir()) == [out]


def test_a_broken_line_in_the_middle_is_reported(whole: Path) -> None:
    lines = whole.read_bytes().splitlines(keepends=True)
    whole.write_bytes(lines[0] + b'{"id": "half\n' + lines[2])
    with pytest.raises(ConfigError, match=r"line 2 is no answer of a batch.*its prompt is answered anew"):
        run_batch(scripted(), ASKED, whole)
    whole.write_bytes(lines[0] + lines[2])
    assert run_batch(scripted(), ASKED, whole).new == 1


def test_an_answer_that_is_there_twice_is_reported(whole: Path) -> None:
    lines = whole.read_bytes().splitlines(keepends=True)
    whole.write_bytes(b"".join([*lines, lines[1]]))
    with pytest.raises(ConfigError, match=r"line 4: '.*' is answered twice; take one line out"):
        run_batch(scripted(), ASKED, whole)


def test_two_at_once_are_refused_and_a_closed_one_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "out.jsonl"
    first = Answers(path)
    with pytest.raises(ConfigError, match=r"another process is writing to .*out.jsonl: wait for it to end"):
        Answers(path)
    with pytest.raises(ConfigError, match="another process"):
        run_batch(scripted(), ASKED, path)
    first.close()
    first.close()
    assert run_batch(scripted(), ASKED, path).code == 0


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"notes\n")
    with pytest.raises(ConfigError):
        run_batch(scripted(), ASKED, out)
    out.unlink()
    assert run_batch(scripted(), ASKED, out).code == 0


@pytest.mark.parametrize(
    ("changed", "seed", "says"),
    [
        ({"cycles": 2}, None, "config.cycles was 1 and is now 2"),
        ({}, 5, "seed was 0 and is now 5"),
        ({"scorer": lambda request, responses: [1.0] * len(responses)}, None, "scorer was .* and is now .*lambda"),
        ({"search": {"grounded": True}}, None, "grounded was false and is now true"),
    ],
)
def test_other_settings_are_refused_in_words(whole: Path, changed: dict, seed: int | None, says: str) -> None:
    data = whole.read_bytes()
    search = scripted(**{name: value for name, value in changed.items() if name != "search"})
    search = search.model_copy(update=changed.get("search"))
    with pytest.raises(ConfigError, match=rf"begun under other settings: {says}.*Give the earlier settings to go on"):
        run_batch(search, ASKED, whole, seed=seed)
    assert whole.read_bytes() == data
    assert run_batch(scripted(), ASKED, whole).code == 0


def test_settings_that_decide_no_answer_may_change(whole: Path) -> None:
    assert run_batch(scripted(on_failure="raise"), ASKED, whole, concurrency=1, give_up_after=1).code == 0


def test_changes_may_be_accepted_and_each_line_tells_its_settings(whole: Path) -> None:
    report = run_batch(scripted(cycles=2), [*ASKED, "four"], whole, accept_changes=True)
    assert (report.new, report.code) == (1, 0)
    prints = [line["fingerprint"] for line in read_lines(whole)]
    assert prints[0] == prints[1] == prints[2] != prints[3]
    assert run_batch(scripted(cycles=2), [*ASKED, "four"], whole).code == 0


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"schema": 1}'])
def test_answers_without_their_settings_are_refused(whole: Path, content: bytes | None) -> None:
    _, run_file = companion_paths(whole)
    run_file.unlink() if content is None else run_file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"out.run.json does not contain the settings that they were made under"):
        run_batch(scripted(), ASKED, whole)


def test_a_later_schema_is_refused(whole: Path) -> None:
    _, run_file = companion_paths(whole)
    run_file.write_text(json.dumps({**json.loads(run_file.read_text()), "schema": 2}))
    with pytest.raises(ConfigError, match="is of schema 2, this version reads 1"):
        run_batch(scripted(), ASKED, whole)


def test_an_input_that_lost_its_answered_lines_is_refused(whole: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"holds 2 answers to prompts that the input does not have.*lines were changed"
    ):
        run_batch(scripted(), ["one", "other"], whole)
    with pytest.raises(ConfigError, match="the input does not have"):
        run_batch(scripted(), ["new first line", *ASKED], whole)
    assert run_batch(scripted(), [*ASKED, "new last line"], whole).new == 1


def test_an_id_whose_prompt_changed_is_reported(whole: Path) -> None:
    report = run_batch(scripted(), ["one", "two", {"prompt": "changed", "id": "drei"}], whole)
    assert (report.bad, report.new) == (1, 0)
    [error] = read_lines(report.errors)
    assert error["line"] == 3
    assert "an answer to another prompt of this id" in error["reason"]


@pytest.mark.parametrize("sink", ["in.jsonl", "./in.jsonl", "in", ""])
def test_outputs_that_would_write_over_something_are_refused(tmp_path: Path, sink: str) -> None:
    for name in ("in.jsonl", "in.errors.jsonl"):
        (tmp_path / name).write_text('{"prompt": "x"}\n')
    source = "in.errors.jsonl" if sink == "in" else "in.jsonl"
    with pytest.raises(ConfigError, match=r"written over|is a folder"):
        run_batch(scripted(), tmp_path / source, tmp_path / sink)
    assert (tmp_path / source).read_text() == '{"prompt": "x"}\n'
    with pytest.raises(ConfigError, match=r"ends with .jsonl"):
        run_batch(scripted(), tmp_path / "in.jsonl", tmp_path / "out.parquet")


def test_lines_hold_for_readers_that_know_other_line_ends() -> None:
    text = as_json({"answer": "a\u2028b\u2029c\x85d\x0be"})
    assert text.splitlines() == [text]
    assert json.loads(text) == {"answer": "a\u2028b\u2029c\x85d\x0be"}


def test_half_a_surrogate_pair_in_an_answer_survives(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "out.jsonl")
    answers.append({"id": "a", "input": "b", "answer": "\ud83d"})
    answers.close()
    assert read_lines(tmp_path / "out.jsonl")[0]["answer"] == "\ud83d"


def test_errors_of_an_earlier_run_are_gone(tmp_path: Path) -> None:
    errors = Errors(tmp_path / "e.jsonl")
    errors.append({"line": 1})
    errors.close()
    Errors(tmp_path / "e.jsonl").close()
    assert not (tmp_path / "e.jsonl").exists()


def in_threads(work: Callable[[int], object], count: int = 4) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_errors_of_two_threads_are_all_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_now = os.open

    def slowly(*how: Any, **more: Any) -> int:
        time.sleep(0.02)
        return open_now(*how, **more)

    monkeypatch.setattr(os, "open", slowly)

    def append(number: int) -> None:
        time.sleep(number * 0.01)  # one opens while another writes
        errors.append({"line": number})

    errors = Errors(tmp_path / "e.jsonl")
    in_threads(append)
    errors.close()
    assert sorted(line["line"] for line in read_lines(tmp_path / "e.jsonl")) == [0, 1, 2, 3]


def test_bad_rows_of_two_threads_are_all_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows are found bad where they are read, others where they are answered."""

    class Slow(BatchReport):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name == "bad":
                time.sleep(0.01)
            return value

    monkeypatch.setattr("darwin_align.batch.job.BatchReport", Slow)
    unread, unanswered = {"prompt": 5}, {"prompt": "x", "settings": {"cycles": -1}}
    report = run_batch(scripted(), [unread, unanswered] * 10, tmp_path / "out.jsonl", concurrency=4)
    assert report.bad == len(read_lines(report.errors)) == 20


def test_the_index_knows_answers_rows_and_passes() -> None:
    index = Index()
    assert index.add_answer("a", "1")
    assert not index.add_answer("a", "1")
    assert index.register_row("b", 4) == (4, None)
    assert index.register_row("b", 9) == (4, None)
    assert index.answers_without_row() == (1, "a")
    assert index.add_answer("b", "2")
    index.begin_pass()
    assert index.register_row("b", 9) == (9, "2")
    assert index.answers_without_row() == (1, "a")
    index.close()
