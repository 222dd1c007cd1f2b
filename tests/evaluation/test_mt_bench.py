"""MT-Bench: two turns in FastChat's format, each kept once it is done, and grades by a judge."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.core.errors import ConfigError, ContextLengthError, EndpointConnectionError
from darwin_align.evaluation.chat_judge import ChatJudge
from darwin_align.evaluation.mt_bench import TEMPERATURES, Conversation, answer
from darwin_align.evaluation.mt_grades import Grades, GradingPrompts, grade, rating, references
from darwin_align.evaluation.official import questions
from tests.backends.endpoint.fixtures.wire import ReceivedRequest, Wire, wire
from tests.evaluation.kit import (
    Dies,
    judging,
    official,
    stars,
    subject,
    verdict,
    write_questions,
    write_references,
)

pytest.importorskip("scipy", reason="the extra eval is not installed")


@pytest.fixture
def judge_server() -> Iterator[Wire]:
    with judging() as served:
        yield served


class Remembers(ScriptedPolicy):
    """Keeps its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def generate(self, rows: Any) -> Any:
        self.requests += [row.request for row in rows]
        return super().generate(rows)


def run(
    tmp_path: Path, policy: Any = None, *, n: int = 4, out: str = "out", **options: Any
) -> tuple[Conversation, ...]:
    settings = {name: options.pop(name) for name in ("seed", "cycles") if name in options}
    chosen = questions(write_questions(tmp_path / "questions.jsonl", n))
    return answer(subject(policy, **settings), chosen, tmp_path / out, progress=False, **options)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers(out: Path) -> list[dict[str, Any]]:
    return lines(out / "fastchat" / "data" / "mt_bench" / "model_answer" / "toy.jsonl")


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "tstamp"} for row in rows]


# -- answers


def test_the_official_questions_are_read() -> None:
    found = questions(official("mt_bench_questions.jsonl"))
    assert [one.id for one in found] == list(range(81, 161))
    assert all(len(one.turns) == 2 for one in found)
    assert Counter(one.category for one in found) == dict.fromkeys(TEMPERATURES, 10)


def test_answers_are_saved_as_fastchat_reads_them(tmp_path: Path) -> None:
    conversations = run(tmp_path)
    written = answers(tmp_path / "out")
    assert [set(row) for row in written] == [{"question_id", "answer_id", "model_id", "choices", "tstamp"}] * 4
    assert [row["question_id"] for row in written] == [81, 82, 83, 84]
    assert {row["model_id"] for row in written} == {"toy"}
    for row, one in zip(written, conversations, strict=True):
        assert row["choices"] == [{"index": 0, "turns": list(one.turns)}]
        assert re.fullmatch(r"[2-9A-HJ-NP-Za-km-z]{22}", row["answer_id"])
        assert isinstance(row["tstamp"], float)
    assert len({row["answer_id"] for row in written}) == 4
    data = tmp_path / "out" / "fastchat" / "data" / "mt_bench"
    assert questions(data / "question.jsonl") == questions(tmp_path / "questions.jsonl")


def test_the_second_turn_is_searched_in_the_context_of_the_first_answer(tmp_path: Path) -> None:
    policy = Remembers()
    conversations = run(tmp_path, policy)
    second = [request for request in policy.requests if len(request.conversation) > 1]
    assert second
    for request in second:
        one = next(c for c in conversations if c.question.turns[0] == request.conversation[0].text)
        assert [turn.role for turn in request.conversation] == ["user", "assistant", "user"]
        assert request.conversation[1].text == one.turns[0]
        assert request.instruction == one.question.turns[1]
    assert {request.conversation[0].text for request in second} == {f"Begin a text on {i}." for i in range(4)}


def test_each_category_has_fastchats_temperature_if_wanted(tmp_path: Path) -> None:
    policy = Remembers()
    run(tmp_path, policy, category_temperatures=True)
    used = {request.conversation[0].text: request.sampling.temperature for request in policy.requests}
    assert used == {f"Begin a text on {i}.": t for i, t in enumerate([0.7, 0.0, 0.0, 0.1])}
    plain = Remembers()
    run(tmp_path, plain, out="plain")
    assert {request.sampling.temperature for request in plain.requests} == {0.7}
    with pytest.raises(ConfigError, match="category_temperatures was true and is now false"):
        run(tmp_path)


@pytest.mark.parametrize("after", [1, 2, 3, 5, 7])
def test_a_run_that_broke_off_goes_on_to_the_same_file(tmp_path: Path, after: int) -> None:
    run(tmp_path, out="whole")
    with pytest.raises(EndpointConnectionError):
        run(tmp_path, Dies(after, EndpointConnectionError("gone")), concurrency=2)
    kept = (tmp_path / "out" / "answers.jsonl").read_bytes()
    run(tmp_path, concurrency=3)
    assert (tmp_path / "out" / "answers.jsonl").read_bytes().startswith(kept)
    keys = [row["key"] for row in lines(tmp_path / "out" / "answers.jsonl")[1:]]
    assert sorted(keys) == sorted(f"{q}:{turn}" for q in range(81, 85) for turn in (1, 2))
    assert without_times(answers(tmp_path / "out")) == without_times(answers(tmp_path / "whole"))


