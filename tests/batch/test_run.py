"""Runs of a batch inside this process: what is answered, tried again, given up, and in which lines."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from darwin_align import DarwinChatModel, SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.batch import Fields, Stop, fingerprint, run_batch, settings_of
from darwin_align.batch.progress import Lines, Pace, reporting
from darwin_align.core import Request, Response
from darwin_align.core.errors import ConfigError, EndpointConnectionError
from darwin_align.operators.policy import Continuation, Row
from darwin_align.pocket import held_out
from darwin_align.pocket.pair import pocket_search
from darwin_align.search import DarwinSearch
from tests.batch.kit import by_key, read_lines, scripted, write_lines
from tests.test_reasoning import Thinker, count_good

PROMISED = {
    "id", "answer", "finish_reason", "reward", "first_reward", "instruction", "seed", "usage", "stop_reason", "input",
    "fingerprint",
}  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Change the color of a lamp.",
        "parameters": {
            "type": "object",
            "properties": {"room": {"type": "string"}, "color": {"type": "string"}},
            "required": ["room", "color"],
        },
    },
}


class Falters:
    """A scorer whose server is away while ``away`` is set."""

    def __init__(self, away: Any = False) -> None:
        self.away, self.scored = away, list[str]()

    def __call__(self, request: Request, responses: Sequence[Response]) -> list[float]:
        self.scored.append(request.instruction)
        if self.away is True or (self.away and request.instruction in self.away):
            raise EndpointConnectionError("nobody answers at http://127.0.0.1:9")
        return ScriptedScorer().score(request, responses)


def test_a_line_holds_what_is_promised(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    report = run_batch(scripted(), [{"prompt": "Hi", "id": "hello"}], out, seed=3)
    [line] = read_lines(out)
    assert line.keys() == PROMISED
    assert line["usage"].keys() == {"decoded_tokens", "policy_calls", "reward_calls"}
    assert line["id"] == "hello"
    alone = scripted().invoke("Hi", seed=line["seed"])
    assert (line["answer"], line["reward"], line["instruction"]) == (alone.text, alone.reward, alone.instruction)
    assert (line["first_reward"], line["stop_reason"]) == (alone.first_response.reward, alone.stop_reason)
    assert line["fingerprint"] == fingerprint(settings_of(scripted(), 3))
    assert (report.answered, report.new, report.code, report.usage.decoded_tokens) == (
        1,
        1,
        0,
        alone.usage.decoded_tokens,
    )
    assert not report.errors.exists()


def test_thoughts_stand_beside_the_answer(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    search = scripted(Thinker(stops=True, length=24), count_good, max_new_tokens=30)
    run_batch(search, [{"prompt": "Hi"}], out, seed=3)
    [line] = read_lines(out)
    alone = search.invoke("Hi", seed=line["seed"])
    assert line["thoughts"]
    assert (line["answer"], line["thoughts"]) == (alone.text, alone.thoughts)
    assert line.keys() == PROMISED | {"thoughts"}


def test_seeds_follow_from_the_runs_seed_and_the_key(tmp_path: Path) -> None:
    def seeds(name: str, source: list[Any], **how: Any) -> dict[str, int]:
        run_batch(scripted(), source, tmp_path / name, **how)
        return {line["id"]: line["seed"] for line in read_lines(tmp_path / name)}

    source = [{"prompt": "x", "id": i} for i in "abc"]
    plain = seeds("plain", source)
    assert len(set(plain.values())) == 3
    assert seeds("turned", source[::-1]) == plain
    assert seeds("other", source, seed=1) != plain
    own = [{"prompt": "x", "id": "a", "seed": 7}, {"prompt": "x", "id": "b", "settings": {"seed": 7}}]
    assert seeds("own", own) == {"a": 7, "b": 7}


def test_a_models_own_seed_is_the_runs(tmp_path: Path) -> None:
    run_batch(scripted(seed=5), ["x"], tmp_path / "own")
    run_batch(scripted(), ["x"], tmp_path / "given", seed=5)
    assert read_lines(tmp_path / "own")[0]["seed"] == read_lines(tmp_path / "given")[0]["seed"]


def test_settings_of_a_line_hold_for_it_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    source = [{"prompt": "x"}, {"prompt": "x", "settings": {"cycles": 0, "max_tokens": 3}}]
    run_batch(scripted(), source, out, concurrency=1)
    first, second = read_lines(out)
    assert len(first["answer"].split()) == 12
    assert (len(second["answer"].split()), second["finish_reason"]) == (3, "length")
    assert second["usage"]["policy_calls"] == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "x", "settings": {"cycles": -1}}, "cycles = -1 is refused"),
        ({"prompt": "x", "settings": {"survivors": 2}}, "must be fewer than the beams"),
        ({"prompt": "x", "tool_choice": "any"}, "there are no tools"),
        ({"prompt": "x", "tools": "heat"}, "cannot make a tool"),
        ({"prompt": "x", "tools": [TOOL]}, "has no tool_syntax to read tool calls with"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "ends with an AI"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no human message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "robot"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "tool_call_id"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"function": 5}]}]},
            "",
        ),
    ],
)
def test_rows_that_no_search_takes_are_bad_and_the_rest_goes_on(tmp_path: Path, row: Any, says: str) -> None:
    report = run_batch(scripted(), [row, "fine"], tmp_path / "out.jsonl")
    assert (report.bad, report.failed, report.new, report.code) == (1, 0, 1, 1)
    [error] = read_lines(report.errors)
    assert (error["line"], error["kind"]) == (1, "bad")
    assert says in error["reason"]
    assert error["reason"]


def test_bad_lines_are_reported_with_their_numbers(tmp_path: Path) -> None:
    lines = [b'{"prompt": "one"}\n', b"\n", b"nonsense\n", {"prompt": 5, "id": "five"}, {"prompt": "two"}]
    out = tmp_path / "out.jsonl"
    report = run_batch(scripted(), write_lines(tmp_path / "in.jsonl", lines), out)
    assert report.errors == tmp_path / "out.errors.jsonl"
    errors = read_lines(report.errors)
    assert [(error["line"], error.get("id"), error["kind"]) for error in errors] == [
        (3, None, "bad"),
        (4, "five", "bad"),
    ]
    assert [line["id"].partition("-")[0] for line in read_lines(out)] == ["1", "5"]


def test_the_first_of_two_same_ids_is_answered(tmp_path: Path) -> None:
    source = [
        {"prompt": "one", "id": "x"},
        {"prompt": "two", "id": "x"},
        {"prompt": "one", "id": 3},
        {"prompt": "y", "id": "3"},
    ]
    for _ in range(2):
        report = run_batch(scripted(), source, tmp_path / "out.jsonl")
        errors = read_lines(report.errors)
        assert [(error["line"], error["id"]) for error in errors] == [(2, "x"), (4, "3")]
        assert "line 1 has the same id: give each prompt its own" in errors[0]["reason"]
    assert by_key(tmp_path / "out.jsonl").keys() == {"x", "3"}
    assert report.new == 0


def test_what_failed_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    out, source, scorer = tmp_path / "out.jsonl", ["one", "two", "three"], Falters(away={"two"})
    report = run_batch(scripted(scorer=scorer), source, out)
    assert (report.new, report.failed, report.code) == (2, 1, 1)
    [error] = read_lines(report.errors)
    assert (error["line"], error["kind"]) == (2, "failed")
    assert error["reason"] == "EndpointConnectionError: nobody answers at http://127.0.0.1:9"
    scorer.away, scorer.scored = False, []
    report = run_batch(scripted(scorer=scorer), source, out)
    assert (report.new, report.answered, report.failed, report.code) == (1, 3, 0, 0)
    assert set(scorer.scored) == {"two"}
    assert not report.errors.exists()


def test_an_answer_that_a_server_cut_short_is_none(tmp_path: Path) -> None:
    class Once(Falters):
        def __call__(self, request: Request, responses: Sequence[Response]) -> list[float]:
            self.away = len(self.scored) > 0
            return super().__call__(request, responses)

    report = run_batch(scripted(scorer=Once(), replacement_period=3), ["one"], tmp_path / "out.jsonl")
    assert (report.failed, report.new) == (1, 0)
    by_hand = scripted(scorer=Once(), replacement_period=3, on_failure="best_so_far")
    assert run_batch(by_hand, ["one"], tmp_path / "kept.jsonl").new == 1
    [line] = read_lines(tmp_path / "kept.jsonl")
    assert line["stop_reason"] == "failure: score"
    assert line["failure"] == "EndpointConnectionError: nobody answers at http://127.0.0.1:9"


def test_a_server_that_is_away_ends_the_run(tmp_path: Path) -> None:
    scorer = Falters(away=True)
    source = [f"prompt {i}" for i in range(100)]
    report = run_batch(scripted(scorer=scorer), source, tmp_path / "out.jsonl", give_up_after=5, concurrency=1)
    assert report.gave_up is not None
    assert "5 prompts failed in a row, the last with: EndpointConnectionError" in report.gave_up
    assert (report.failed, report.code) == (5, 1)
    scorer.away = {f"prompt {i}" for i in range(0, 100, 2)}  # now and then is not in a row
    report = run_batch(scripted(scorer=scorer), source, tmp_path / "out.jsonl", give_up_after=2, concurrency=1)
    assert (report.gave_up, report.failed, report.new) == (None, 50, 50)


def test_a_bug_of_an_operator_is_a_failure_and_reported(tmp_path: Path) -> None:
    def broken(request: Any, responses: Any) -> list[float]:
        raise TypeError("no number")

    report = run_batch(scripted(scorer=broken), ["one"], tmp_path / "out.jsonl")
    assert "TypeError: no number" in read_lines(report.errors)[0]["reason"]


class Recording(ScriptedPolicy):
    """A policy that knows how many prompts were under way at once."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way, self.most = set[str](), 0

    async def generate(self, rows: Sequence[Row]) -> list[Continuation]:  # type: ignore[override]
        names = {row.request.instruction for row in rows}
        self.under_way |= names
        self.most = max(self.most, len(self.under_way))
        for _ in range(5):
            await asyncio.sleep(0)
        self.under_way -= names
        return super().generate(rows)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_so_many_prompts_are_in_flight_at_most(tmp_path: Path, concurrency: int) -> None:
    policy = Recording()
    source = [f"prompt {i}" for i in range(40)]
    run_batch(scripted(policy=policy), source, tmp_path / "out.jsonl", concurrency=concurrency)
    assert 1 <= policy.most <= concurrency


