"""Recorded pools: files as users have them, figures that are known by construction, and rewards that are kept."""

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from darwin_align import Request, Response
from darwin_align.cli import main
from darwin_align.core.calibration import expected_best
from darwin_align.core.errors import ConfigError, RewardError
from darwin_align.core.seeds import uniform
from darwin_align.evaluation.intervals import Bootstrap
from darwin_align.evaluation.pools import Chooser, PooledPrompt, pool_figures, pooled_prompt, read_pool, score_pool
from darwin_align.evaluation.pools.figures import Scored, widths
from tests.evaluation.kit import official, write_pool

GOOD = {"prompt": "Name a fruit.", "answers": ["An apple.", "A pear, say.", "No."], "verdicts": [0.9, 0.8, 0.1]}


def scored(prompts: int = 40, answers: int = 6, *, noise: float = 0.0) -> list[Scored]:
    """Verdicts by chance, answers of a length that says nothing, rewards that are the verdicts with noise."""
    made = []
    for p in range(prompts):
        verdicts = [uniform(0, "verdict", p, i) for i in range(answers)]
        texts = ["x" * (20 + int(40 * uniform(0, "length", p, i))) for i in range(answers)]
        rewards = tuple(v + noise * (uniform(0, "noise", p, i) - 0.5) for i, v in enumerate(verdicts))
        row = {"prompt": f"Question {p}?", "answers": texts, "verdicts": verdicts}
        made.append(Scored(pooled_prompt(row), rewards))
    return made


# -- files


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.jsonl.gz", "pool.json"])
def test_a_pool_is_read_packed_or_not_and_as_a_list(tmp_path: Path, name: str) -> None:
    rows = [GOOD, {**GOOD, "prompt": "Another?"}]
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    pool = read_pool(tmp_path / name)
    assert [prompt.request.instruction for prompt in pool] == ["Name a fruit.", "Another?"]
    assert pool[0].answers == tuple(GOOD["answers"])
    assert pool[0].verdicts == (0.9, 0.8, 0.1)
    assert pool[0].key != pool[1].key


def test_users_logs_and_the_recorded_pools_form() -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "2?"},
    ]
    log = pooled_prompt({"messages": turns, "answers": ["4", "5"], "verdicts": [True, 0], "latency": 3.2})
    assert len(log.request.conversation) == 3
    assert log.verdicts == (1.0, 0.0)
    recorded = {
        "instruction": "Go.", "answers": list("abcd"), "win": [0.1, None, 0.3], "picked": {"one": 3, "two": 2},
        "rewards": [1, 2, 3, 4], "system": "Be brief.",
    }  # fmt: skip
    prompt = pooled_prompt(recorded)
    assert (prompt.answers, prompt.verdicts, prompt.rewards) == (("a", "c"), (0.1, 0.3), (1.0, 3.0))
    assert prompt.picked == {"one": None, "two": 1}  # the fourth answer was not judged
    assert prompt.unjudged == 2
    assert prompt.request.conversation[0].role == "system"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (3, "a prompt with its answers is an object such as"),
        ({**GOOD, "prompt": None}, "the prompt is missing: give one of 'prompt', 'instruction', 'messages'"),
        ({**GOOD, "instruction": "x"}, "'prompt' and 'instruction' are both given"),
        ({**GOOD, "prompt": ["x"]}, "'prompt' must be a text"),
        ({**GOOD, "prompt": " "}, "the last human message has no text"),
        ({**GOOD, "answers": "abc"}, "'answers' must be a list of texts, not 'abc'"),
        ({**GOOD, "answers": ["a", 1]}, "'answers' must be a list of texts"),
        ({"prompt": "x", "answers": ["a", "b"]}, "the verdicts are missing: give one of 'verdicts', 'win'"),
        ({**GOOD, "verdicts": [1, 0, 1, 0]}, "there are 4 'verdicts' and 3 answers"),
        ({**GOOD, "verdicts": ["good", "bad"]}, "'verdicts' must be a list of finite numbers"),
        ({**GOOD, "verdicts": [1, float("nan")]}, "'verdicts' must be a list of finite numbers"),
        ({**GOOD, "verdicts": [1, None, None]}, "1 of 3 answers have a verdict: there is nothing to choose from"),
        ({**GOOD, "rewards": [1.0]}, "there are 1 'rewards' and more judged answers"),
        ({**GOOD, "picked": {"one": 3}}, "'picked' says that 'one' took answer 3: there are 0 to 2"),
        ({**GOOD, "system": 3}, "'system' must be a text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, says: str) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(row)}\n")
    with pytest.raises(ConfigError) as caught:
        read_pool(file)
    assert str(caught.value).startswith(f"{file}, line 3: ")
    assert says in str(caught.value)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    with pytest.raises(ConfigError, match=r"cannot read a pool from .*log.jsonl \(No such file"):
        read_pool(file)
    file.write_text("\n")
    with pytest.raises(ConfigError, match=r"log.jsonl holds no prompts: write one a line: \{"):
        read_pool(file)
    file.write_text("{'prompt': 1}")
    with pytest.raises(ConfigError, match=r"line 1, column 2: this is no JSON"):
        read_pool(file)
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps({**GOOD, 'rewards': [1, 2, 3]})}")
    with pytest.raises(ConfigError, match=r"1 of 2 prompts have 'rewards': give them to all or none"):
        read_pool(file)
    packed = tmp_path / "log.jsonl.gz"
    packed.write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"cannot read a pool from .*\(it is not packed by gzip\)"):
        read_pool(packed)
    packed.write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-12])
    with pytest.raises(ConfigError, match=r"\(its end is missing, or it is damaged\)"):
        read_pool(packed)


