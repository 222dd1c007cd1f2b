"""The benchmark of choices on a recorded pool: its parts, and the tables that the documents show of its results."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pool_budgets import against_best, answers_until_stop, needed, shared_budget
from benchmarks.pools import RESULTS, SCORERS, budgets_table, choices_table, main
from tests.evaluation.kit import write_pool

ROOT = Path(__file__).parents[2]


def test_the_documents_show_the_results() -> None:
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert set(data["scorers"]) == set(SCORERS)
    assert choices_table(data) in (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert budgets_table(data) in (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")


def test_a_search_that_found_its_best_stops_and_another_goes_on() -> None:
    lucky, even = [0.0, 0.1, 6.0, 0.2, 0.1, 0.0], [0.0, 0.5, 1.0, 0.2, 0.9, 0.4]
    taken = answers_until_stop(np.array([lucky, even]), cost=0.12, usual=1.0)
    assert taken[0] == 3
    assert taken[1] > 3
    assert list(answers_until_stop(np.array([lucky, even]), cost=0.0, usual=1.0)) == [6, 6]
    assert list(answers_until_stop(np.array([lucky, even]), cost=99.0, usual=None)) == [3, 3]


@pytest.mark.parametrize("usual", [None, 1.0])
def test_a_shared_budget_goes_where_rewards_differ(usual: float | None) -> None:
    explored = np.array([[0.0, 0.5, 1.0], [0.0, 5.0, 5.0]])
    given = shared_budget(explored, 5, 4, usual)
    assert given.sum() == 5
    assert 4 >= given[1] > given[0]


def test_equal_answers_are_compared_with_best_of_n() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(50, 3, 8))
    fixed = against_best(rewards, rewards, np.full((50, 3), 5), 0.0, 0)
    assert fixed["gain"]["mean"] == pytest.approx(0.0)
    assert fixed["saved_at_verdict"] == pytest.approx(0.0)
    oracle = np.maximum(1, rewards.argmax(axis=2) + 1)  # stops at the best of all, as nobody can
    assert against_best(rewards, rewards, oracle, 0.0, 0)["saved_at_reward"] > 0.3
    assert needed(np.array([0.0, 1.0, 1.5]), 1.25) == 2.5
    assert needed(np.array([0.0, 1.0]), 7.0) == 2.0


@pytest.mark.slow
def test_it_runs_on_a_small_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = write_pool(tmp_path / "pool.jsonl", 80, answers=11)
    main([str(pool), "--draws", "1", "--results", str(tmp_path / "out.json")])
    assert "## hacked" in capsys.readouterr().out
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["prompts"] == 80
    assert choices_table(data).count("\n") == 8