def test_order_and_concurrency_do_not_matter(tmp_path: Path) -> None:
    source = [{"prompt": f"prompt {i}", "id": i} for i in range(60)]
    run_batch(scripted(), source, tmp_path / "one", concurrency=1)
    run_batch(scripted(), source[::-1], tmp_path / "sixteen", concurrency=16)
    assert by_key(tmp_path / "one") == by_key(tmp_path / "sixteen")


def test_the_embedded_pair_answers_alike_alone_and_in_company(tmp_path: Path) -> None:
    search = pocket_search(SearchConfig(cycles=1, mutations=2, max_new_tokens=40))
    source = held_out(5)
    run_batch(search, source, tmp_path / "one", concurrency=1)
    run_batch(search, source, tmp_path / "sixteen", concurrency=16)
    alone, together = ({line["id"]: line for line in read_lines(tmp_path / name)} for name in ("one", "sixteen"))
    assert alone.keys() == together.keys()
    for key, line in alone.items():
        for number in ("reward", "first_reward"):  # single precision: the last digits depend on the company
            assert together[key].pop(number) == pytest.approx(line.pop(number), abs=1e-4)
        assert together[key] == line


def test_tools_and_calls_in_openais_shape(tmp_path: Path) -> None:
    model = DarwinChatModel(cycles=1, max_tokens=60)
    history = [
        {"role": "user", "content": "Make the lamp in the hall green."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "abcdefghi",
                    "type": "function",
                    "function": {"name": "set_light", "arguments": '{"room": "hall", "color": "green"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "The lamp in the hall is green."},
        {"role": "user", "content": "Make the lamp in the kitchen blue."},
    ]
    source: list[Any] = [
        {"id": "call", "prompt": "Make the lamp in the kitchen blue.", "tools": [TOOL], "tool_choice": "set_light"},
        {"id": "history", "messages": history, "tools": [TOOL]},
        {"id": "plain", "prompt": "Make the lamp in the kitchen blue."},
    ]
    report = run_batch(model, source, tmp_path / "out.jsonl")
    assert report.code == 0, read_lines(report.errors)
    lines = {line["id"]: line for line in read_lines(tmp_path / "out.jsonl")}
    [call] = lines["call"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "set_light")
    assert json.loads(call["function"]["arguments"]) == {"room": "kitchen", "color": "blue"}
    assert lines["call"]["finish_reason"] == "tool_calls"
    assert lines["history"].keys() >= PROMISED
    assert "tool_calls" not in lines["plain"]


def test_a_chat_models_stop_texts_hold(tmp_path: Path) -> None:
    class Told(ScriptedPolicy):
        def generate(self, rows: Sequence[Row]) -> list[Continuation]:
            stops.update(row.request.stop for row in rows)
            return super().generate(rows)

    stops = set[tuple[str, ...]]()
    search = scripted(policy=Told())
    plain, stopping = DarwinChatModel(search=search), DarwinChatModel(search=search, stop=("three",))
    assert settings_of(plain, 0) != settings_of(stopping, 0)
    assert run_batch(stopping, ["Hi"], tmp_path / "a.jsonl").code == 0
    assert stops == {("three",)}
    stops.clear()
    assert run_batch(stopping, [{"prompt": "Hi", "stop": "four"}], tmp_path / "b.jsonl").code == 0
    assert stops == {("four",)}


def test_who_cannot_answer_a_batch_is_refused(tmp_path: Path) -> None:
    model = DarwinChatModel(search=scripted(), bypass=lambda messages: True)
    for wrong, says in ((model, "bypass= is not for batches"), (model.bind(seed=1), "not by a _ChatModelBinding")):
        with pytest.raises(ConfigError, match=says):
            run_batch(wrong, ["x"], tmp_path / "out.jsonl")  # type: ignore[arg-type]
    for how in ({"concurrency": 0}, {"give_up_after": 0}):
        with pytest.raises(ConfigError, match="1 at least"):
            run_batch(scripted(), ["x"], tmp_path / "out.jsonl", **how)
    assert list(tmp_path.iterdir()) == []


def test_settings_tell_every_part_of_a_search() -> None:
    recorded = settings_of(scripted().model_copy(update=dict.fromkeys(("decoder", "mutator", "selector"), print)), 0)
    assert recorded.keys() >= DarwinSearch.model_fields.keys() - {"name", "progress"}
    plain, grounded = (DarwinChatModel(search=scripted().model_copy(update={"grounded": g})) for g in (False, True))
    assert settings_of(plain, 0) != settings_of(grounded, 0)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"grounded": True}, "grounded=True is not enforced by ScriptedPolicy"),
        ({"grounded": "where_possible", "grounded_in": ["x"]}, "grounded='where_possible' is not enforced"),
        ({"grounded": "yes"}, "grounded"),
        ({"grounded_in": ["x"]}, "so give grounded=True as well"),
        ({"grounded": True, "grounded_in": "x"}, "grounded_in"),
        ({"grounded": True, "grounded_in": [5]}, "grounded_in"),
    ],
)
def test_a_row_that_cannot_be_grounded_is_bad(tmp_path: Path, row: Any, says: str) -> None:
    report = run_batch(scripted(), [{"prompt": "x", **row}, "fine"], tmp_path / "out.jsonl")
    assert (report.bad, report.new) == (1, 1)
    assert says in read_lines(report.errors)[0]["reason"]