def test_a_first_turn_that_is_done_is_not_searched_again(tmp_path: Path) -> None:
    with pytest.raises(EndpointConnectionError):
        run(tmp_path, Dies(1, EndpointConnectionError("gone")), concurrency=1)
    assert [row["key"] for row in lines(tmp_path / "out" / "answers.jsonl")[1:]] == ["81:1"]
    policy = Remembers()
    run(tmp_path, policy)
    assert not any(
        len(request.conversation) == 1 and request.instruction == "Begin a text on 0." for request in policy.requests
    )


def test_a_conversation_that_does_not_fit_is_empty_and_said(tmp_path: Path) -> None:
    conversations = run(tmp_path, Dies(0, ContextLengthError("too long")))
    assert {one.turns for one in conversations} == {("", "")}
    assert {one.error for one in conversations} == {"too long"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"category": "math", "turns": ["a", "b"]}, "'question_id' is missing"),
        ({"question_id": 1, "turns": "ab"}, "'turns' is missing"),
        ({"question_id": 1, "turns": []}, "'turns' is missing"),
        ({"question_id": 1, "turns": ["a", " "]}, "'turns' is missing"),
        ({"question_id": True, "turns": ["a"]}, "'question_id' is missing"),
    ],
)
def test_questions_that_cannot_be_used_are_refused(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        questions(path)
    path.write_text('{"question_id": 1, "turns": ["a"]}\n' * 2, encoding="utf-8")
    with pytest.raises(ConfigError, match="question_id '1' is there twice"):
        questions(path)


# -- grades


def graded(tmp_path: Path, url: str, conversations: Any, **options: Any) -> Grades:
    return grade(conversations, ChatJudge(url, "org/judge"), tmp_path / "out", name="toy", progress=False, **options)


def judgments(tmp_path: Path) -> list[dict[str, Any]]:
    return lines(tmp_path / "out" / "fastchat" / "data" / "mt_bench" / "model_judgment" / "org_judge_single.jsonl")


@pytest.mark.parametrize("module", ["numpy", "scipy"])
def test_packages_of_the_figures_are_checked_before_the_judge_is_called(
    tmp_path: Path, judge_server: Wire, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    conversations = run(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"intervals need {module}.*pip install 'darwin-align\[eval\]'"):
        graded(tmp_path, judge_server.url, conversations)
    assert judge_server.received == []


def test_grades_are_the_judges_and_their_means_are_right(tmp_path: Path, judge_server: Wire) -> None:
    conversations = run(tmp_path)
    grades = graded(tmp_path, judge_server.url, conversations)
    expected = [[stars(text) for text in one.turns] for one in conversations]
    flat = [score for both in expected for score in both]
    assert grades.score == pytest.approx(sum(flat) / 8)
    assert grades.turns == pytest.approx({"1": sum(e[0] for e in expected) / 4, "2": sum(e[1] for e in expected) / 4})
    assert grades.categories == pytest.approx(
        {one.question.category: sum(both) / 2 for one, both in zip(conversations, expected, strict=True)}
    )
    assert grades.interval is not None
    assert grades.interval[0] <= grades.score <= grades.interval[1]
    assert (grades.n_graded, grades.unread) == (8, 0)
    rows = judgments(tmp_path)
    names = {"question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"}
    assert all(set(row) == names for row in rows)
    assert [(row["question_id"], row["turn"], row["score"]) for row in rows] == [
        (81 + i, turn, expected[i][turn - 1]) for i in range(4) for turn in (1, 2)
    ]
    assert {row["model"] for row in rows} == {"toy"}
    assert any("graded without a reference answer" in note for note in grades.notes)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert (results["score"], results["judge"]) == (grades.score, "org/judge")


def test_a_second_turn_is_graded_with_the_whole_conversation(tmp_path: Path, judge_server: Wire) -> None:
    [one] = run(tmp_path, n=1)
    graded(tmp_path, judge_server.url, [one])
    first, second = sorted((received.body["messages"][-1]["content"] for received in judge_server.received), key=len)
    for text in (one.question.turns[0], one.turns[0]):
        assert text in first
        assert text in second
    for text in (one.question.turns[1], one.turns[1]):
        assert text not in first
        assert text in second


def test_reference_answers_go_with_their_categories(tmp_path: Path, judge_server: Wire) -> None:
    conversations = run(tmp_path)
    right = references(write_references(tmp_path / "gpt-4.jsonl"))
    grades = graded(tmp_path, judge_server.url, conversations, right=right)
    for row in judgments(tmp_path):
        i = row["question_id"] - 81
        shown = [f"right {i} {word}" in row["user_prompt"] for word in ("one", "two")]
        assert shown == ([True, row["turn"] == 2] if i % 4 in (1, 2) else [False, False])
    assert not any("without a reference" in note for note in grades.notes)
    del right[83]
    with pytest.raises(ConfigError, match=r"lack question 83 \(coding\)"):
        graded(tmp_path, judge_server.url, conversations, right=right)


def write_fastchat_prompts(path: Path) -> Path:
    """Of the form of FastChat's judge_prompts.jsonl."""
    places = {
        "single-v1": "Q {question} A {answer}",
        "single-math-v1": "Q {question} R {ref_answer_1} A {answer}",
        "single-v1-multi-turn": "Q {question_1} A {answer_1} Q {question_2} A {answer_2}",
        "single-math-v1-multi-turn": "Q {question_1} R {ref_answer_1} {question_2} {ref_answer_2} A {answer_1} "
        "{answer_2}",
    }
    rows = [
        {"name": name, "type": "single", "system_prompt": "Be fair.", "prompt_template": text + " [[rating]]"}
        for name, text in places.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_prompts_of_fastchats_form_are_sent_as_they_are(tmp_path: Path) -> None:
    async def five(received: ReceivedRequest) -> Response:
        return JSONResponse({"choices": [{"message": {"content": "[[5]]"}}]})

    conversations = run(tmp_path)
    prompts = GradingPrompts.of(write_fastchat_prompts(tmp_path / "judge_prompts.jsonl"), "official")
    right = references(write_references(tmp_path / "gpt-4.jsonl"))
    with wire(five) as served:
        grades = graded(tmp_path, served.url, conversations, prompts=prompts, right=right)
        assert {received.body["messages"][0]["content"] for received in served.received} == {"Be fair."}
    rows = {(row["question_id"], row["turn"]): row for row in judgments(tmp_path)}
    math, said = conversations[1].question.turns, conversations[1].turns
    assert rows[82, 1]["user_prompt"] == f"Q {math[0]} R right 1 one A {said[0]} [[rating]]"
    assert rows[82, 2]["user_prompt"] == (
        f"Q {math[0]} R right 1 one {math[1]} right 1 two A {said[0]} {said[1]} [[rating]]"
    )
    assert rows[81, 1]["judge"] == ["org/judge", "single-v1"]
    assert rows[82, 2]["judge"] == ["org/judge", "single-math-v1-multi-turn"]
    assert (grades.score, grades.interval, grades.notes) == (5, (5, 5), ())
    with pytest.raises(ConfigError, match="prompts was"):
        graded(tmp_path, "http://127.0.0.1:1", conversations)  # our own prompts in the same folder


def test_a_file_without_the_prompts_is_refused(tmp_path: Path) -> None:
    path = write_fastchat_prompts(tmp_path / "judge_prompts.jsonl")
    path.write_text(path.read_text(encoding="utf-8").replace("single-math-v1-multi-turn", "pair"), encoding="utf-8")
    with pytest.raises(ConfigError, match="no prompt 'single-math-v1-multi-turn'"):
        GradingPrompts.of(path)


@pytest.mark.parametrize(
    ("judgment", "read"),
    [
        ("Good. Rating: [[8]]", 8),
        ("Rating: [[7.5]]", 7.5),
        ("[[3]] or rather [[4]]", 3),
        ("Rating: [6]", 6),
        ("[1] is cited, but [[9]]", 9),
        ("Rating: 7", -1),
        ("[[seven]]", -1),
        ("", -1),
    ],
)
def test_a_rating_is_read_as_fastchat_reads_it(judgment: str, read: float) -> None:
    assert rating(judgment) == read


def test_grades_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    async def shy(received: ReceivedRequest) -> Response:
        if received.number < 2:
            return JSONResponse({"choices": [{"message": {"content": "I would rather not say."}}]})
        return await verdict(received)

    conversations = run(tmp_path)
    with wire(shy) as served:
        grades = graded(tmp_path, served.url, conversations, concurrency=1)
    assert (grades.n_graded, grades.unread) == (6, 2)
    assert grades.notes[-1] == "2 grades cannot be read and are left out, as FastChat does"
    flat = [stars(text) for one in conversations[1:] for text in one.turns]
    assert grades.score == pytest.approx(sum(flat) / 6)
    assert [row["score"] for row in judgments(tmp_path)][:2] == [-1, -1]

    async def mute(received: ReceivedRequest) -> Response:
        return JSONResponse({"choices": [{"message": {"content": "No."}}]})

    with wire(mute) as served, pytest.raises(ConfigError, match="none of 2 grades can be read"):
        grade(conversations[:1], ChatJudge(served.url, "judge"), tmp_path / "mute", name="toy", progress=False)


def test_the_interval_draws_whole_questions(tmp_path: Path) -> None:
    """Two turns of a question belong together: 80 grades of 40 questions that agree say no more than 40 would."""
    from darwin_align.evaluation.mt_grades import _mean

    scores = [1 + (7 * i) % 10 for i in range(40)]
    one = [{"question_id": i, "score": score, "turn": 1} for i, score in enumerate(scores)]
    both = [{**line, "turn": turn} for line in one for turn in (1, 2)]
    (mean, interval), (other, wider) = _mean(one), _mean(both)
    assert mean == other
    assert interval == pytest.approx(wider)