# -- figures


def test_the_best_of_n_is_worth_what_all_shuffles_together_say() -> None:
    pool = scored(noise=0.6)
    found = pool_figures(pool, [], [1, 3, 6], draws=200)
    for n in (1, 3, 6):
        exact = fmean(expected_best(one.rewards, one.prompt.verdicts, n) for one in pool)
        assert found.row("best", n).verdict.mean == pytest.approx(exact, abs=0.01)
    assert found.random.mean == pytest.approx(fmean(fmean(one.prompt.verdicts) for one in pool))
    assert found.oracle.mean == pytest.approx(fmean(max(one.prompt.verdicts) for one in pool))
    assert found.random.mean < found.row("best", 6).verdict.mean < found.oracle.mean


def test_an_order_by_length_earns_nothing_as_answers_are_shuffled() -> None:
    """As in the recorded pool: later answers are longer, and longer ones better."""
    pool = []
    for p in range(30):
        row = {
            "prompt": f"{p}?",
            "answers": ["x" * (10 * i + 1) for i in range(6)],
            "verdicts": [i / 5 for i in range(6)],
        }
        pool.append(Scored(pooled_prompt(row), tuple(uniform(0, "reward", p, i) for i in range(6))))
    found = pool_figures(pool, [], [1, 2, 6], draws=40)
    assert found.row("best", 1).verdict.mean == pytest.approx(0.5, abs=0.03)  # the first of a file is 0.0
    assert found.longest.mean == found.oracle.mean == 1.0
    assert found.length_and_verdict is not None
    assert found.length_and_verdict.mean == pytest.approx(1.0)
    assert pool_figures(pool, [], [1, 2, 6], draws=40) == found
    assert pool_figures(pool, [], [1, 2, 6], draws=40, seed=1) != found


def test_a_drawn_choice_lies_between_a_random_answer_and_the_best() -> None:
    pool = scored()
    names = [f"{choice} reward_temperature={t}" for choice in ("soft",) for t in (0.01, 0.2, 100)]
    found = pool_figures(pool, [Chooser.of(name) for name in names], [2, 6])
    best, random = found.row("best", 6).verdict.mean, found.random.mean
    for choice in ("soft",):
        greedy, middle, plain = (
            found.row(f"{choice} reward_temperature={t}", 6).verdict.mean for t in ("0.01", "0.2", "100")
        )
        assert greedy == pytest.approx(best, abs=0.02)
        assert plain == pytest.approx(random, abs=0.01)
        assert random + 0.03 < middle < best - 0.01
        gain = found.row(f"{choice} reward_temperature=0.2", 6).gain
        assert gain is not None
        assert gain.mean == pytest.approx(middle - best)
        assert gain.low <= gain.mean <= gain.high < 0