def test_what_is_grounded_travels_with_the_row_and_false_goes_before_the_models_own(tmp_path: Path) -> None:
    class Copies(ScriptedPolicy):
        enforces_grounding = True

        def generate(self, rows: Sequence[Row]) -> list[Continuation]:
            requested.update((row.request.grounded, row.request.grounded_in) for row in rows)
            return super().generate(rows)

    requested = set[Any]()
    search = scripted(policy=Copies()).model_copy(update={"grounded": True})
    for row, wants in (
        ({}, (True, ())),
        ({"grounded": False}, (False, ())),
        ({"grounded": "where_possible", "grounded_in": ["Ann"]}, ("where_possible", ("Ann",))),
    ):
        requested.clear()
        assert run_batch(search, [{"prompt": "x", **row}], tmp_path / f"{wants[0]}.jsonl").code == 0
        assert requested == {wants}


def test_a_grounded_row_copies_its_values(tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]}
    tool = {"type": "function", "function": {"name": "set_timer", "description": "Set.", "parameters": parameters}}
    row = {"prompt": "Set a timer for 10 minutes.", "tools": [tool], "tool_choice": "set_timer", "grounded": True}
    rows = [row, {**row, "grounded_in": ["7"]}]
    report = run_batch(DarwinChatModel(cycles=1, max_tokens=60), rows, tmp_path / "out.jsonl", concurrency=1)
    assert report.code == 0, read_lines(report.errors)
    calls = [line["tool_calls"][0]["function"]["arguments"] for line in read_lines(tmp_path / "out.jsonl")]
    assert [json.loads(call) for call in calls] == [{"minutes": 10}, {"minutes": 7}]


