"""``eval ifeval``: equal tokens, records that resume, and figures by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from darwin_align import DarwinSearch
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.cli import main
from darwin_align.core.errors import ConfigError
from darwin_align.evaluation.ifeval import Instruction, Prompt, measure, rules_of, summary, table
from darwin_align.evaluation.methods import Method
from darwin_align.pocket import pair

QUICK = ("max_new_tokens=8", "replacement_period=2", "mutator=identity")
"""Settings under which the scripted policy's answers of eight words are replaced three times."""


def prompt(key: int, **kinds: dict[str, Any]) -> Prompt:
    return Prompt(key, f"Prompt {key}.", tuple(Instruction(kind, rules_of(kind, one)) for kind, one in kinds.items()))


WITHOUT_RED = prompt(
    1,
    **{
        "keywords:forbidden_words": {"forbidden_words": ["red"]},
        "keywords:frequency": {"keyword": "green", "relation": "at least", "frequency": 4},
    },
)
IMPOSSIBLE = prompt(
    2, **{"startend:end_checker": {"end_phrase": "grey"}, "keywords:existence": {"keywords": ["green"]}}
)
PROMPTS = (WITHOUT_RED, IMPOSSIBLE)


def methods(*texts: str, tokens: int = 200) -> list[Method]:
    return [Method.of(" ".join([text, *QUICK])).until_spent(tokens, reward_ends=1.0) for text in texts]