def test_over_optimisation_is_found_where_it_is_and_nowhere_else() -> None:
    """Each prompt has one answer that the reward takes for the best by far, and that is the worst."""
    hacked = []
    for one in scored(prompts=60):
        verdicts = (0.0, *one.prompt.verdicts[1:])
        prompt = PooledPrompt(one.prompt.request, one.prompt.answers, verdicts)
        hacked.append(Scored(prompt, (5.0, *verdicts[1:])))
    best, soft = pool_figures(hacked, [Chooser.of("soft reward_temperature=4")], [1, 2, 6]).overoptimisation
    assert best.found
    assert (best.peak, best.last) == (2, 6) or (best.peak, best.last) == (1, 6)
    assert best.fall.high < 0 < best.rise
    assert soft.fall.mean > best.fall.mean
    for one in pool_figures(scored(), [Chooser.of("soft reward_temperature=0.2")], [1, 2, 6]).overoptimisation:
        assert not one.found
        assert one.peak == 6


def test_agreement_of_reward_length_and_verdict() -> None:
    found = pool_figures(scored(), [], [6])
    assert found.reward_and_verdict is not None
    assert found.reward_and_verdict.mean == pytest.approx(1.0)
    assert found.reward_and_length is not None
    assert abs(found.reward_and_length.mean) < 0.2
    assert found.pair_accuracy is not None
    assert found.pair_accuracy.mean == 1.0
    assert found.pairs > 20
    flat = [Scored(one.prompt, (1.0,) * 6) for one in scored()]
    same = pool_figures(flat, [], [6])
    assert same.reward_and_verdict is None
    assert same.pair_accuracy is not None
    assert same.pair_accuracy.mean == 0.5


def test_recorded_picks_are_compared_with_a_random_answer_to_the_same_prompts() -> None:
    pool = [
        Scored(PooledPrompt(one.prompt.request, one.prompt.answers, one.prompt.verdicts,
                            picked={"oracle": max(range(6), key=one.prompt.verdicts.__getitem__) if p % 2 else None}),
               one.rewards)
        for p, one in enumerate(scored())
    ]  # fmt: skip
    judged, taken, beside = pool_figures(pool, [], [6]).picked["oracle"]
    half = [one.prompt.verdicts for one in pool[1::2]]
    assert judged == 20
    assert taken.mean == pytest.approx(fmean(map(max, half)))
    assert beside.mean == pytest.approx(fmean(map(fmean, half)))


def test_an_interval_covers_what_it_should() -> None:
    covered = 0
    for trial in range(200):
        estimate = Bootstrap(60, trial).mean([uniform(trial, "value", i) for i in range(60)])
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.89 < covered / 200 <= 0.99
    assert Bootstrap(3, 0).ratio([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) is None
    ratio = Bootstrap(30, 0).ratio([2.0] * 30, [4.0] * 30)
    assert ratio is not None
    assert (ratio.mean, ratio.low, ratio.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("softly", "did you mean|refused"),
        ("soft", None),
        ("soft reward_temperature=0", "reward_temperature=0 leaves nothing to chance"),
        ("best reward_temperature=1", "reward_temperature only serves"),
        ("soft cycles=3", "'cycles=3' is no setting of a choice among given answers"),
    ],
)
def test_choices_are_those_of_a_search(text: str, says: str | None) -> None:
    if says is None:
        assert Chooser.of(text).temperature == 1.0
        return
    with pytest.raises(ConfigError, match=says):
        Chooser.of(text)


def test_what_tells_nothing_is_refused() -> None:
    pool = scored(prompts=3)
    prompts = [one.prompt for one in pool]
    assert widths(prompts, None) == [1, 2, 4, 6]
    assert widths(prompts, [6, 2, 2]) == [2, 6]
    for wanted, says in ([0], "choose among 1 answer or more"), ([7], "no prompt has more than 6 judged answers"):
        with pytest.raises(ConfigError, match=says):
            widths(prompts, wanted)
    for arguments, says in (
        ((pool[:1], [], [6]), "1 prompts tell nothing"),
        ((pool, [], [7]), "a prompt has fewer than 7 judged answers"),
    ):
        with pytest.raises(ConfigError, match=says):
            pool_figures(*arguments)


# -- rewards