def test_settings_read_the_same_in_another_process_and_folder() -> None:
    recorded = settings_of(pocket_search(), 0)
    assert "darwin_align/pocket/policy" in recorded["policy"]
    assert str(Path(__file__).parents[2]) not in json.dumps(recorded)

    def mine(request: Any, responses: Any) -> list[float]:
        return [0.0] * len(responses)

    search = DarwinSearch(policy=ScriptedPolicy(), scorer=mine)
    assert settings_of(search, 0) == settings_of(search, 0)
    assert settings_of(search, 0)["scorer"].startswith(f"<{mine.__qualname__}>")


def test_parquet_and_jsonl_give_the_same_lines(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"q": f"prompt {i}", "settings": {"cycles": i % 2}, "other": "x"} for i in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    names = Fields(prompt="q")
    report = run_batch(scripted(), tmp_path / "in.parquet", tmp_path / "a.jsonl", fields=names)
    run_batch(scripted(), write_lines(tmp_path / "in.jsonl", rows), tmp_path / "b.jsonl", fields=names)
    assert by_key(tmp_path / "a.jsonl") == by_key(tmp_path / "b.jsonl")
    assert (report.new, report.unused) == (10, ("other",))


@pytest.mark.slow
def test_memory_is_bounded_over_a_long_stream(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.batch.long_stream", str(tmp_path), "2000", "100000"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    short, long = json.loads(done.stdout)
    assert [short["new"], short["bad"], long["new"], long["bad"]] == [2, 1998, 100, 99_900]
    assert long["kilobytes"] - short["kilobytes"] < 16_000  # held, the rows alone are 60,000


def test_a_stream_is_gone_on_with_too(tmp_path: Path) -> None:
    data = b"".join(json.dumps({"prompt": f"prompt {i}"}).encode() + b"\n" for i in range(6))
    out = tmp_path / "out.jsonl"
    assert run_batch(scripted(), io.BytesIO(data[: len(data) // 2]), out).new == 3
    report = run_batch(scripted(), io.BytesIO(data), out)
    assert (report.new, report.answered) == (3, 6)


def stopping(stop: Stop, times: int) -> DarwinSearch:
    """A search that asks its run to stop, so often, when it first scores."""
    left = [times]

    async def score(request: Request, responses: Sequence[Response]) -> list[float]:
        while left[0]:
            left[0] -= 1
            stop.request()
        await asyncio.sleep(0.01)
        return [1.0] * len(responses)

    return scripted(scorer=score)


def stopped(tmp_path: Path, times: int) -> tuple[Any, list[Any]]:
    stop = Stop()
    source = [f"prompt {i}" for i in range(50)]
    report = run_batch(stopping(stop, times), source, tmp_path / "out.jsonl", concurrency=4, stop=stop)
    assert (report.interrupted, report.code) == (True, 130)
    return report, read_lines(tmp_path / "out.jsonl")


def test_requested_to_stop_it_finishes_what_is_in_flight(tmp_path: Path) -> None:
    report, lines = stopped(tmp_path, 1)
    assert 1 <= report.new == len(lines) <= 4


def test_requested_twice_it_drops_what_is_in_flight(tmp_path: Path) -> None:
    report, lines = stopped(tmp_path, 2)
    assert (report.new, report.failed, lines) == (0, 0, [])
    assert not report.errors.exists()


def test_requested_to_stop_when_all_is_done_is_no_interruption(tmp_path: Path) -> None:
    stop = Stop()
    report = run_batch(stopping(stop, 1), ["one"], tmp_path / "a.jsonl", stop=stop, concurrency=1)
    assert (stop.requested, report.new) == (True, 1)
    assert report.code == 130  # nobody looked whether there is more
    stop = Stop()
    report = run_batch(stopping(stop, 1), ["one"], tmp_path / "b.jsonl", stop=stop, concurrency=2)
    assert (stop.requested, report.new, report.code) == (True, 1, 0)


def test_an_interrupted_caller_leaves_a_file_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from darwin_align.batch import job

    def interrupted(run: Any) -> None:
        import threading

        from darwin_align.operators.portal import call

        thread = threading.Thread(target=lambda: call(run))
        thread.start()
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_batch(scripted(), ["one", "two"], tmp_path / "out.jsonl")
    monkeypatch.undo()
    assert run_batch(scripted(), ["one", "two"], tmp_path / "out.jsonl").new == 0


def test_progress_in_lines_tells_rate_and_what_is_left() -> None:
    now, said = [0.0], list[str]()
    lines = Lines(lambda: now[0], said.append)
    lines.begin(1000, 400)
    for _ in range(100):
        now[0] += 0.5
        lines.step(answered=True)
    lines.step(answered=False)
    lines.message("careful")
    assert said == [
        "batch: 1,000 prompts, 400 of them answered by earlier runs\n",
        "batch: 460 of 1,000 answered, 2 a second, about 270 s left\n".replace("270 s", "4 min"),
        "batch: careful\n",
    ]


def test_progress_of_a_stream_knows_no_total() -> None:
    now, said = [0.0], list[str]()
    lines = Lines(lambda: now[0], said.append)
    lines.begin(None, 0)
    now[0] = 31
    lines.step(answered=False)
    assert said[1] == "batch: 0 answered, 1 without, 0.032 a second\n"


def test_what_is_left_takes_whole_waves() -> None:
    """Sixteen prompts end together after 11 s: the four that are left take as long, not 2 s."""
    now, said = [0.0], list[str]()
    lines = Lines(lambda: now[0], said.append, concurrency=16)
    lines.begin(20, 0)
    now[0] = 31.0
    for _ in range(16):
        lines.step(answered=True)
    now[0] = 62.0
    lines.step(answered=True)
    assert [line.rpartition(", ")[2] for line in said[1:]] == ["about 62 s left\n", "about 58 s left\n"]
    now[0] = 0.0
    pace = Pace(16, lambda: now[0])
    assert pace.left(20) is None
    now[0] = 11.0
    for _ in range(16):
        pace.step()
    assert (pace.left(4), pace.left(17)) == (11.0, 22.0)
    now[0] = 15.0
    assert pace.left(4) == 7.0
    now[0] = 99.0
    assert pace.left(4) == 0.0


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with reporting(True) as reporter:
        reporter.begin(10, 4)
        reporter.step(answered=True)
        reporter.step(answered=False)
        reporter.message("careful")
    assert "careful" in screen.getvalue()
    assert "6/10" in screen.getvalue()
    assert "1 without an answer" in screen.getvalue()
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with reporting(True) as plain:
        assert isinstance(plain, Lines)