class Searches:
    """Makes searches over words, and counts them."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, method: Method, prompt: Prompt) -> DarwinSearch:
        self.made += 1
        policy = ScriptedPolicy(["red", "green", "blue"], length=8)
        return DarwinSearch(policy=policy, scorer=prompt.scorer, config=method.config, sampling=method.sampling)


def run(chosen: list[Method], out: Path, searches: Searches, **changes: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"settings": {"models": "words"}, "seeds": (0, 1), "progress": False, **changes}
    return measure(chosen, given.pop("prompts", PROMPTS), searches, out, **given)


def test_a_search_ends_at_its_tokens_or_when_all_rules_are_kept(tmp_path: Path) -> None:
    chosen = methods("best_of_n", "sample_replace", tokens=600)
    records = run(chosen, tmp_path, Searches())
    assert len(records) == 2 * 2 * 2
    for record in records:
        if record["key"] == 2:  # no answer ends so: all tokens are spent
            assert record["stop_reason"] == "budget: tokens"
            assert 600 <= record["decoded_tokens"] < 600 + 5 * 8
            assert record["strict"] == [False, True]
        elif record["reward"] == 1.0:
            assert record["strict"] == [True, True]
            assert record["stop_reason"] != "budget: tokens"
    assert any(record["reward"] == 1.0 for record in records)


def test_a_run_goes_on_where_it_was_cut_and_a_rerun_makes_no_search(tmp_path: Path) -> None:
    chosen, searches = methods("sample", "sample_replace"), Searches()
    whole = run(chosen, tmp_path / "whole", searches)
    assert searches.made == 8
    assert run(chosen, tmp_path / "whole", searches) == whole
    assert searches.made == 8
    lines = (tmp_path / "whole" / "searches.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "searches.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    again = run(chosen, tmp_path / "cut", searches)
    assert searches.made == 8 + 5
    timeless = [[{k: v for k, v in one.items() if k != "seconds"} for one in records] for records in (whole, again)]
    assert timeless[0] == timeless[1]
    with pytest.raises(ConfigError, match="begun under other settings"):
        run(chosen, tmp_path / "whole", searches, settings={"models": "others"})
    run(chosen, tmp_path / "whole", searches, prompts=(WITHOUT_RED, prompt(2, **{"punctuation:no_comma": {}})))
    assert searches.made == 8 + 5 + 4, "a prompt that was changed is answered anew"


def record(
    method: Method, key: int, strict: list[bool], loose: list[bool] | None = None, seed: int = 0
) -> dict[str, Any]:
    figures = {"reward": 0.5, "decoded_tokens": 100, "reward_calls": 3, "seconds": 2.0}
    return {"method": method.text, "seed": seed, "key": key, "strict": strict, "loose": loose or strict, **figures}


def test_accuracies_by_hand() -> None:
    one, two = methods("sample", "best_of_n")
    records = [
        record(one, 1, [True, False], [True, True]),
        record(one, 2, [False, True]),
        record(two, 1, [True, True]),
        record(two, 2, [False, True]),
    ]
    found = summary([one, two], PROMPTS, records, against=[two.label])
    first, second = found.methods
    assert (found.prompts, found.instructions, found.group_sizes) == (2, 4, {"broken": 1, "kept": 2, "end": 1})
    assert (first.prompt_strict, first.prompt_loose) == (0.0, 0.5)
    assert (first.instruction_strict, first.instruction_loose) == (0.5, 0.75)
    assert first.groups == {"broken": 1.0, "kept": 0.5, "end": 0.0}
    assert first.kinds["keywords:frequency"] == {"instructions": 1, "strict": 0.0, "loose": 1.0}
    assert (second.prompt_strict, second.groups["kept"], second.tokens, first.tokens) == (0.5, 1.0, 200, None)
    less = first.differences[two.label]
    assert (less["prompt_strict"].mean, less["kept"].mean, less["broken"].mean) == (-0.5, -0.5, 0.0)
    assert less["prompt_strict"].low <= -0.5 <= less["prompt_strict"].high
    assert second.differences == {}
    shown = table(found)
    assert "2 prompts, 4 instructions" in shown
    assert "can break (1)" in shown
    assert "-50.0 [" in shown


def test_seeds_are_averaged() -> None:
    [one] = methods("sample")
    records = [record(one, key, [key == 1 and seed == 0] * 2, seed=seed) for key in (1, 2) for seed in (0, 1)]
    [found] = summary([one], PROMPTS, records).methods
    assert (found.prompt_strict, found.instruction_strict, found.searches) == (0.25, 0.25, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best_of", "unknown preset 'best_of': did you mean 'best_of_n'"),
        ("darwin cycle=2", "cycles"),
        ("darwin cycles", "is no pair"),
    ],
)
def test_methods_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Method.of(text)


def test_labels_are_told_apart() -> None:
    with pytest.raises(ConfigError, match="two methods are called"):
        run(methods("sample", "sample"), Path("none"), Searches())
    [one] = methods("sample")
    with pytest.raises(ConfigError, match="no method is called 'best'"):
        summary([one], PROMPTS, [], against=["best"])


# -- the command


def write(path: Path) -> Path:
    rows = [
        {
            "key": 7,
            "prompt": "How do I brew green tea?",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        },
        {
            "key": 8,
            "prompt": "How do I fry pancakes?",
            "instruction_id_list": ["length_constraints:number_words", "startend:quotation"],
            "kwargs": [{"relation": "less than", "num_words": 12}, {}],
        },
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_compares_methods_and_a_rerun_loads_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["eval", "ifeval", str(write(tmp_path / "prompts.jsonl")), "sample", "best_of_n", "quick: sample_replace"]
    options += ["--set", "max_tokens=24", "--tokens", "150", "--out", str(tmp_path / "out"), "--seed", "3"]
    assert main(options) == 0
    text = capsys.readouterr().out
    assert "2 prompts, 3 instructions" in text
    assert "less best_of_n" in text
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [one["label"] for one in results["methods"]] == ["sample", "best_of_n", "quick"]
    assert results["models"] == {"policy": "embedded", "reward": "rules"}
    assert all(one["kinds"]["punctuation:no_comma"]["instructions"] == 1 for one in results["methods"])

    def refuse(*given: Any, **more: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(pair, "pocket_search", refuse)
    assert main([*options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == results


def test_a_scorer_of_ones_own_replaces_the_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer = tmp_path / "shorter.py"
    scorer.write_text("def score(request, responses):\n    return [-len(one.text) for one in responses]\n")
    options = ["eval", "ifeval", str(write(tmp_path / "prompts.jsonl")), "best_of_n", "--limit", "1", "--json"]
    options += ["--set", "max_tokens=24", "--tokens", "100", "--out", str(tmp_path / "out")]
    assert main([*options, "--reward", f"{scorer}:score"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["methods"][0]["reward"] < -1
    assert results["prompts"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sample", "--preset", "darwin"], "--preset gives one method"),
        (["--seeds", "1", "--seed", "1"], "--seed and --seeds are both given"),
        (["--reward", "rules", "--reward-url", "http://127.0.0.1:1"], "--reward is a local model"),
        (["--against", "best"], "no method is called 'best'"),
    ],
)
def test_options_that_contradict_each_other(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "ifeval", str(write(tmp_path / "prompts.jsonl")), *options]) != 0
    assert message in capsys.readouterr().err