class Counting:
    """Likes long answers, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, request: Request, responses: Sequence[Response]) -> list[float]:
        self.calls += 1
        return [float(len(response.text)) for response in responses]


def test_kept_rewards_are_not_asked_for_again(tmp_path: Path) -> None:
    pool, scorer = [one.prompt for one in scored(prompts=5)], Counting()
    first = score_pool(pool[:3], lambda: scorer, tmp_path, scorer={"name": "length"}, progress=False)
    assert first.rewards[0] == tuple(float(len(answer)) for answer in pool[0].answers)
    assert scorer.calls == 3
    more = score_pool(pool, lambda: scorer, tmp_path, scorer={"name": "length"}, progress=False)
    assert scorer.calls == 5
    assert more.rewards[:3] == first.rewards

    def never() -> Counting:
        raise AssertionError("the scorer was loaded, and all rewards are kept")

    again = score_pool(pool[::-1], never, tmp_path, scorer={"name": "length"}, progress=False)
    assert again.rewards == more.rewards[::-1]
    with pytest.raises(ConfigError, match=r"was begun under other settings: scorer.name was \"length\""):
        score_pool(pool, never, tmp_path, scorer={"name": "other"}, progress=False)


def test_a_broken_scorer_is_named_with_the_prompt(tmp_path: Path) -> None:
    pool = [one.prompt for one in scored(prompts=2)]
    with pytest.raises(RewardError, match=r"the answers to 'Question \d\?': .* must be finite"):
        score_pool(pool, lambda: lambda request, responses: [float("nan")] * len(responses), tmp_path,
                   scorer={"name": "nan"}, progress=False)  # fmt: skip


# -- the command

SCORER = """
def length(request, responses):
    return [float(len(response.text)) for response in responses]
"""


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    try:
        code = main(["eval", "pool", *map(str, arguments)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prints_a_table_and_keeps_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, code_file, out = write_pool(tmp_path / "log.jsonl"), tmp_path / "mine.py", tmp_path / "out"
    code_file.write_text(SCORER)
    line = (file, "--reward", f"{code_file}:length", "--choice", "soft reward_temperature=20", "--out", out)
    code, text, err = command(capsys, *line)
    assert code == 0, err
    for row in (
        r"best +1 ",
        r"best +5 ",
        r"soft reward_temperature=20 +5 ",
        r"a random answer",
        r"the longest +5 ",
    ):
        assert re.search(rf"^{row}", text, re.MULTILINE), text
    data = json.loads((out / "results.json").read_text())
    assert data["prompts"] == 30
    assert {(row["choice"], row["n"]) for row in data["rows"]} >= {("best", 1), ("best", 2), ("best", 4), ("best", 5)}
    longest = next(row for row in data["rows"] if (row["choice"], row["n"]) == ("best", 5))
    assert longest["verdict"] == data["longest"]
    code_file.write_text("raise SystemExit('it is not loaded again')\n" + SCORER)
    code, again, err = command(capsys, *line, "--json")
    assert code == 0, err
    assert json.loads(again) == data


def test_recorded_rewards_and_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_pool(tmp_path / "log.jsonl", rewards=True)
    code, text, err = command(capsys, file, "--calibrate", "20", "--out", tmp_path / "out")
    assert code == 0, err
    assert text.startswith("recorded rewards on log.jsonl")
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    assert data["prompts"] == 10
    assert set(data["calibrations"]) == {"n", "soft"}
    assert data["calibrations"]["n"]["prompts"] == 20
    assert not (tmp_path / "out" / "rewards.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--n", "9"], "n=9 is too many: no prompt has more than 5 judged answers"),
        (["--calibrate", "29"], "--calibrate 29 of 30 prompts is impossible: give 2 or more, and leave 2"),
        (["--choice", "sof"], "SearchConfig.choice = 'sof' is refused"),
        (["--dialect", "vllm"], "--dialect needs --url"),
    ],
)
def test_the_command_refuses_what_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    file = write_pool(tmp_path / "log.jsonl", rewards=True)
    code, _, err = command(capsys, file, *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert says in err


def test_the_recorded_pool_has_the_figures_that_are_known_of_it() -> None:
    pool = read_pool(official("real/bon_pool.jsonl.gz"))
    assert len(pool) == 605
    assert {(len(prompt.answers), prompt.unjudged) for prompt in pool} == {(11, 5)}
    assert fmean(fmean(prompt.verdicts) for prompt in pool) == pytest.approx(0.318, abs=5e-4)
    assert fmean(max(prompt.verdicts) for prompt in pool) == pytest.approx(0.595, abs=5e-4)
    longest = [max(range(11), key=lambda i, texts=prompt.answers: len(texts[i])) for prompt in pool]
    assert fmean(p.verdicts[i] for p, i in zip(pool, longest, strict=True)) == pytest.approx(0.367, abs=1e-3)
