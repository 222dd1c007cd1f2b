"""A job's parts without a cluster: the plan, an actor's work, and what is read from its files."""

import json
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from darwin_align.batch import Errors, Fields, Index, run_batch
from darwin_align.core.errors import ConfigError
from darwin_align.integrations.ray import answer_on_ray, job, read_answers
from darwin_align.integrations.ray.__main__ import main
from darwin_align.integrations.ray.answers_file import rows_of
from darwin_align.integrations.ray.job import Answering
from darwin_align.integrations.ray.plan import Plan
from integrations.ray.tests.kit import away, scripted, two_cycles

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "Hm?"}]
ASKED: list[Any] = [
    "one",
    {"prompt": "two", "id": "zwei"},
    {"messages": TURNS, "settings": {"temperature": 0.3}},
    {"prompt": "four", "seed": 9},
    {"prompt": 5},
    {"prompt": "six", "id": "zwei"},
]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let actors work here, one after another."""

    class Remote:
        def __init__(self, function: Callable[..., Any]) -> None:
            self.remote = function

    def answer(parts: list[str], answers: Path, how: tuple[Any, ...], actors: int, needs: dict[str, Any]) -> None:
        actor = Answering(*how)
        for part in parts:
            pq.write_table(actor(pa.table({"part": [part]})), answers / f"{uuid.uuid4().hex}.parquet")

    monkeypatch.setattr(job.ray, "remote", lambda **needs: Remote)
    monkeypatch.setattr(job.ray, "get", lambda value: value)
    monkeypatch.setattr(job, "_answer", answer)


def local(tmp_path: Path, asked: list[Any]) -> dict[str, Any]:
    run_batch(scripted(), asked, tmp_path / "local.jsonl", seed=3)
    lines = map(json.loads, (tmp_path / "local.jsonl").read_bytes().splitlines())
    return {line["id"]: line for line in lines}


def told(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "errors.jsonl").read_bytes().splitlines()]


def test_answers_are_those_of_a_local_run(tmp_path: Path) -> None:
    report = answer_on_ray(scripted, ASKED, tmp_path / "out", seed=3, rows_per_part=3)
    assert (report.answered, report.new, report.bad, report.failed, report.code) == (4, 4, 2, 0, 1)
    assert {line["id"]: line for line in read_answers(tmp_path / "out")} == local(tmp_path, ASKED)
    assert [(line["line"], line["kind"]) for line in told(tmp_path / "out")] == [(5, "bad"), (6, "bad")]


def test_a_second_run_answers_what_is_new(tmp_path: Path) -> None:
    answer_on_ray(scripted, ASKED[:2], tmp_path / "out", seed=3)
    report = answer_on_ray(scripted, ASKED[:4], tmp_path / "out", seed=3)
    assert (report.answered, report.new, report.code) == (4, 2, 0)
    assert {line["id"]: line for line in read_answers(tmp_path / "out")} == local(tmp_path, ASKED)
    assert not (tmp_path / "out" / "errors.jsonl").exists()
    assert answer_on_ray(scripted, ASKED[:4], tmp_path / "out", seed=3).new == 0


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = answer_on_ray(away, ASKED[:4], out, seed=3)
    assert (report.new, report.failed) == (3, 1)
    assert told(out) == [
        {"line": 2, "id": "zwei", "kind": "failed", "reason": "EndpointConnectionError: nobody answers"}
    ]
    report = answer_on_ray(scripted, ASKED[:4], out, seed=3, accept_changes=True)
    assert (report.answered, report.new, report.code) == (4, 1, 0)
    assert {line["id"] for line in read_answers(out)} == local(tmp_path, ASKED).keys()


def test_a_search_that_cannot_take_a_prompt_makes_it_bad(tmp_path: Path) -> None:
    asked = [{"messages": [{"role": "system", "content": "x"}]}]
    report = answer_on_ray(scripted, asked, tmp_path / "out")
    assert (report.bad, report.failed) == (1, 0)
    assert "no human message" in told(tmp_path / "out")[0]["reason"]


def test_a_file_that_a_kill_left_unfinished_is_made_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer_on_ray(scripted, ASKED[:4], out, seed=3, rows_per_part=1)
    torn = sorted((out / "answers").iterdir())[2]
    torn.write_bytes(torn.read_bytes()[:200])
    assert len(list(read_answers(out))) == 3
    assert answer_on_ray(scripted, ASKED[:4], out, seed=3).new == 1
    assert {line["id"]: line for line in read_answers(out)} == local(tmp_path, ASKED)


def unreadable(monkeypatch: pytest.MonkeyPatch, path: Path, error: OSError) -> None:
    read = pq.ParquetFile

    def opened(asked: Path) -> Any:
        if asked.name == path.name:
            raise error
        return read(asked)

    monkeypatch.setattr(pq, "ParquetFile", opened)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), PermissionError(13, "Permission denied")])
def test_a_file_that_the_system_cannot_read_is_reported_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    out = tmp_path / "out"
    answer_on_ray(scripted, ASKED[:4], out, seed=3, rows_per_part=1)
    files = {path.name: path.read_bytes() for path in (out / "answers").iterdir()}
    with monkeypatch.context() as patched:
        unreadable(patched, out / "answers" / sorted(files)[1], error)
        with pytest.raises(type(error), match=error.strerror):
            answer_on_ray(scripted, ASKED[:4], out, seed=3)
        with pytest.raises(type(error), match=error.strerror):
            list(read_answers(out))
    assert {path.name: path.read_bytes() for path in (out / "answers").iterdir()} == files
    assert answer_on_ray(scripted, ASKED[:4], out, seed=3).new == 0


def test_what_arrow_cannot_make_sense_of_is_torn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    answer_on_ray(scripted, ASKED[:4], out, seed=3, rows_per_part=1)
    torn = sorted((out / "answers").iterdir())[0]
    data = torn.read_bytes()
    torn.write_bytes(data[:-300] + bytes(280) + data[-20:])  # a footer's middle: an OSError without a number
    assert len(list(read_answers(out))) == 3
    assert f"{torn.name} is not whole" in caplog.text
    assert answer_on_ray(scripted, ASKED[:4], out, seed=3).new == 1


def test_the_command_tells_of_an_unreadable_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answer_on_ray(scripted, ASKED[:1], out)
    unreadable(monkeypatch, next((out / "answers").iterdir()), OSError(5, "Input/output error"))
    monkeypatch.setattr(job.ray, "init", lambda **how: None)
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n')
    make = "integrations.ray.tests.kit:scripted"
    assert main([str(tmp_path / "in.jsonl"), "--out", str(out), "--make", make]) == 1
    assert "Input/output error" in capsys.readouterr().err


def test_work_done_twice_is_read_once(tmp_path: Path) -> None:
    answer_on_ray(scripted, ASKED[:4], tmp_path / "out")
    folder = tmp_path / "out" / "answers"
    (folder / "again.parquet").write_bytes(next(folder.iterdir()).read_bytes())
    assert len(list(rows_of(folder))) == 8
    assert len(list(read_answers(tmp_path / "out"))) == 4


def test_other_settings_and_inputs_are_refused(tmp_path: Path) -> None:
    answer_on_ray(scripted, ASKED[:4], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"config.cycles was 1 and is now 2"):
        answer_on_ray(two_cycles, ASKED[:4], tmp_path / "out")
    with pytest.raises(ConfigError, match="grounded was false and is now true"):
        answer_on_ray(lambda: scripted().model_copy(update={"grounded": True}), ASKED[:4], tmp_path / "out")
    with pytest.raises(ConfigError, match="seed was 0 and is now 4"):
        answer_on_ray(scripted, ASKED[:4], tmp_path / "out", seed=4)
    with pytest.raises(ConfigError, match="holds 3 answers to prompts that the input does not have"):
        answer_on_ray(scripted, ASKED[:1], tmp_path / "out")
    with pytest.raises(ConfigError, match="1 at least"):
        answer_on_ray(scripted, ASKED, tmp_path / "out", actors=0)


def test_two_jobs_on_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(*how: Any) -> None:
        with pytest.raises(ConfigError, match="another process is writing to"):
            answer_on_ray(scripted, ASKED, tmp_path / "out")

    monkeypatch.setattr(job, "_answer", inside)
    assert answer_on_ray(scripted, ["one"], tmp_path / "out").new == 0


def test_the_plan_has_the_unanswered_prompts_in_parts(tmp_path: Path) -> None:
    plan = Plan(tmp_path, [f"prompt {i}" for i in range(10)], Fields(), 4)
    plan.make(Index(), Errors(tmp_path / "errors.jsonl"), accept_changes=False)
    assert [pq.read_metadata(part).num_rows for part in plan.parts] == [4, 4, 2]
    plan.make(Index(), Errors(tmp_path / "errors.jsonl"), accept_changes=False)
    assert len(list((tmp_path / "plan").iterdir())) == 3


@pytest.mark.parametrize("make", ["nowhere:make", "darwin_align.batch:nothing", "", "darwin_align.batch"])
def test_a_model_that_cannot_be_made_ends_with_2(make: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["in.jsonl", "--out", str(tmp_path / "out"), "--make", make]) == 2
    assert "give MODULE:NAME of a function without arguments" in capsys.readouterr().err


def test_models_are_given_by_a_function_or_by_the_options_of_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "one"}\n')
    line = [str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out")]
    urls = ["--policy-url", "http://a:1", "http://b:1", "--reward-url", "http://c:1", "http://d:1"]
    assert main([*line, "--make", "integrations.ray.tests.kit:scripted", *urls]) == 2
    assert "--make gives the model and its settings: leave out --policy-url" in capsys.readouterr().err
    assert main([*line, "--policy-url", "http://a:1"]) == 2
    assert "--policy and --reward go together" in capsys.readouterr().err
    made: list[Any] = []

    def noted(make: Any, *_: Any, **__: Any) -> job.RayReport:
        made.append(pickle.loads(pickle.dumps(make))())  # noqa: S301 - our own
        return job.RayReport(tmp_path, 1, 1, 0, 0)

    monkeypatch.setattr(job.ray, "init", lambda **how: None)
    monkeypatch.setattr(job, "answer_on_ray", noted)
    assert main([*line, *urls, "--requests-in-flight", "99", "--set", "cycles=1"]) == 0
    [search] = made
    assert search.policy.endpoint.roots == ("http://a:1", "http://b:1")
    assert search.policy.endpoint.limits.concurrency == 99
    assert search.scorer.base_url == ("http://c:1", "http://d:1")
    assert search.config.cycles == 1
