"""``eval prompts``: whole prompts first, records that resume, gold outside the search, and figures by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from darwin_align import DarwinSearch
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.cli import main
from darwin_align.core.errors import ConfigError
from darwin_align.evaluation.methods import Method
from darwin_align.evaluation.prompts import measure, page, read_prompts, summary, table
from tests.evaluation.kit import Whole

WORDS = ("red", "green", "blue")
METHODS = ("sample", "five: best_of_n", "wide: best_of_n mutations=8", "darwin cycles=1 mutator=aspects")


def written(tmp_path: Path, *prompts: dict[str, Any]) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    messages = [{"role": "user", "content": f"Name {WORDS[1]} things."}]
    return written(tmp_path, {"prompt": "Name red things."}, {"messages": messages}, {"instruction": "Name blue ones."})


def methods(*texts: str) -> list[Method]:
    return [Method.of(text, max_new_tokens=6, replacement_period=2) for text in texts]


def search_of(method: Method) -> DarwinSearch:
    reward = ScriptedScorer(reward=lambda text: float(text.split().count("red")))
    policy = ScriptedPolicy(list(WORDS), length=6)
    return DarwinSearch(policy=policy, scorer=reward, config=method.config, sampling=method.sampling)


def gold() -> ScriptedScorer:
    return ScriptedScorer(reward=lambda text: float(text.split().count("green")))


def run(file: Path, out: Path, *texts: str, **changes: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"settings": {"models": "words"}, "progress": False, **changes}
    return measure(methods(*texts), read_prompts(file), given.pop("search_of", search_of), gold, out, **given)


def test_answers_are_judged_by_gold_and_their_cost_is_recorded(file: Path, tmp_path: Path) -> None:
    records = run(file, tmp_path / "out", *METHODS)
    assert len(records) == 3 * len(METHODS)
    for one in records:
        assert one["gold"] == one["output"].split().count("green")
        assert one["reward"] == one["output"].split().count("red")
        assert (one["decoded_tokens"] > 6) == (one["method"] != "sample")
        assert one["seconds"] > 0
    order = [one["key"] for one in records]
    assert order == sorted(order, key=order.index), "a prompt is answered by all methods before the next one"


def test_a_run_goes_on_where_it_was_cut(file: Path, tmp_path: Path) -> None:
    whole = run(file, tmp_path / "whole", *METHODS)
    lines = (tmp_path / "whole" / "searches.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "searches.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:30])
    again = run(file, tmp_path / "cut", *METHODS)
    timeless = [[{k: v for k, v in one.items() if k != "seconds"} for one in records] for records in (whole, again)]
    assert timeless[0] == timeless[1]

    def refuse(_: Method) -> DarwinSearch:
        raise AssertionError("everything is recorded")

    assert run(file, tmp_path / "whole", *METHODS, search_of=refuse) == whole
    with pytest.raises(ConfigError, match="begun under other settings"):
        run(file, tmp_path / "whole", *METHODS, settings={"models": "others"})


def record(method: str, key: str, gold: float, tokens: int, words: int = 9) -> dict[str, Any]:
    figures = {"reward": 0.5, "words": words, "decoded_tokens": tokens, "reward_calls": 1, "reward_tokens": 9}
    return {"method": method, "seed": 0, "key": key, "gold": gold, "exploration": {}, **figures}


def test_best_of_n_is_read_off_at_equal_cost() -> None:
    chosen = methods("sample", "best_of_n", "darwin")
    records = [
        *(record("sample", key, value, 100) for key, value in (("a", 0.0), ("b", 1.0))),
        *(record("best_of_n", key, value, 500) for key, value in (("a", 2.0), ("b", 1.0))),
        *(record("darwin", key, value, 400) for key, value in (("a", 2.0), ("b", 3.0))),
    ]
    found = summary(chosen, records, against=["sample"])
    darwin = found.methods[2]
    # At 400 tokens the line is three quarters of the way: 1.5 for a, 1.0 for b.
    assert darwin.at_equal["decoded_tokens"].mean == pytest.approx(((2.0 - 1.5) + (3.0 - 1.0)) / 2)
    assert darwin.differences["sample"].mean == 2.0
    assert not found.methods[0].at_equal
    assert "seconds" not in darwin.means
    dear = [{**one, "decoded_tokens": 900} if one["method"] == "darwin" else one for one in records]
    assert not summary(chosen, dear).methods[2].at_equal, "nothing is made up beyond the widest one"


def test_gold_at_length_takes_the_slope_within_prompts_off() -> None:
    chosen = methods("sample", "best_of_n")
    records = [
        *(record("sample", key, base, 100, words=9) for key, base in (("a", 0.0), ("b", 5.0))),
        *(record("best_of_n", key, base + 2.0, 500, words=99) for key, base in (("a", 0.0), ("b", 5.0))),
    ]
    found = summary(chosen, records)
    assert found.length_slope == pytest.approx(2.0)
    assert found.methods[0].means["gold_at_length"].mean == pytest.approx(found.methods[1].means["gold_at_length"].mean)


def test_prompts_that_do_not_fit_are_left_out_for_all_methods() -> None:
    chosen = methods("sample", "best_of_n")
    records = [record("sample", key, 1.0, 100) for key in "ab"] + [record("best_of_n", "a", 2.0, 500)]
    records += [{"method": "best_of_n", "seed": 0, "key": "b", "output": "", "error": "too long"}]
    found = summary(chosen, records)
    assert (found.prompts, found.methods[1].failed, found.methods[0].means["gold"].mean) == (1, 1, 1.0)
    with pytest.raises(ConfigError, match="no prompt was answered by all"):
        summary(chosen, records[-1:])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "Hi"}], "line 1: the prompt is missing"),
        ([{"prompt": "Hi"}, {"prompt": "Hi"}], "line 2: this prompt is there twice"),
        ([{"prompt": ""}], "line 1: 'prompt' must be a text"),
    ],
)
def test_files_that_hold_no_prompts_are_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_prompts(written(tmp_path, *rows))


def test_the_order_is_drawn_and_the_table_and_page_are_whole(file: Path, tmp_path: Path) -> None:
    assert read_prompts(file) == read_prompts(file)
    orders = {tuple(one.key for one in read_prompts(file, seed=seed)) for seed in range(9)}
    assert len(orders) > 1
    found = summary(methods(*METHODS), run(file, tmp_path / "out", *METHODS), against=["five"])
    shown = table(found)
    assert "3 prompts" in shown
    assert "less five's" in shown
    assert "at equal tokens" in shown
    parser = Whole()
    parser.feed(page(found))
    assert not parser.open


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gold", "nowhere/none"], "nowhere"),
        (["--against", "dawrin"], "no method is called 'dawrin'"),
        (["--seed", "1", "--seeds", "2"], "--seed and --seeds"),
    ],
)
def test_the_command_refuses(file: Path, tmp_path: Path, capsys: Any, options: list[str], message: str) -> None:
    try:
        code: object = main(["eval", "prompts", str(file), "--out", str(tmp_path / "out"), *options])
    except SystemExit as stop:
        code = stop.code
    assert code
    assert message in capsys.readouterr().err
