"""``darwin-align plan``: from a dry run's usage to hours and GPUs."""

import json
from pathlib import Path

import pytest

from darwin_align import SearchConfig
from darwin_align.batch.throughput import Demand, Speeds, plan_batch
from darwin_align.cli import main
from darwin_align.core import Usage
from darwin_align.core.errors import ConfigError
from darwin_align.pocket import held_out
from tests.batch.kit import write_lines

SPEEDS = ["--policy-tps", "1000", "--reward-tps", "10000", "--prompts", "1000", "--gpus", "8"]
QUICK = ["--set", "cycles=1", "--set", "mutations=2", "--set", "max_tokens=24"]


def test_a_plan_is_the_same_from_a_dry_run_and_from_a_batchs_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_lines(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in held_out(3)])
    assert main(["plan", str(prompts), "--dry-run", "3", "--json", *SPEEDS, *QUICK]) == 0
    run = json.loads(capsys.readouterr().out)
    out = ["--out", str(tmp_path / "out.jsonl"), "--concurrency", "1", "--json"]
    assert main(["batch", str(prompts), *out, *QUICK]) == 0
    (tmp_path / "usage.json").write_text(summary := capsys.readouterr().out)
    usage = json.loads(summary)["usage"]
    assert run["demand"]["decoded"] == usage["decoded_tokens"] / 3
    assert main(["plan", "--usage", str(tmp_path / "usage.json"), "--json", *SPEEDS, *QUICK]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["dry_run"] == 3
    assert read["demand"]["decoded"] == run["demand"]["decoded"]
    assert read["demand"]["width"] == 0.75 * 3
    assert read["policy_gpus"] + read["reward_gpus"] == 8
    assert main(["plan", "--usage", str(tmp_path / "usage.json"), *SPEEDS, *QUICK]) == 0
    text = capsys.readouterr().out
    assert f"hours            {read['seconds'] / 3600:.2f} for 1,000 prompts" in text
    assert f"bottleneck       {read['bottleneck']}" in text
    assert f"{usage['decoded_tokens'] / 3:,.0f} tokens decoded" in text


def test_gpus_are_shared_out_and_the_slower_side_sets_the_pace() -> None:
    demand = Demand(decoded=1000, prefilled=0, scored=1000, width=5)
    speeds = Speeds(policy=1000, reward=1000, prefill=1000, rows=50)
    even = plan_batch(demand, speeds, prompts=10**6, gpus=8)
    assert (even.policy_gpus, even.reward_gpus, even.per_second) == (4, 4, 4.0)
    assert (even.policy_busy, even.reward_busy) == (1, 1)
    assert even.requests_in_flight == 4 * 50
    odd = plan_batch(demand, speeds, prompts=10**6, gpus=3)
    assert (odd.per_second, odd.policy_busy + odd.reward_busy) == (1, 1.5)
    alone = plan_batch(demand, speeds, prompts=10**6, gpus=1)
    assert (alone.per_second, alone.reward_gpus) == (0.5, 0)
    few = plan_batch(demand, speeds, prompts=3, gpus=8)
    assert few.prompts_in_flight == 3


def test_caches_lower_what_is_read_and_a_plain_sample_is_one_row() -> None:
    usage = Usage(decoded_tokens=100, prefilled_tokens=1000, reward_tokens=1000)
    config = SearchConfig.preset("sample")
    demand = Demand.of(usage, 10, config, policy_hits=0.75, reward_hits=0.5)
    assert (demand.decoded, demand.prefilled, demand.scored, demand.width) == (10, 25, 50, 1)
    with pytest.raises(ConfigError, match="less than 1"):
        Demand.of(usage, 10, config, policy_hits=1)
    with pytest.raises(ConfigError, match="decoded nothing"):
        Demand.of(Usage(), 10, config)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give prompts for a dry run, or --usage"),
        (["in.jsonl", "--usage", "x"], "one of them"),
        (["--usage", "in.jsonl"], "is not what `darwin-align batch … --json` prints"),
        (["--usage", "nowhere"], "cannot be read"),
        (["--usage", "again.json"], "again.json is of a run that answered nothing new"),
        (["in.jsonl", "--dry-run", "0"], "give 1 or more"),
        (["in.jsonl", "--rows", "0"], "measure them on one GPU"),
    ],
)
def test_bad_usage_says_what_to_change(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "in.jsonl", [{"prompt": "Hi."}])
    write_lines(tmp_path / "again.json", [{"new": 0, "usage": {"decoded_tokens": 0}}])
    assert main(["plan", *options, *SPEEDS]) == 2
    assert says in capsys.readouterr().err
